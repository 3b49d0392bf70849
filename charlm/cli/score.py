"""``charlm score``."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.lines import output_form
from charlm.cli.options import (
    AsTextOption,
    CheckpointOption,
    ColumnOption,
    CsvOption,
    DelimiterOption,
    DeviceOption,
    DocumentStartOption,
    EncodingOption,
    ErrorsOption,
    GivenColumnOption,
    GivenOption,
    KeepOption,
    RawCsvOption,
    ThreadsOption,
    completing,
)
from charlm.cli.output import chosen_checkpoint, counting
from charlm.cli.score_by import UNITS, UnitWriter, check_unit
from charlm.cli.score_colours import parse_neuron, show_coloured
from charlm.cli.score_rows import Row, RowWriter
from charlm.cli.score_texts import ScoredTexts
from charlm.cli.tables import RowDocuments, TableForm, check_stdin, decoding_for, open_for_models, spool_folder
from charlm.cli.texts import wait_for_stdin
from charlm.errors import UsageError

if TYPE_CHECKING:
    from charlm.corpus.encodings import Decoding
    from charlm.evaluation.percentiles import Percentiles
    from charlm.evaluation.scoring import Scored
    from charlm.language_model import LanguageModel


def score(
    text: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="Text files or folders; - or no FILE reads stdin.")
    ] = None,
    checkpoint: CheckpointOption = None,
    documents: Annotated[
        str | None,
        typer.Option("--documents", help="lines, blank-lines or files. [default: as in training, else files]"),
    ] = None,
    document_start: DocumentStartOption = None,
    top: Annotated[
        int | None, typer.Option("--top", min=1, help="Only the N with the most bits per character.")
    ] = None,
    bottom: Annotated[
        int | None, typer.Option("--bottom", min=1, help="Only the N with the fewest bits per character.")
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            help="A row for each document, word or character. Words and characters: surprisal in bits, by which --top "
            "ranks; characters: entropy and rank, too.",
            autocompletion=completing(UNITS),
        ),
    ] = "document",
    min_length: Annotated[int, typer.Option("--min-length", min=0, help="Only documents of N or more characters.")] = 0,
    percentile: Annotated[
        bool,
        typer.Option("--percentile", help="Also the share of held-out documents of about that length that fit better."),
    ] = False,
    above: Annotated[
        str | None,
        typer.Option("--above", metavar="PERCENT", help="Only documents above this percentile, such as 99%."),
    ] = None,
    highlight: Annotated[
        bool, typer.Option("--highlight", help="Print the text, each character coloured by its surprisal.")
    ] = False,
    html: Annotated[
        str | None,
        typer.Option("--html", metavar="PAGE", help="The coloured text as a web page; - writes it to stdout."),
    ] = None,
    neuron: Annotated[
        str | None,
        typer.Option(
            "--neuron", metavar="L:N", help="Colour by the activation of cell N of layer L instead, both from 0."
        ),
    ] = None,
    column: ColumnOption = None,
    delimiter: DelimiterOption = None,
    as_text: AsTextOption = False,
    given_column: GivenColumnOption = None,
    given: GivenOption = None,
    keep: KeepOption = None,
    csv: CsvOption = False,
    raw_csv: RawCsvOption = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per document.")] = False,
    encoding: EncodingOption = "utf-8",
    errors: ErrorsOption = "strict",
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or int8.")] = "fp32",
    threads: ThreadsOption = None,
) -> None:
    """Print how likely each document is: log-probability in nats, bits per character, its place, and the document."""
    coloured = highlight or html is not None
    _refuse_contradictions(top, bottom, coloured, csv + raw_csv, json)
    if html is not None and not Path(html).name:
        raise UsageError(f"--html {html!r} is not the name of a page; write --html PAGE, or - for stdout")
    limit = None if above is None else _parse_percent(above)
    if coloured and (percentile or limit is not None):
        raise UsageError("--highlight and --html show no percentiles; leave out --percentile and --above")
    if coloured and keep:
        raise UsageError("--highlight and --html show the text alone; leave out --keep")
    cell = parse_neuron(neuron, coloured)
    check_unit(by, coloured, percentile)
    if documents is not None and document_start is not None:
        raise UsageError("--document-start says what a document is; leave out --documents")
    from charlm.corpus.documents import check_document_kind
    from charlm.corpus.encodings import Decoding
    from charlm.language_model import open_model
    from charlm.tokenizer.documents import compile_start

    if documents is not None:
        check_document_kind(documents)
    if document_start is not None:
        compile_start(document_start)
    Decoding(encoding, errors)  # checks them before the model is read
    model = open_model(chosen_checkpoint(checkpoint), device, precision, threads)
    tokenizer = model.tokenizer
    if tokenizer.kind == "byte" and errors != "strict":
        raise UsageError("--errors is for characters, and this model reads bytes; leave it out")
    names, form = text or ["-"], TableForm(column, delimiter, as_text, given_column, given).normal([model])
    with spool_folder(names, form) as spool:
        options = ("--encoding",) if tokenizer.kind == "byte" else ("--encoding", "--errors")
        decoding = decoding_for([model], encoding, errors, options)
        found = _documents(model, names, (documents, document_start), decoding, (form, spool, keep or ()))
        rows = _chosen_rows(found.scored(), min_length, model.percentiles() if percentile or above else None, limit)
        form_of_rows = output_form(csv, raw_csv, json)
        if by != "document":
            chosen = (row.scored for batch in rows for row in batch)
            UnitWriter(by, form_of_rows, found, keep or ()).write(model, chosen, top, bottom)
            found.report()
            return
        ranked = _ranked(rows, top, bottom) if top or bottom else None
        if coloured:
            shown = found.texts() if ranked is None else ((s.number, s.text, s.given) for s, _ in ranked)
            show_coloured(model, (each for each in shown if len(each[1]) >= min_length), html, cell)
        else:
            writer = RowWriter(form_of_rows, found, percentile or above is not None, keep or ())
            for batch in rows if ranked is None else [ranked]:
                writer.write(batch)
        found.report()


def _parse_percent(text: str) -> float:
    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent < 100:
        raise UsageError(f"--above must be a percentile from 0% to below 100%, such as 99%, not {text!r:.40}")
    return percent


def _documents(
    model: LanguageModel,
    names: list[str],
    split: tuple[str | None, str | None],
    decoding: Decoding,
    table: tuple[TableForm, Path | None, Sequence[str]],
) -> ScoredTexts | RowDocuments:
    """The documents of the text, or of the rows of a table. ``split`` has --documents and --document-start."""
    form, spool, keep = table
    source = None
    if "-" in names and len(names) > 1:
        raise UsageError("stdin can only be scored by itself; leave out the files, or the -")
    if names != ["-"] or form.column is not None:
        from charlm.corpus.tables import TableSource

        if names == ["-"]:
            wait_for_stdin()
        source = open_for_models([model], names, decoding, spool, form)
        if isinstance(source, TableSource):
            for option, value in zip(("--documents", "--document-start"), split, strict=True):
                if value is not None:
                    raise UsageError(f"each row of a table is a document; leave out {option}")
            return RowDocuments(model, source, keep, form.given)
    if keep:
        raise UsageError("--keep is for the rows of a table; leave it out")
    if source is None:
        check_stdin(model, form)
    documents, start = split
    kind = documents or model.tokenizer.document_kind or "files"
    start, kind = (model.tokenizer.document_start, kind) if start is None else (start, "start")
    return ScoredTexts(model, source, (kind, start), decoding, form.given)


def _refuse_contradictions(top: int | None, bottom: int | None, highlight: bool, csv: int, json: bool) -> None:
    if top and bottom:
        raise UsageError("give --top or --bottom, not both")
    if csv + json + highlight > 1:
        raise UsageError("give one of --json, --csv, --raw-csv and --highlight (or --html)")


def _chosen_rows(
    batches: Iterator[list[Scored]], min_length: int, percentiles: Percentiles | None, above: float | None
) -> Iterator[Iterable[Row]]:
    """The documents of each batch that are long enough and above the percentile."""

    def chosen(batch: list[Scored]) -> Iterator[Row]:
        for scored in batch:
            if len(scored.text) < min_length:
                continue
            percentile = None if percentiles is None else percentiles.of(scored.bits_per_char, scored.characters)
            if above is None or (percentile is not None and percentile > above):
                yield Row(scored, percentile)

    for batch in batches:
        yield chosen(batch)
        del batch  # before the next one is read


def _ranked(batches: Iterator[Iterable[Row]], top: int | None, bottom: int | None) -> list[Row]:
    """The rows with the highest or lowest percentile, or without percentiles bits per character."""
    with counting("scoring", None) as progress:

        def every() -> Iterator[Row]:
            for row in itertools.chain.from_iterable(batches):
                progress(row.scored.characters)
                yield row

        if top:
            return heapq.nlargest(top, every(), key=_rank)
        return heapq.nsmallest(bottom or 0, every(), key=_rank)


def _rank(row: Row) -> tuple[float, float]:
    return row.percentile or 0.0, row.scored.bits_per_char
