"""``charlm eval``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.files import ids_of_files
from charlm.cli.options import CheckpointOption, DeviceOption, EncodingOption, JsonOption, ThreadsOption
from charlm.cli.output import bits, chosen_checkpoint, counting, say, write_json, write_text
from charlm.errors import DataError, MissingInputError, UsageError

if TYPE_CHECKING:
    from charlm.evaluation import Evaluation
    from charlm.language_model import LanguageModel
    from charlm.tokenizer import Ids


def evaluate(
    text: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="Text files or folders; - reads stdin. [default: the run's test split]"),
    ] = None,
    checkpoint: CheckpointOption = None,
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
    if text and split:
        raise UsageError("--split is for the run's own corpus; leave it out, or leave out FILE")
    import tempfile

    from charlm.language_model import load

    model = load(chosen_checkpoint(checkpoint), device, precision, threads)
    crop = (window or 256) if protocol == "crops" else None
    if crop is not None and model.tokenizer.documents is not None:
        raise UsageError("this model reads each document from a cold state anyway; leave out --protocol crops")
    with tempfile.TemporaryDirectory() if "-" in (text or ()) else nullcontext("") as folder:
        if text:
            name = ", ".join(text)
            total, blocks = ids_of_files(model.tokenizer, text, encoding, Path(folder))
        else:
            name, total, blocks = _from_run(model, split)
        with counting("evaluating", total) as progress:
            if dynamic:
                from charlm.adaptation import evaluate_dynamically

                evaluation = evaluate_dynamically(model, blocks, progress)
            else:
                evaluation = model.evaluate_ids(blocks, crop, progress)
    _report(model, evaluation, name, _protocol(crop, dynamic, evaluation.documents > 0), json)


def _from_run(model: LanguageModel, split: str | None) -> tuple[str, int | None, Iterator[Ids]]:
    from charlm.corpus import SPLITS, corpus_beside

    if split is not None and split not in SPLITS:
        raise UsageError(f"--split must be one of {', '.join(SPLITS)}, not {split!r}")
    path = model.checkpoint.path
    corpus = corpus_beside(path)
    if corpus is None:
        raise MissingInputError(f"{path} has no corpus beside it; name a text: charlm eval FILE")
    if corpus.tokenizer.description() != model.tokenizer.description():
        raise DataError(f"{corpus.folder} is not the corpus {path} was trained on; name a text: charlm eval FILE")
    if split is None:
        split = "test" if corpus.sizes["test"].ids else "valid"
        if split == "valid":
            say("the run has no test split; this is the validation split, which steered the training")
    if split == "train" and corpus.tokenizer.kind == "char":
        say("the training ids hold the spellings in bytes that training adds; for the bare text name its file")
    ids = corpus.ids(split)
    if not len(ids):
        raise MissingInputError(f"the {split} split of {path.parent} is empty; name a text: charlm eval FILE")
    step = 1 << 18
    blocks = (ids.read(start, min(start + step, len(ids))) for start in range(0, len(ids), step))
    return f"{split} split of {corpus.name}", len(ids), blocks


def _protocol(crop: int | None, dynamic: bool, documents: bool) -> tuple[str, str]:
    """How it was measured: for JSON, and in a sentence."""
    if crop is not None:
        return f"crops of {crop}", f"mean over windows of {crop} from a cold state"
    short, long = (
        ("each document exactly", "each document by itself, its end predicted too")
        if documents
        else ("exact", "one exact pass")
    )
    return (f"{short}, dynamic", f"{long}; learning from what was scored") if dynamic else (short, long)


def _report(model: LanguageModel, evaluation: Evaluation, name: str, protocol: tuple[str, str], as_json: bool) -> None:
    if as_json:
        where = {"checkpoint": str(model.checkpoint.path), "corpus": name, "protocol": protocol[0]}
        write_json({**evaluation.as_dict(), **where, "engine": model.engine.name})
        return
    rows = _rows(evaluation, model.tokenizer.kind)
    header = f"{name}, {protocol[1]}\n{model.checkpoint.path}, {model.engine.name}\n"
    write_text(header + "".join(f"  {label:<22}{value}\n" for label, value in rows))


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
