"""``charlm train``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

import typer

from charlm.arguments import check_device_name
from charlm.cli.grouped_help import GroupedCommand
from charlm.cli.options import (
    AsTextOption,
    ColumnOption,
    DelimiterOption,
    DeviceOption,
    DocumentStartOption,
    EncodingOption,
    ErrorsOption,
    JsonOption,
    completing,
)
from charlm.cli.texts import check_files, wait_for_stdin
from charlm.config import TrainingConfig
from charlm.errors import UsageError
from charlm.system.processes import is_first_process, is_restarted
from charlm.training.observers import ObserverOptions
from charlm.training.options import (
    DropoutOptions,
    OptimizationOptions,
    ShapeOptions,
    TrainingOptions,
    check_options,
    command_line_name,
    definitions,
)
from charlm.training.recipe import validate

if TYPE_CHECKING:
    from charlm.runs import RunOptions
    from charlm.training.text_options import TextOptions


class TrainCommand(GroupedCommand):
    """``charlm train``, whose help has its many options in groups, those of most interest first."""

    groups: ClassVar = {
        "Text": (
            "demo", "tokenizer", "encoding", "errors", "normalize", "documents", "document_start", "distinct", "column",
            "given", "delimiter", "as_text", "split", "valid", "test",
        ),
        "Limit": ("time", "epochs", "steps"),
        "Run": (
            "out", "resume", "init_from", "teacher", "save_every", "eval_every", "seed", "plot", "tensorboard", "quiet",
            "json", "help",
        ),
        "Machine": ("device", "precision", "threads"),
        "Model": (*definitions(ShapeOptions), *definitions(DropoutOptions)),
        "Training": tuple(definitions(OptimizationOptions)),
    }  # fmt: skip

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Let ``--tensorboard`` stand without a value, because the word after it may be a text."""
        end = args.index("--") if "--" in args else len(args)
        words = [_OWN_TENSORBOARD if word == "--tensorboard" else word for word in args[:end]]
        return list(super().parse_args(ctx, words + args[end:]))


_OWN_TENSORBOARD = "--tensorboard="

CommandT = TypeVar("CommandT", bound=Callable[..., None])


def _with_training_options(command: CommandT) -> CommandT:
    """Replace the ``**options`` of ``command``, in its signature, by one parameter for each training option.

    typer makes the command line from the signature. The options come before --device.
    """
    parameters = list(inspect.signature(command, eval_str=True).parameters.values())[:-1]
    generated = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                kinds[0] | None,
                typer.Option(
                    command_line_name(name),
                    help=option.text,
                    min=option.minimum,
                    max=option.maximum,
                    autocompletion=completing(option.choices) if option.choices else None,
                ),
            ],
        )
        for name, (kinds, option) in definitions(TrainingOptions).items()
    ]
    position = [parameter.name for parameter in parameters].index("device")
    parameters[position:position] = generated
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


