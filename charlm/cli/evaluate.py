"""``charlm eval``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.options import CheckpointsOption, DeviceOption, EncodingOption, JsonOption, ThreadsOption
from charlm.cli.output import bits, chosen_checkpoint, counting, write_json, write_text
from charlm.cli.texts import measured_text
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
        str, typer.Option(help="exact: one pass, state carried; crops: windows from a cold state, as nanoGPT reports.")
    ] = "exact",
    window: Annotated[int | None, typer.Option(min=1, help="Characters in a crop. [default: 256]")] = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Let a copy of the model learn from the text, always after scoring it.")
    ] = False,
    encoding: EncodingOption = "utf-8",
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or int8.")] = "fp32",
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Measure how well a model predicts a text: perplexity, nats and bits per character."""
    if protocol not in ("exact", "crops"):
        raise UsageError(f"--protocol must be exact or crops, not {protocol!r}")
    if window is not None and protocol == "exact":
        raise UsageError("--window belongs to --protocol crops")
    if dynamic and (protocol != "exact" or precision != "fp32" or device not in ("auto", "cpu")):
        raise UsageError("--dynamic makes one exact pass in fp32 on the CPU; leave out the other options")
    if dynamic and len(checkpoint or ()) > 1:
        raise UsageError("--dynamic lets one model learn; name one --checkpoint")
    if text and split:
        raise UsageError("--split is for the run's own corpus; leave it out, or leave out FILE")
    from charlm.language_model import LanguageModel, load

    model = LanguageModel.ensemble(
        [load(path, device, precision, threads) for path in checkpoint or [chosen_checkpoint(None)]]
    )
    crop = (window or 256) if protocol == "crops" else None
    if crop is not None and model.tokenizer.document_kind is not None:
        raise UsageError("this model reads each document from a cold state anyway; leave out --protocol crops")
    with (
        measured_text(model.members, text or [], encoding, split, "charlm eval FILE") as measured,
        counting("evaluating", measured.total) as progress,
    ):
        if dynamic:
            from charlm.adaptation import evaluate_dynamically

            evaluation = evaluate_dynamically(model, measured.blocks[0], progress)
            members = [evaluation]
        else:
            evaluation, members = model.evaluate_members(measured.blocks[0], crop, progress)
    text_and_protocol = measured.name, _protocol(crop, dynamic, evaluation.documents > 0)
    _report(model, evaluation, members, text_and_protocol, json)


def _protocol(crop: int | None, dynamic: bool, documents: bool) -> tuple[str, str]:
    """How it was measured: for JSON, and in words."""
    if crop is not None:
        return f"crops of {crop}", f"mean over windows of {crop} from a cold state"
    short, long = "exact", "one exact pass"
    if documents:
        short, long = "each document exactly", "each document by itself, its end predicted too"
    return (f"{short}, dynamic", f"{long}; learning from what was scored") if dynamic else (short, long)


def _report(
    model: LanguageModel,
    evaluation: Evaluation,
    members: list[Evaluation],
    text_and_protocol: tuple[str, tuple[str, str]],
    as_json: bool,
) -> None:
    name, (protocol, in_words) = text_and_protocol
    if as_json:
        write_json({**evaluation.as_dict(), **_models(model, members), "corpus": name, "protocol": protocol})
        return
    rows = _rows(evaluation, model.tokenizer.kind)
    paths = [f"{member.checkpoint.path}, {member.engine.name}\n" for member in model.members]
    shown = "".join(f"  {label:<22}{value}\n" for label, value in rows)
    write_text(f"{name}, {in_words}\n{''.join(paths)}{shown}{_member_rows(model, members)}")


def _models(model: LanguageModel, members: list[Evaluation]) -> dict[str, Any]:
    """Of one model where it is; of an ensemble its members and what each reaches alone."""
    found = [
        {"checkpoint": str(member.checkpoint.path), "engine": member.engine.name, "nats_per_char": own.nats_per_char}
        for member, own in zip(model.members, members, strict=True)
    ]
    if len(found) == 1:
        return {"checkpoint": found[0]["checkpoint"], "engine": found[0]["engine"]}
    return {"members": found}


def _member_rows(model: LanguageModel, members: list[Evaluation]) -> str:
    if len(members) == 1:
        return ""
    rows = [
        f"  {own.nats_per_char:<22.4f}{member.checkpoint.path}\n"
        for member, own in zip(model.members, members, strict=True)
    ]
    return "that is of the mean of their probabilities; nats per character of each alone:\n" + "".join(rows)


def _rows(evaluation: Evaluation, kind: str) -> list[tuple[str, Any]]:
    error = evaluation.standard_error
    margin = "" if error is None else f" ± {error:.4f}"
    bits_margin = "" if error is None else f" ± {bits(error):.4f}"
    rows: list[tuple[str, Any]] = [
        ("perplexity", f"{evaluation.perplexity:.4f}"),
        ("nats per character", f"{evaluation.nats_per_char:.4f}{margin}"),
        ("bits per character", f"{evaluation.bits_per_char:.4f}{bits_margin}"),
        ("bits per byte", f"{evaluation.bits_per_byte:.4f}"),
        ("characters", f"{evaluation.characters:,}" + _characters_note(evaluation, kind)),
        ("predictions summed", f"{evaluation.predictions:,}"),
        ("unknown characters", f"{evaluation.unknown_characters:,}"),
    ]
    if evaluation.documents:
        rows[4:4] = _document_rows(evaluation)
    known = evaluation.nats_per_known_char
    if evaluation.unknown_characters and known is not None:
        rows.append(("nats without unknown", f"{known:.4f}"))
    return rows


def _characters_note(evaluation: Evaluation, kind: str) -> str:
    notes = ["a character is a byte here"] * (kind == "byte")
    notes += [f"{evaluation.documents:,} end markers among them"] * bool(evaluation.documents)
    return f" ({', '.join(notes)})" if notes else ""


def _document_rows(evaluation: Evaluation) -> list[tuple[str, Any]]:
    nats, without = evaluation.nats_per_document or 0.0, evaluation.nats_per_char_without_ends
    inside = [] if without is None else [("nats without the ends", f"{without:.4f}")]
    return [
        ("nats per document", f"{nats:.4f}"),
        ("bits per document", f"{bits(nats):.4f}"),
        *inside,
        ("documents", f"{evaluation.documents:,}"),
    ]
