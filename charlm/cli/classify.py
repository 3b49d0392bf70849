"""``charlm classify``."""

from __future__ import annotations

import itertools
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from charlm.cli.accuracy import Accuracy
from charlm.cli.lines import csv_line, escaped, output_form
from charlm.cli.options import (
    CheckpointOption,
    ColumnOption,
    CsvOption,
    DelimiterOption,
    DeviceOption,
    EncodingOption,
    KeepOption,
    RawCsvOption,
    ThreadsOption,
)
from charlm.cli.output import chosen_checkpoint, json_line, write_text
from charlm.cli.tables import RowDocuments, decoding_for, kept_names
from charlm.cli.texts import wait_for_stdin
from charlm.errors import UsageError

if TYPE_CHECKING:
    from charlm.corpus.pieces import Piece
    from charlm.corpus.text import TextSource
    from charlm.evaluation.classification import Classified
    from charlm.language_model import LanguageModel


def classify(
    text: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="Tables, or texts with a document on each line; - or no FILE reads stdin."),
    ] = None,
    checkpoint: CheckpointOption = None,
    column: ColumnOption = None,
    delimiter: DelimiterOption = None,
    given_column: Annotated[
        str | None,
        typer.Option(
            "--given-column",
            metavar="NAME",
            help="Of a table, the column with the true values, for the accuracy. [default: as in training, if there]",
        ),
    ] = None,
    keep: KeepOption = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Instead of a FILE: train, valid or test of the run.")
    ] = None,
    top: Annotated[
        int | None, typer.Option("--top", min=1, help="The N most probable values. [default: 1; with --json all]")
    ] = None,
    csv: CsvOption = False,
    raw_csv: RawCsvOption = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per document.")] = False,
    encoding: EncodingOption = "utf-8",
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or int8.")] = "fp32",
    threads: ThreadsOption = None,
) -> None:
    """Tell which value of the condition each document most probably has, for a model of charlm train --given."""
    if csv + raw_csv + json > 1:
        raise UsageError("give one of --json, --csv and --raw-csv")
    if split is not None and (text or column or delimiter or given_column or keep):
        raise UsageError("--split selects a part of the run's corpus; leave out FILE and the options for tables")
    from charlm.language_model import open_model

    model, names = open_model(chosen_checkpoint(checkpoint), device, precision, threads), text or ["-"]
    if model.table is None or model.table.given is None:
        raise UsageError("this model was trained without a condition; train one with charlm train --column --given")
    accuracy, form = Accuracy(model, split), output_form(csv, raw_csv, json)
    with tempfile.TemporaryDirectory() if split is None and "-" in names else nullcontext("") as folder:
        if split is not None:
            results = _results_of_split(model, split)
        else:
            source = _open(model, names, encoding, Path(folder) / "stdin", column, delimiter)
            results = _results(model, source, given_column, keep or [])
        writer = _Writer(form, top, len(model.table.counts), keep or [])
        for batch in results:
            writer.write(batch)
            accuracy.add((result.found, result.true_value) for result in batch if result.true_value)
    accuracy.report()


class _Result(NamedTuple):
    """What is printed of a document. ``true_value`` is None where there is no column of it, or no cell."""

    found: Classified
    true_value: str | None
    kept: tuple[str, ...]


def _open(
    model: LanguageModel, names: Sequence[str], encoding: str, spool: Path, column: str | None, delimiter: str | None
) -> TextSource:
    from charlm.corpus.tables import TableOptions, open_texts

    assert model.table is not None, "a model with conditions"
    if "-" in names:
        wait_for_stdin()
    return open_texts(
        names,
        decoding_for([model], encoding),
        spool,
        model.tokenizer.kind == "byte",
        table=None if column is None else TableOptions(column, delimiter),
        default=TableOptions(model.table.column, delimiter),
        advice="choose one with --column NAME",
    )


