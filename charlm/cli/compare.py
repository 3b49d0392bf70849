"""``charlm compare``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand

from charlm.cli.options import (
    AsTextOption,
    ColumnOption,
    DelimiterOption,
    DeviceOption,
    EncodingOption,
    GivenColumnOption,
    GivenOption,
    JsonOption,
    ThreadsOption,
)
from charlm.cli.output import bits, counting, write_json, write_text
from charlm.cli.recipes import say_what_differs
from charlm.cli.tables import TableForm
from charlm.cli.texts import measured_text
from charlm.errors import UsageError

if TYPE_CHECKING:
    from charlm.evaluation.comparison import Comparison, Side
    from charlm.evaluation.standard_errors import Uncertainty
    from charlm.language_model import LanguageModel

_NAMES = ("A", "B")
_COMMAND = "charlm compare A B FILE, or charlm compare A1 A2 --against B1 B2 FILE"

_RECIPES_TESTED = "Tested: two recipes, for other seeds and other text of this kind."
_MODELS_TESTED = """\
Tested: these models, for other text of this kind. Not tested: two recipes. A single run cannot show how much other
seeds of its recipe differ; several a side can: charlm compare A1 A2 A3 --against B1 B2 B3"""


class CompareCommand(TyperCommand):
    """Lets ``--against`` take all words up to the next option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return list(super().parse_args(ctx, _repeat_against(args)))


def _repeat_against(args: Sequence[str]) -> list[str]:
    """``args`` with ``--against`` before each of its values."""
    words: list[str] = []
    after = False
    for number, word in enumerate(args):
        if word == "--":
            return words + list(args[number:])
        if word.startswith("-") and word != "-":
            after = word.partition("=")[0] == "--against"
            words.append(word)
        elif after and words[-1] != "--against":
            words += ["--against", word]
        else:
            words.append(word)
    return words


class _Cost(NamedTuple):
    """Speed and size of a model."""

    written_per_second: float
    parameters: int
    bytes: int


class _Named(NamedTuple):
    """The models of both sides, and the names of the texts."""

    sides: tuple[list[str], list[str]]
    texts: list[str]


