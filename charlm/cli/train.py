"""``charlm train``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.options import DeviceOption, EncodingOption, JsonOption, ThreadsOption
from charlm.errors import UsageError

if TYPE_CHECKING:
    pass

_MODEL, _TRAINING, _RUN = "Model", "Training", "Run"


def train(
    corpus: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="Text files or folders; - reads stdin.", show_default=False),
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Learn the Python language reference built into Python.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run: --out DIR, or the newest.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="The run's folder. [default: checkpoints/NAME]")] = None,
    init_from: Annotated[
        Path | None, typer.Option("--init-from", help="Begin with the weights of this run or step.")
    ] = None,
    tokenizer: Annotated[str, typer.Option("--tokenizer", help="char (any text) or byte (any file).")] = "char",
    encoding: EncodingOption = "utf-8",
    documents: Annotated[
        str | None,
        typer.Option("--documents", help="Many small texts, each by itself: lines, blank-lines (between them), files."),
    ] = None,
    distinct: Annotated[bool, typer.Option("--distinct", help="Take a document that comes again only once.")] = False,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Percent for train/valid/test: in order, documents shuffled. [default: 90/5/5]"),
    ] = None,
    valid: Annotated[str | None, typer.Option("--valid", help="A validation text of its own.")] = None,
    test: Annotated[str | None, typer.Option("--test", help="A test text of its own.")] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", help="tiny, small, medium, large or huge. [default: by corpus and device]"),
    ] = None,
    layers: Annotated[int | None, typer.Option("--layers", help="LSTM layers.")] = None,
    hidden: Annotated[int | None, typer.Option("--hidden", help="Width of the layers.")] = None,
    embedding: Annotated[
        int | None,
        typer.Option("--embedding", help="Width of the embedding and the last layer. [default: --hidden]"),
    ] = None,
    dropout_embedding: Annotated[
        float | None, typer.Option(help="Dropout of whole characters from the embedding. [default: 0]")
    ] = None,
    dropout_input: Annotated[float | None, typer.Option(help="Locked dropout on the embeddings. [default: 0]")] = None,
    dropout_hidden: Annotated[
        float | None, typer.Option(help="Locked dropout between layers. [default: by corpus and budget]")
    ] = None,
    dropout_output: Annotated[
        float | None, typer.Option(help="Locked dropout before the decoder. [default: by corpus and budget]")
    ] = None,
    weight_drop: Annotated[
        float | None, typer.Option(help="DropConnect on the hidden-to-hidden weights. [default: 0]")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw, adam, sgd or rmsprop. [default: adamw]")] = None,
    lr: Annotated[
        float | None, typer.Option("--lr", help="Learning rate. [default: by optimizer, corpus and budget]")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Weight decay on matrices. [default: adamw by corpus and budget, else 0]")
    ] = None,
    clip: Annotated[float | None, typer.Option(help="Largest gradient norm. [default: 1; inf: off]")] = None,
    schedule: Annotated[str | None, typer.Option(help="plateau, cosine or constant. [default: plateau]")] = None,
    warmup: Annotated[
        int | None, typer.Option(help="Steps over which the rate rises. [default: 100, at most a fifth of all]")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Parallel streams. [default: by corpus and device]")] = None,
    bptt: Annotated[int | None, typer.Option(help="Characters in a chunk. [default: at most 128, by budget]")] = None,
    bptt_jitter: Annotated[
        float | None, typer.Option(help="Move the borders of chunks by up to this share of --bptt. [default: 0]")
    ] = None,
    state_reset: Annotated[
        float | None, typer.Option(help="Chance that a stream forgets its state before a chunk. [default: 0.01]")
    ] = None,
    ar: Annotated[float | None, typer.Option("--ar", help="Activation regularisation. [default: 0]")] = None,
    tar: Annotated[float | None, typer.Option("--tar", help="Temporal activation regularisation. [default: 0]")] = None,
    average: Annotated[
        str | None,
        typer.Option(help="Weights to keep: ema, triggered (a mean from the plateau on), none. [default: ema]"),
    ] = None,
    average_decay: Annotated[
        float | None, typer.Option(help="How much of an ema stays in a step. [default: 0.998]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Stop after so many passes over the text.")] = None,
    steps: Annotated[int | None, typer.Option(help="Stop after so many steps.")] = None,
    time: Annotated[
        str | None, typer.Option("--time", help="Stop after 90s, 10m, 2h in all, evaluations included.")
    ] = None,
    eval_every: Annotated[int | None, typer.Option(help="Steps between evaluations. [default: by corpus]")] = None,
    save_every: Annotated[
        str | None, typer.Option(help="Steps, or a time such as 20s, between saves. [default: 60s]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same run. [default: 1]")] = None,
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option("--precision", help="auto, fp32 or bf16 (autocast).")] = "auto",
    threads: ThreadsOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors, and the result.")] = False,
    json: JsonOption = False,
) -> None:
    """Train on a text; without --epochs, --steps or --time until the validation loss stops improving."""
    said = dict(locals())
    sources = {name: said[name] for name in _TEXT_OPTIONS}
    _check_sources(bool(corpus), demo, resume)
    from charlm.cli.train_view import Preparing, run_training
    from charlm.runs import Texts, Where, new_run, resumed_run
    from charlm.system.signals import StopSignals
    from charlm.training.recipe import Request

    request = Request(**{field.name: said[field.name] for field in dataclasses.fields(Request)})
    with StopSignals() as signals:
        if resume:
            _refuse_with_resume({**sources, "init_from": init_from, "precision": precision})
            run = resumed_run(out, request, None if device == "auto" else device)
        else:
            texts = Texts(**{**sources, "corpus": corpus or ()})
            run = new_run(texts, request, Where(out, init_from, device, precision, Preparing(quiet)))
        with run as prepared:
            run_training(prepared, signals, quiet=quiet, as_json=json)


_TEXT_OPTIONS = ("corpus", "demo", "valid", "test", "tokenizer", "encoding", "split", "documents", "distinct")


def _check_sources(corpus: bool, demo: bool, resume: bool) -> None:
    if corpus + demo + resume == 1:
        return
    if corpus + demo + resume == 0 and not sys.stdin.isatty():
        raise UsageError("no text was named; charlm train FILE, charlm train - for stdin, or charlm train --demo")
    raise UsageError("name a text (charlm train FILE), or use --demo, or --resume: one of the three")


def _refuse_with_resume(said: dict[str, Any]) -> None:
    defaults: dict[str, tuple[Any, ...]] = {
        "corpus": (None, []),
        "demo": (False,),
        "distinct": (False,),
        "tokenizer": ("char",),
        "encoding": ("utf-8",),
        "precision": ("auto",),
    }
    kept = [name for name, value in said.items() if value not in defaults.get(name, (None,))]
    if kept:
        raise UsageError(f"a resumed run keeps its --{kept[0].replace('_', '-')}; leave it out")