def _results(
    model: LanguageModel, source: TextSource, given_column: str | None, keep: Sequence[str]
) -> Iterator[list[_Result]]:
    from charlm.corpus.tables import TableSource
    from charlm.tokenizer.normalization import normalize

    if not isinstance(source, TableSource):
        if given_column is not None or keep:
            raise UsageError(f"{'--keep' if keep else '--given-column'} is for a table; leave it out")
        pieces = source.documents(
            model.tokenizer.kind,
            model.tokenizer.document_kind or "rows",
            keep_empty=True,
            start=model.tokenizer.document_start,
        )
        return ([_Result(found, None, ()) for found in batch] for batch in model.classify_pieces(pieces))
    default = model.table.given if model.table is not None else None
    true_column = given_column or (default if default is not None and source.has_column(default) else None)
    rows = RowDocuments(model, source, [*([] if true_column is None else [true_column]), *keep])
    own, form = int(true_column is not None), model.tokenizer.normalization
    return (
        [_Result(found, normalize(found.kept[0].strip(), form) if own else None, found.kept[own:]) for found in batch]
        for batch in rows.classified()
    )


def _results_of_split(model: LanguageModel, split: str) -> Iterator[list[_Result]]:
    """The documents of a part of the run's corpus, with their true values."""
    from charlm.cli.texts import corpus_of
    from charlm.corpus.prepared import SPLITS
    from charlm.corpus.tables import make_piece
    from charlm.evaluation.by_value import documents_with_values

    if split not in SPLITS:
        raise UsageError(f"--split must be one of {', '.join(SPLITS)}, not {split!r}")
    true_values: deque[str] = deque()

    def pieces() -> Iterator[Piece]:
        for values, texts in documents_with_values(corpus_of(model, "charlm classify FILE"), split):
            true_values.extend(values)
            yield make_piece(texts, model.tokenizer.kind)

    for batch in model.classify_pieces(pieces()):
        yield [_Result(found, true_values.popleft(), ()) for found in batch]


# ---------------------------------------------------------------------------------------------------- writing


class _Writer:
    """Prints results in one form: "text", "csv", "raw csv" or "json". ``top``: how many of the ``values`` are shown."""

    def __init__(self, form: str, top: int | None, values: int, keep: Sequence[str]) -> None:
        self._form = form
        self._top = min(values, top or (values if form == "json" else 1))
        ranked = [(f"value_{rank}", f"probability_{rank}") for rank in range(2, self._top + 1)]
        self._ranked = ["value", "probability", *itertools.chain.from_iterable(ranked)]
        own = ["number", *self._ranked, "probabilities", "true_value", "document"]
        self._kept = kept_names(own, keep)
        self._raw = form == "raw csv"
        if form.endswith("csv"):
            header = ["number", *self._ranked, "true_value", "document", *self._kept]
            write_text(csv_line(header, self._raw))

    def write(self, results: Sequence[_Result]) -> None:
        """Print some results at once."""
        lines = {"text": self._text_line, "json": self._json_line}
        line = lines.get(self._form, self._csv_line)
        write_text("".join(map(line, results)))

    def _best(self, result: _Result) -> list[tuple[str, float]]:
        return list(itertools.islice(result.found.probabilities.items(), self._top))

    def _text_line(self, result: _Result) -> str:
        best = [f"{escaped(value)}\t{probability:.4f}" for value, probability in self._best(result)]
        return "\t".join([*best, *map(escaped, result.kept), escaped(result.found.text)]) + "\n"

    def _csv_line(self, result: _Result) -> str:
        best = itertools.chain.from_iterable(self._best(result))
        cells = [result.found.number, *best, result.true_value or "", result.found.text, *result.kept]
        return csv_line(cells, self._raw)

    def _json_line(self, result: _Result) -> str:
        found = result.found
        facts: dict[str, Any] = {
            "number": found.number,
            "value": found.value,
            "probability": found.probability,
            "probabilities": dict(self._best(result)),
            "true_value": result.true_value or None,
            "document": found.text,
        }
        return json_line({**facts, **dict(zip(self._kept, result.kept, strict=True))})