def compare(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|FILE",
            help="A and B, two runs or steps, or several of A before --against; then text files or folders; - reads "
            "stdin. [default text: the test split that all runs share]",
        ),
    ],
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="B...",
            help="The runs of B, all words up to the next option, where the sides have several runs with other seeds.",
        ),
    ] = None,
    column: ColumnOption = None,
    delimiter: DelimiterOption = None,
    as_text: AsTextOption = False,
    given_column: GivenColumnOption = None,
    given: GivenOption = None,
    encoding: EncodingOption = "utf-8",
    device: DeviceOption = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, bf16, int8, or auto: evaluate in fp32, generate as charlm generate does.")
    ] = "auto",
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Compare two models, or several runs of two recipes, on one text. Which predicts it better?

    The difference has a 95% interval. It tells how much the text matters, and with several runs a side also how much
    the seed does: charlm compare A1 A2 A3 --against B1 B2 B3
    """
    named = _named(names, against or [])
    from charlm.evaluation.comparison import ComparisonInput, generation_speeds
    from charlm.evaluation.comparison import compare as read_all
    from charlm.language_model import open_model

    form = TableForm(column, delimiter, as_text, given_column, given)
    sides = [[open_model(Path(path), device, precision, threads) for path in side] for side in named.sides]
    models = [*sides[0], *sides[1]]
    _check_tokenizers(models)
    with (
        measured_text(models, named.texts, encoding, None, _COMMAND, form) as measured,
        counting("comparing", measured.total) as progress,
    ):
        inputs = [
            ComparisonInput(model.engine, model.tokenizer, blocks)
            for model, blocks in zip(models, measured.blocks, strict=True)
        ]
        found = read_all(inputs[: len(sides[0])], inputs[len(sides[0]) :], progress)
    speeds = generation_speeds([(model.generation_engine, model.tokenizer) for model in models])
    costs = [_cost(model, speed) for model, speed in zip(models, speeds, strict=True)]
    side_costs = [costs[: len(sides[0])], costs[len(sides[0]) :]]
    if found.runs is not None:
        for name, side in zip(_NAMES, sides, strict=True):
            say_what_differs(f"the runs of {name}", [model.checkpoint.config for model in side])
    if json:
        write_json({**_facts(sides, found, side_costs), "corpus": measured.name})
    else:
        write_text(_shown(sides, found, side_costs, measured.name))


def _named(names: Sequence[str], against: Sequence[str]) -> _Named:
    """Tell runs and texts apart: a text is a file, stdin, or a folder without a checkpoint."""
    if against:
        sides = [name for name in names if not _is_text(name)], [name for name in against if not _is_text(name)]
        if not all(sides):
            raise UsageError("--against needs a run on each side: charlm compare A1 A2 --against B1 B2")
        return _Named(sides, [name for name in (*names, *against) if _is_text(name)])
    if len(names) < 2:
        raise UsageError(f"a comparison needs two runs: {_COMMAND}")
    if more := [name for name in names[2:] if Path(name).is_dir() and not _is_text(name)]:
        raise UsageError(f"{more[0]} is a run, not a text; name the runs of one side after --against: {_COMMAND}")
    return _Named(([names[0]], [names[1]]), list(names[2:]))


def _is_text(name: str) -> bool:
    from charlm.checkpoint.run_folder import CORPUS
    from charlm.checkpoint.step import MANIFEST, step_folders

    path = Path(name)
    if not path.is_dir():
        return name == "-" or path.is_file()
    return not (step_folders(path) or (path / MANIFEST).exists() or (path / CORPUS).exists())


def _check_tokenizers(models: Sequence[LanguageModel]) -> None:
    from charlm.evaluation.comparison import tokenizer_difference

    for model in models[1:]:
        if why := tokenizer_difference(models[0].tokenizer, model.tokenizer):
            first, other = models[0].checkpoint.path, model.checkpoint.path
            raise UsageError(f"{first} and {other} cannot be compared: {why}; name models of the same kind")


def _cost(model: LanguageModel, written_per_second: float) -> _Cost:
    from charlm.checkpoint.step import MODEL

    return _Cost(written_per_second, model.config.parameter_count(), len(model.checkpoint.files[MODEL]))


# ---------------------------------------------------------------------------------------------------- JSON


def _facts(
    sides: Sequence[Sequence[LanguageModel]], found: Comparison, costs: Sequence[Sequence[_Cost]]
) -> dict[str, Any]:
    """What --json prints. The difference is A minus B, so A is better if it is below 0."""
    apart = {
        "nats_per_char": found.nats_per_char,
        "standard_error": found.standard_error,
        "interval_95": found.interval,
        "bits_per_char": found.bits_per_char,
        "bits_standard_error": found.bits_standard_error,
        "standard_errors": found.standard_errors,
        "text": _uncertainty_facts(found.text),
        "runs": _uncertainty_facts(found.runs),
        "tested": "models" if found.runs is None else "recipes",
        "better": None if found.better is None else _NAMES[found.better].lower(),
    }
    facts = {
        name.lower(): _side_facts(models, side, side_costs)
        for name, models, side, side_costs in zip(_NAMES, sides, found.sides, costs, strict=True)
    }
    return {**facts, "difference": apart}


def _side_facts(models: Sequence[LanguageModel], side: Side, costs: Sequence[_Cost]) -> dict[str, Any]:
    """Of one model, or the mean of several and a list of them."""
    runs = [
        {
            "checkpoint": str(model.checkpoint.path),
            "engine": model.engine.name,
            "writing_engine": model.generation_engine.name,
            **evaluation.as_dict(),
            "read_chars_per_second": speed,
            "written_chars_per_second": cost.written_per_second,
            "parameters": cost.parameters,
            "model_bytes": cost.bytes,
        }
        for model, evaluation, speed, cost in zip(models, side.evaluations, side.chars_per_second, costs, strict=True)
    ]
    if len(runs) == 1:
        return runs[0]
    means = {"nats_per_char": side.nats_per_char, "bits_per_char": side.bits_per_char}
    return {**means, "standard_deviation": side.standard_deviation, "runs": runs}


def _uncertainty_facts(found: Uncertainty | None) -> dict[str, Any] | None:
    """In nats per character."""
    if found is None:
        return None
    return {
        "standard_error": found.standard_error,
        "degrees_of_freedom": found.degrees_of_freedom,
        "rough": found.rough,
    }


# ---------------------------------------------------------------------------------------------------- words


def _shown(
    sides: Sequence[Sequence[LanguageModel]], found: Comparison, costs: Sequence[Sequence[_Cost]], text: str
) -> str:
    first = found.sides[0].evaluations[0]
    count = f"{first.characters:,} {'bytes' if sides[0][0].tokenizer.kind == 'byte' else 'characters'}"
    if first.documents:
        count += f", {first.documents:,} end markers included"
    legend = "".join(_legend(*side) for side in zip(_NAMES, sides, found.sides, strict=True))
    rows = [
        ("", "A", "B", "A - B"),
        _row("bits per character", (f"{s.bits_per_char:.4f}" for s in found.sides), f"{found.bits_per_char:+.4f}"),
        _row("nats per character", (f"{s.nats_per_char:.4f}" for s in found.sides), f"{found.nats_per_char:+.4f}"),
        _row("characters/s, evaluation", (f"{fmean(s.chars_per_second):,.0f}" for s in found.sides)),
        _row("characters/s, generation", (f"{fmean(c.written_per_second for c in each):,.0f}" for each in costs)),
        _row("parameters", (f"{fmean(c.parameters for c in each):,.0f}" for each in costs)),
        _row("size of the model, bytes", (f"{fmean(c.bytes for c in each):,.0f}" for each in costs)),
    ]
    if found.runs is not None:
        spread = (f"{bits(s.standard_deviation or 0.0):.4f}" for s in found.sides)
        rows.insert(2, _row("standard deviation of runs", spread, "bits"))
    table = "".join(f"  {label:<26}{a:>14}{b:>14}   {apart}".rstrip() + "\n" for label, a, b, apart in rows)
    return f"{text}, {count}\n{legend}{table}{_errors(found)}{_verdict(found)}\n"


def _row(label: str, values: Iterable[str], apart: str = "") -> tuple[str, str, str, str]:
    first, second = values
    return label, first, second, apart


def _legend(name: str, models: Sequence[LanguageModel], side: Side) -> str:
    if len(models) == 1:
        model = models[0]
        engines = f"evaluated by {model.engine.name}, generation by {model.generation_engine.name}"
        return f"{name}: {model.checkpoint.path}, {engines}\n"
    return "".join(
        f"{name}{number}: {model.checkpoint.path}, {evaluation.bits_per_char:.4f} bits per character\n"
        for number, (model, evaluation) in enumerate(zip(models, side.evaluations, strict=True), start=1)
    )


def _errors(found: Comparison) -> str:
    """The standard errors of the difference, from what they come."""
    if found.text is None:
        return ""
    shown = f"standard error from the text {bits(found.text.standard_error):.4f} bits per character\n"
    if found.runs is not None:
        degrees = f"{found.runs.degrees_of_freedom:.1f} degrees of freedom"
        shown += f"standard error from the runs {bits(found.runs.standard_error):.4f} bits per character ({degrees})\n"
    return shown


def _verdict(found: Comparison) -> str:
    """Which is better, and of what this was tested."""
    if found.uncertainty is None or found.interval is None:
        return "no verdict: the text is too short for a standard error; give 1,000 characters, or 5 documents"
    low, high = (bits(end) for end in found.interval)
    difference = f"A - B is {found.bits_per_char:+.4f} bits per character, 95% interval {low:+.4f} to {high:+.4f}"
    rough = "; rough: the text is too short to tell" if found.uncertainty.rough else ""
    verdict = "no significant difference" if found.better is None else f"{_NAMES[found.better]} is better"
    return f"{verdict}: {difference}{rough}\n{_RECIPES_TESTED if found.runs is not None else _MODELS_TESTED}"