@_with_training_options
def train(
    corpus: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="Text files or folders; - reads stdin.", show_default=False),
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Train on the Python language reference, which comes with Python.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run: --out DIR, or the newest.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="The run's folder. [default: checkpoints/NAME]")] = None,
    init_from: Annotated[
        Path | None, typer.Option("--init-from", help="Start from the weights of this run or step.")
    ] = None,
    teacher: Annotated[
        list[Path] | None,
        typer.Option(
            "--teacher",
            metavar="RUN",
            help="Learn from what this run predicts of the text; may be given several times, then from their mean.",
        ),
    ] = None,
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer",
            help="char (any text) or byte (any file).",
            autocompletion=completing(("char", "byte")),
        ),
    ] = "char",
    encoding: EncodingOption = "utf-8",
    errors: ErrorsOption = "strict",
    normalize: Annotated[
        str,
        typer.Option(
            "--normalize",
            help="Unicode normal form of all texts of the model: none, nfc or nfkc.",
            autocompletion=completing(("none", "nfc", "nfkc")),
        ),
    ] = "none",
    documents: Annotated[
        str | None,
        typer.Option(
            "--documents",
            help="Train on separate documents: lines, blank-lines (paragraphs) or files.",
            autocompletion=completing(("lines", "blank-lines", "files")),
        ),
    ] = None,
    document_start: DocumentStartOption = None,
    distinct: Annotated[bool, typer.Option("--distinct", help="Drop duplicate documents.")] = False,
    column: ColumnOption = None,
    given: Annotated[
        str | None,
        typer.Option("--given", metavar="NAME", help="Of a table, the column of the condition: learn texts given it."),
    ] = None,
    delimiter: DelimiterOption = None,
    as_text: AsTextOption = False,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            help="Percentages for train/valid/test; running text is cut in order, documents are shuffled first. "
            "[default: 90/5/5]",
        ),
    ] = None,
    valid: Annotated[str | None, typer.Option("--valid", help="A separate validation text.")] = None,
    test: Annotated[str | None, typer.Option("--test", help="A separate test text.")] = None,
    *,
    device: DeviceOption = "auto",
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            help="auto, fp32, bf16 or, on CUDA, fp16.",
            autocompletion=completing(("auto", "fp32", "bf16", "fp16")),
        ),
    ] = "auto",
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw the losses as RUN/curve.svg at each evaluation; needs matplotlib.")
    ] = False,
    tensorboard: Annotated[
        str | None,
        typer.Option(
            "--tensorboard",
            metavar="[=DIR]",
            help="Write for TensorBoard to RUN/tensorboard, or DIR/NAME; needs tensorboardX.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors, and the result.")] = False,
    json: JsonOption = False,
    **options: Any,
) -> None:
    """Train on a text. Without --epochs, --steps or --time, train until the validation loss stops improving.

    Without a validation text either, train for 30 epochs.
    """
    _check_sources(bool(corpus), demo, resume)
    training = check_options(options, TrainingOptions, "train")
    # All mistakes that can be found without torch are told before it is loaded.
    if is_first_process() and not is_restarted():
        _check_run(out, resume, [*([] if init_from is None else [init_from]), *(teacher or ())], training)
    validate(training, documents=any(option is not None for option in (documents, document_start, column)))
    check_files([*(corpus or ()), *(name for name in (valid, test) if name is not None)])
    from charlm.training.text_options import TextOptions, check_texts

    texts = TextOptions(
        corpus or (), valid, test, demo, tokenizer, encoding, split, documents, distinct,
        column, given, delimiter, as_text, document_start, errors, normalize)  # fmt: skip
    check_texts(texts, None)
    observers = ObserverOptions(plot, False if tensorboard is None else tensorboard or True)
    observers.require()
    check_device_name(device)
    if precision != "auto":
        TrainingConfig(precision=precision)  # raises an error for an unknown one
    from charlm.cli.train_view import PreparationProgress, TeacherProgress, run_training
    from charlm.runs import RunOptions, new_run, resumed_run
    from charlm.system.signals import StopSignals

    run_options = RunOptions(
        out, init_from, device, precision, PreparationProgress(quiet), teacher or (), TeacherProgress(quiet)
    )
    with StopSignals() as signals:
        if "-" in (corpus or ()) and is_first_process():
            wait_for_stdin()
        if resume:
            _refuse_with_resume(texts, run_options)
            run = resumed_run(out, training, None if device == "auto" else device)
        else:
            run = new_run(texts, training, run_options)
        with run as prepared:
            run_training(prepared, signals, observers, quiet=quiet, as_json=json)


def _check_sources(corpus: bool, demo: bool, resume: bool) -> None:
    if corpus + demo + resume == 1:
        return
    if corpus + demo + resume == 0:
        raise UsageError("no text given; use charlm train FILE, charlm train - for stdin, or charlm train --demo")
    if corpus and resume:
        raise UsageError("--resume takes no text; name the run with --out (charlm train --resume --out RUN)")
    raise UsageError("give exactly one of a text (charlm train FILE), --demo or --resume")


def _check_run(out: Path | None, resume: bool, models: Sequence[Path], options: TrainingOptions) -> None:
    """Raise what preparing the run would raise for its folder, or for the ``models`` that it starts or learns from."""
    from charlm.checkpoint.run_folder import RUNS, RunFolder
    from charlm.checkpoint.shipped import find_checkpoint
    from charlm.checkpoint.step import open_checkpoint
    from charlm.training.resuming import refuse_fixed_options, run_of

    if resume:
        refuse_fixed_options(options)
        run_of(RunFolder.newest(RUNS, to_resume=True).path if out is None else out)
    elif out is not None:
        RunFolder(out).refuse_taken()
    for model in models:
        open_checkpoint(find_checkpoint(model), names=())


def _refuse_with_resume(texts: TextOptions, run_options: RunOptions) -> None:
    given = [field.name for field in fields(texts) if getattr(texts, field.name) != field.default]
    if run_options.init_from is not None:
        given.append("init_from")
    if run_options.teachers:
        given.append("teacher")
    if run_options.precision != "auto":
        given.append("precision")
    if given:
        raise UsageError(f"{command_line_name(given[0])} cannot change when a run is resumed; leave it out")
