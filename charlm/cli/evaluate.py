"""``charlm eval``."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.options import (
    AsTextOption,
    CheckpointsOption,
    ColumnOption,
    DelimiterOption,
    DeviceOption,
    EncodingOption,
    GivenColumnOption,
    GivenOption,
    JsonOption,
    ThreadsOption,
)
from charlm.cli.output import bits, chosen_checkpoint, counting, write_json, write_text
from charlm.cli.recipes import say_what_differs
from charlm.cli.tables import TableForm
from charlm.cli.texts import measured_text
from charlm.cli.values import ByValue, value_facts, value_rows
from charlm.errors import UsageError

if TYPE_CHECKING:
    from charlm.evaluation.metrics import Evaluation
    from charlm.language_model import LanguageModel


def evaluate(
    text: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="Text files or folders; - reads stdin. [default: the run's test split]"),
    ] = None,
    checkpoint: CheckpointsOption = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Without FILE: train, valid or test of the run. [default: test]")
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(help="exact: one pass, state carried; crops: windows with a fresh state, as in nanoGPT."),
    ] = "exact",
    window: Annotated[int | None, typer.Option(min=1, help="Characters per crop. [default: 256]")] = None,
    dynamic: Annotated[
        bool,
        typer.Option("--dynamic", help="Train a copy of the model on each segment after scoring it."),
    ] = False,
    column: ColumnOption = None,
    delimiter: DelimiterOption = None,
    as_text: AsTextOption = False,
    given_column: GivenColumnOption = None,
    given: GivenOption = None,
    encoding: EncodingOption = "utf-8",
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or int8.")] = "fp32",
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Measure how well a model predicts a text. Prints perplexity, nats and bits per character."""
    if protocol not in ("exact", "crops"):
        raise UsageError(f"--protocol must be exact or crops, not {protocol!r}")
    if window is not None and protocol == "exact":
        raise UsageError("--window is only for --protocol crops; add that, or leave it out")
    if dynamic and (protocol != "exact" or precision != "fp32" or device not in ("auto", "cpu")):
        raise UsageError(
            "--dynamic is one exact pass in fp32 on the CPU; leave out --protocol, --precision and --device"
        )
    if dynamic and len(checkpoint or ()) > 1:
        raise UsageError("--dynamic trains a copy of one model; name one --checkpoint")
    if text and split:
        raise UsageError("--split selects a part of the run's corpus; leave it out, or leave out FILE")
    from charlm.language_model import LanguageModel, open_model

    form = TableForm(column, delimiter, as_text, given_column, given)
    models = [
        open_model(path, device, precision, threads)
        for path in checkpoint or [chosen_checkpoint(None, with_text=not text)]
    ]
    model = LanguageModel.ensemble(models) if len(models) > 1 else models[0]
    crop = (window or 256) if protocol == "crops" else None
    if crop is not None and model.tokenizer.document_kind is not None:
        raise UsageError("this model starts each document with a fresh state anyway; leave out --protocol crops")
    with (
        measured_text(models, text or [], encoding, split, "charlm eval FILE", form) as measured,
        counting("evaluating", measured.total) as progress,
    ):
        each: list[Evaluation] = []
        by_value: ByValue = {}
        if dynamic:
            evaluation = model.evaluate_dynamically(measured.blocks[0], progress)
        elif model.members:
            evaluation, each = model.evaluate_members(measured.blocks[0], crop, progress)
        elif model.tokenizer.separator_id is not None:
            evaluation, by_value = model.evaluate_by_value(measured.blocks[0], progress)
        else:
            evaluation = model.evaluate_ids(measured.blocks[0], crop, progress)
    if measured.split and not (each or dynamic or crop) and precision == "fp32":
        _note(model, measured.split, evaluation)
    if each:
        say_what_differs("the models", [model.checkpoint.config for model in models])
    text_and_protocol = measured.name, _protocol(crop, dynamic, evaluation.documents > 0)
    _report(models, evaluation, each, text_and_protocol, json, by_value)


def _note(model: LanguageModel, split: str, evaluation: Evaluation) -> None:
    """Keep the result in the run, for ``charlm runs``."""
    from charlm.checkpoint.evaluations import note_evaluation

    names = ("nats_per_char", "standard_error", "characters")
    note_evaluation(model.checkpoint.path, split, {name: getattr(evaluation, name) for name in names})


def _protocol(crop: int | None, dynamic: bool, documents: bool) -> tuple[str, str]:
    """The protocol for JSON, and in words."""
    if crop is not None:
        return f"crops of {crop}", f"mean over windows of {crop} characters, each with a fresh state"
    short, long = "exact", "one exact pass"
    if documents:
        short, long = "each document exactly", "each document on its own, with its end marker"
    return (f"{short}, dynamic", f"{long}; trained on each segment after scoring it") if dynamic else (short, long)


