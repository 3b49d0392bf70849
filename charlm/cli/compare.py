"""``charlm compare``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

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
from charlm.cli.output import counting, write_json, write_text
from charlm.cli.tables import TableForm
from charlm.cli.texts import measured_text
from charlm.errors import UsageError

if TYPE_CHECKING:
    from charlm.evaluation.comparison import Comparison
    from charlm.language_model import LanguageModel

_NAMES = ("A", "B")


class _Cost(NamedTuple):
    """Speed and size of a model."""

    written_per_second: float
    parameters: int
    bytes: int


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A run or one of its steps.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another run or step.")],
    text: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE", help="Text files or folders; - reads stdin. [default: the test split that both runs share]"
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
    """Compare two models on one text. Which predicts it better, and is the difference significant?"""
    from charlm.evaluation.comparison import ComparisonInput, generation_speeds, tokenizer_difference
    from charlm.evaluation.comparison import compare as read_both
    from charlm.language_model import load

    form = TableForm(column, delimiter, as_text, given_column, given)
    models = [load(path, device, precision, threads) for path in (a, b)]
    if why := tokenizer_difference(models[0].tokenizer, models[1].tokenizer):
        raise UsageError(f"{a} and {b} cannot be compared: {why}; name two models of the same kind")
    with (
        measured_text(models, text or [], encoding, None, "charlm compare A B FILE", form) as measured,
        counting("comparing", measured.total) as progress,
    ):
        first, second = (
            ComparisonInput(model.engine, model.tokenizer, blocks)
            for model, blocks in zip(models, measured.blocks, strict=True)
        )
        found = read_both(first, second, progress)
    speeds = generation_speeds([(model.generation_engine, model.tokenizer) for model in models])
    costs = [_cost(model, speed) for model, speed in zip(models, speeds, strict=True)]
    if json:
        write_json({**_facts(models, found, costs), "corpus": measured.name})
    else:
        write_text(_shown(models, found, costs, measured.name))


def _cost(model: LanguageModel, written_per_second: float) -> _Cost:
    from charlm.checkpoint.step import MODEL

    return _Cost(written_per_second, model.config.parameter_count(), len(model.checkpoint.files[MODEL]))


def _facts(models: Sequence[LanguageModel], found: Comparison, costs: Sequence[_Cost]) -> dict[str, Any]:
    """What --json prints. The difference is A minus B, so A is better if it is below 0."""
    sides = {
        name.lower(): {
            "checkpoint": str(model.checkpoint.path),
            "engine": model.engine.name,
            "writing_engine": model.generation_engine.name,
            **evaluation.as_dict(),
            "read_chars_per_second": speed,
            "written_chars_per_second": cost.written_per_second,
            "parameters": cost.parameters,
            "model_bytes": cost.bytes,
        }
        for name, model, evaluation, speed, cost in zip(
            _NAMES, models, found.evaluations, found.chars_per_second, costs, strict=True
        )
    }
    apart = {
        "nats_per_char": found.nats_per_char,
        "standard_error": found.standard_error,
        "bits_per_char": found.bits_per_char,
        "bits_standard_error": found.bits_standard_error,
        "standard_errors": found.standard_errors,
        "better": None if found.better is None else _NAMES[found.better].lower(),
    }
    return {**sides, "difference": apart}


def _shown(models: Sequence[LanguageModel], found: Comparison, costs: Sequence[_Cost], text: str) -> str:
    evaluations, speeds = found.evaluations, found.chars_per_second
    count = f"{evaluations[0].characters:,} {'bytes' if models[0].tokenizer.kind == 'byte' else 'characters'}"
    if evaluations[0].documents:
        count += f", {evaluations[0].documents:,} end markers included"
    legend = [
        f"{name}: {model.checkpoint.path}, evaluated by {model.engine.name}, "
        f"generation by {model.generation_engine.name}\n"
        for name, model in zip(_NAMES, models, strict=True)
    ]
    error = "" if found.bits_standard_error is None else f" ± {found.bits_standard_error:.4f}"
    rows = [
        ("", "A", "B", "A - B"),
        ("bits per character", *(f"{e.bits_per_char:.4f}" for e in evaluations), f"{found.bits_per_char:+.4f}{error}"),
        ("nats per character", *(f"{e.nats_per_char:.4f}" for e in evaluations), f"{found.nats_per_char:+.4f}"),
        ("characters/s, evaluation", *(f"{speed:,.0f}" for speed in speeds), ""),
        ("characters/s, generation", *(f"{cost.written_per_second:,.0f}" for cost in costs), ""),
        ("parameters", *(f"{cost.parameters:,}" for cost in costs), ""),
        ("size of the model, bytes", *(f"{cost.bytes:,}" for cost in costs), ""),
    ]
    table = "".join(f"  {label:<26}{a:>14}{b:>14}   {apart}".rstrip() + "\n" for label, a, b, apart in rows)
    return f"{text}, {count}\n{''.join(legend)}{table}{_verdict(found)}\n"


def _verdict(found: Comparison) -> str:
    from charlm.evaluation.comparison import SIGNIFICANT_STANDARD_ERRORS

    if found.bits_standard_error is None:
        return "no verdict: the text is too short for a standard error"
    apart = f"{abs(found.bits_per_char):.4f} ± {found.bits_standard_error:.4f} bits per character"
    times = "" if found.standard_errors is None else f" ({found.standard_errors:.1f} standard errors)"
    if found.better is None:
        needed = f"more than {SIGNIFICANT_STANDARD_ERRORS:g} standard errors"
        return f"no significant difference: {apart}{times}; it would take {needed}"
    return f"{_NAMES[found.better]} is better by {apart}{times}"