def _report(
    models: list[LanguageModel],
    evaluation: Evaluation,
    each: list[Evaluation],
    text_and_protocol: tuple[str, tuple[str, str]],
    as_json: bool,
    by_value: ByValue,
) -> None:
    name, (protocol, in_words) = text_and_protocol
    if as_json:
        facts = {**_models(models, each), **value_facts(models[0].table, by_value)}
        write_json({**evaluation.as_dict(), **facts, "corpus": name, "protocol": protocol})
        return
    rows = _rows(evaluation, models[0].tokenizer.kind)
    paths = [f"{model.checkpoint.path}, {model.engine.name}\n" for model in models]
    shown = "".join(f"  {label:<26}{value}\n" for label, value in rows)
    by_value_shown = value_rows(models[0].table, by_value)
    write_text(f"{name}, {in_words}\n{''.join(paths)}{shown}{_member_rows(models, each)}{by_value_shown}")


def _models(models: list[LanguageModel], each: list[Evaluation]) -> dict[str, Any]:
    """The path and engine of one model; of an ensemble those of its members, with the loss of each and the spread."""
    facts = [{"checkpoint": str(model.checkpoint.path), "engine": model.engine.name} for model in models]
    if not each:
        return facts[0]
    members = [{**f, "nats_per_char": e.nats_per_char} for f, e in zip(facts, each, strict=True)]
    return {"members": members, "mean_of_members": _spread(each)}


def _spread(each: list[Evaluation]) -> dict[str, Any]:
    """The mean loss of several models, and how much it varies from model to model."""
    from charlm.evaluation.seeds import uncertainty_of_mean

    losses = [evaluation.nats_per_char for evaluation in each]
    mean, deviation = fmean(losses), stdev(losses)
    interval = uncertainty_of_mean(losses).interval(mean)
    return {"nats_per_char": mean, "standard_deviation": deviation, "interval_95": interval}


def _member_rows(models: list[LanguageModel], each: list[Evaluation]) -> str:
    """The loss of each member alone, and their mean and spread."""
    if not each:
        return ""
    spread = _spread(each)
    low, high = spread["interval_95"]
    rows = [(f"{e.nats_per_char:.4f}", str(model.checkpoint.path)) for model, e in zip(models, each, strict=True)]
    rows += [
        (f"{spread['nats_per_char']:.4f}", f"their mean; for other seeds 95% interval {low:.4f} to {high:.4f}"),
        (f"{spread['standard_deviation']:.4f}", "their standard deviation"),
    ]
    shown = "".join(f"  {value:<26}{what}\n" for value, what in rows)
    return f"The above is for the mean of their probabilities. Nats per character of each model alone:\n{shown}"


def _rows(evaluation: Evaluation, kind: str) -> list[tuple[str, Any]]:
    error = evaluation.standard_error
    margin = "" if error is None else f" ± {error:.4f}"
    bits_margin = "" if error is None else f" ± {bits(error):.4f}"
    rows: list[tuple[str, Any]] = [
        ("perplexity", f"{evaluation.perplexity:.4f}"),
        ("nats per character", f"{evaluation.nats_per_char:.4f}{margin}"),
        ("  95% interval", _interval(evaluation)),
        ("bits per character", f"{evaluation.bits_per_char:.4f}{bits_margin}"),
        ("bits per byte", f"{evaluation.bits_per_byte:.4f}"),
        ("characters", f"{evaluation.characters:,}" + _characters_note(evaluation, kind)),
        ("predictions summed", f"{evaluation.predictions:,}"),
        ("unknown characters", f"{evaluation.unknown_characters:,}"),
    ]
    if evaluation.documents:
        rows[5:5] = _document_rows(evaluation)
    known = evaluation.nats_per_known_char
    if evaluation.unknown_characters and known is not None:
        rows.append(("nats without unknown", f"{known:.4f}"))
    return rows


def _interval(evaluation: Evaluation) -> str:
    """Where the loss of another text of the same kind is."""
    if evaluation.uncertainty is None or evaluation.interval is None:
        return "unknown: the text is too short"
    low, high = evaluation.interval
    rough = "; rough: the text is too short to tell" if evaluation.uncertainty.rough else ""
    return f"{low:.4f} to {high:.4f}{rough}"


def _characters_note(evaluation: Evaluation, kind: str) -> str:
    notes = ["characters are bytes"] * (kind == "byte")
    notes += [f"{evaluation.documents:,} end markers included"] * bool(evaluation.documents)
    return f" ({', '.join(notes)})" if notes else ""


def _document_rows(evaluation: Evaluation) -> list[tuple[str, Any]]:
    nats, without = evaluation.nats_per_document or 0.0, evaluation.nats_per_char_without_ends
    inside = [] if without is None else [("nats without end markers", f"{without:.4f}")]
    return [
        ("nats per document", f"{nats:.4f}"),
        ("bits per document", f"{bits(nats):.4f}"),
        *inside,
        ("documents", f"{evaluation.documents:,}"),
    ]
