"""``charlm score``."""

from __future__ import annotations

import heapq
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.lines import csv_line, escaped
from charlm.cli.options import (
    AsTextOption,
    CheckpointOption,
    ColumnOption,
    CsvOption,
    DelimiterOption,
    DeviceOption,
    EncodingOption,
    GivenColumnOption,
    GivenOption,
    KeepOption,
    RawCsvOption,
    ThreadsOption,
)
from charlm.cli.output import bits, chosen_checkpoint, counting, end_line, json_line, say, write_text
from charlm.cli.tables import RowDocuments, TableForm, check_stdin, kept_names, open_for_models, spool_folder
from charlm.errors import CannotCreateError, UsageError
from charlm.system.disk import replacing

if TYPE_CHECKING:
    from charlm.corpus.documents import Piece
    from charlm.evaluation.scoring import Scored, Surprisal
    from charlm.language_model import LanguageModel

_COLUMNS = ("number", "log_probability", "bits_per_char", "characters", "unknown_characters", "document")


def score(
    text: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="Text files or folders; - or no FILE reads stdin.")
    ] = None,
    checkpoint: CheckpointOption = None,
    documents: Annotated[
        str | None,
        typer.Option("--documents", help="lines, blank-lines or files. [default: as in training, else files]"),
    ] = None,
    top: Annotated[
        int | None, typer.Option("--top", min=1, help="Only the N with the most bits per character.")
    ] = None,
    bottom: Annotated[
        int | None, typer.Option("--bottom", min=1, help="Only the N with the fewest bits per character.")
    ] = None,
    highlight: Annotated[
        bool, typer.Option("--highlight", help="Print the text, each character coloured by its surprisal.")
    ] = False,
    html: Annotated[
        str | None,
        typer.Option("--html", metavar="PAGE", help="The coloured text as a web page; - writes it to stdout."),
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
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or int8.")] = "fp32",
    threads: ThreadsOption = None,
) -> None:
    """Print how likely each document is. The columns: log-probability in nats, bits per character, the document."""
    _refuse_contradictions(top, bottom, highlight or html is not None, csv + raw_csv, json)
    if html is not None and not Path(html).name:
        raise UsageError(f"--html {html!r} is not the name of a page; write --html PAGE, or - for stdout")
    if keep and (highlight or html is not None):
        raise UsageError("--highlight and --html show the text alone; leave out --keep")
    from charlm.corpus.documents import check_document_kind
    from charlm.language_model import open_model

    if documents is not None:
        check_document_kind(documents)
    model = open_model(chosen_checkpoint(checkpoint), device, precision, threads)
    form = TableForm(column, delimiter, as_text, given_column, given)
    with spool_folder(text or ["-"], form) as spool:
        found = _documents(model, text or ["-"], documents, encoding, (form, spool, keep or ()))
        chosen = _ranked(found, top, bottom) if top or bottom else None
        if highlight or html is not None:
            _highlight(model, found.texts() if chosen is None else ((s.number, s.text, s.given) for s in chosen), html)
            return
        names = kept_names(_COLUMNS, keep or ())
        write = _write_json if json else partial(_write_csv, raw=raw_csv) if csv or raw_csv else _write_rows
        if csv or raw_csv:
            write_text(csv_line([*_COLUMNS, *names], raw_csv))
        for batch in found.scored() if chosen is None else [chosen]:
            write(batch, found.name_of, names)


def _documents(
    model: LanguageModel,
    names: list[str],
    documents: str | None,
    encoding: str,
    table: tuple[TableForm, Path | None, Sequence[str]],
) -> _Documents | RowDocuments:
    """The documents of the text, or of the rows of a table."""
    form, spool, keep = table
    if "-" in names and len(names) > 1:
        raise UsageError("stdin can only be scored by itself; leave out the files, or the -")
    if names != ["-"] or form.column is not None:
        from charlm.corpus.tables import TableSource

        source = open_for_models([model], names, encoding, spool, form)
        if isinstance(source, TableSource):
            if documents is not None:
                raise UsageError("each row of a table is a document; leave out --documents")
            return RowDocuments(model, source, keep, form.given)
    if keep:
        raise UsageError("--keep is for the rows of a table; leave it out")
    if names == ["-"]:
        check_stdin(model, form)
    return _Documents(model, names, documents or model.tokenizer.document_kind or "files", encoding, form.given)


def _refuse_contradictions(top: int | None, bottom: int | None, highlight: bool, csv: int, json: bool) -> None:
    if top and bottom:
        raise UsageError("give --top or --bottom, not both")
    if csv + json + highlight > 1:
        raise UsageError("give one of --json, --csv, --raw-csv and --highlight (or --html)")


class _Documents:
    """The documents of a text, scored or as text."""

    def __init__(
        self, model: LanguageModel, names: list[str], separator: str, encoding: str, given: str | None
    ) -> None:
        from charlm.corpus.text import check_encoding, open_source

        check_encoding(encoding)
        self._model, self._separator, self._encoding, self._given = model, separator, encoding, given
        self._kind = model.tokenizer.kind
        self._live = names == ["-"]
        if self._live and sys.stdin.isatty():
            raise UsageError("no text given; use charlm score FILE, or pipe a text into charlm score")
        self._source = None if self._live else open_source(names, encoding, any_file=self._kind == "byte")

    def scored(self) -> Iterator[list[Scored]]:
        """Scored documents in batches; stdin is scored as it arrives."""
        pieces: Iterable[Piece] = self._pieces()
        if self._given is not None:
            from charlm.corpus.conditions import with_value

            pieces = with_value(pieces, self._given, self._kind)
        return self._model.score_pieces(pieces, at_once=self._live)

    def texts(self) -> Iterator[tuple[int, str, str | None]]:
        """(number, text, condition) of each document, counted from 1."""
        from charlm.evaluation.scoring import document_texts

        texts = enumerate(document_texts(self._model.tokenizer, self._pieces()), start=1)
        return ((number, text, self._given) for number, text in texts)

    def name_of(self, scored: Scored) -> str:
        """How a document is shown: its text, or the path if it is a file."""
        if self._separator == "files" and self._source is not None:
            return str(self._source.paths[scored.number - 1])
        return scored.text

    def _pieces(self) -> Iterator[Piece]:
        from charlm.corpus.documents import split_documents

        files = [_stdin_codes(self._kind, self._encoding)] if self._source is None else self._source.files(self._kind)
        # Empty lines are scored, too, so that scores and lines can be joined with paste.
        return split_documents(files, self._separator, keep_empty=True)


def _stdin_codes(kind: str, encoding: str) -> Iterator[Any]:
    import numpy as np

    from charlm.corpus.text import BLOCK_BYTES, decode_blocks
    from charlm.tokenizer.protocol import code_points

    stdin: Any = sys.stdin.buffer  # a BufferedReader: read1 returns what is available without waiting for more
    blocks = iter(lambda: stdin.read1(BLOCK_BYTES), b"")
    if kind == "byte":
        return (np.frombuffer(block, np.uint8) for block in blocks)
    return (code_points(text) for text in decode_blocks(blocks, encoding, "stdin"))


def _ranked(found: _Documents | RowDocuments, top: int | None, bottom: int | None) -> list[Scored]:
    with counting("scoring", None) as progress:

        def every() -> Iterator[Scored]:
            for batch in found.scored():
                progress(sum(scored.characters for scored in batch))
                yield from batch

        if top:
            return heapq.nlargest(top, every(), key=lambda scored: scored.bits_per_char)
        return heapq.nsmallest(bottom or 0, every(), key=lambda scored: scored.bits_per_char)


# ---------------------------------------------------------------------------------------------------- writing


def _shown(scored: Scored, name_of: Callable[[Scored], str]) -> list[str]:
    return [escaped(cell) for cell in (*scored.kept, name_of(scored))]


def _write_rows(batch: Iterable[Scored], name_of: Callable[[Scored], str], names: Sequence[str]) -> None:
    write_text(
        "".join(
            "\t".join([f"{-scored.nats:.4f}", f"{scored.bits_per_char:.4f}", *_shown(scored, name_of)]) + "\n"
            for scored in batch
        )
    )


def _write_csv(batch: Iterable[Scored], name_of: Callable[[Scored], str], names: Sequence[str], raw: bool) -> None:
    write_text("".join(csv_line(_facts(scored, name_of, names).values(), raw) for scored in batch))


def _write_json(batch: Iterable[Scored], name_of: Callable[[Scored], str], names: Sequence[str]) -> None:
    write_text("".join(json_line(_facts(scored, name_of, names)) for scored in batch))


def _facts(scored: Scored, name_of: Callable[[Scored], str], names: Sequence[str]) -> dict[str, Any]:
    own = (scored.number, -scored.nats, scored.bits_per_char, scored.characters, scored.unknown_characters)
    values = (*own, name_of(scored), *scored.kept)
    return dict(zip([*_COLUMNS, *names], values, strict=True))


# ---------------------------------------------------------------------------------------------------- colours


def _highlight(model: LanguageModel, texts: Iterable[tuple[int, str, str | None]], html: str | None) -> None:
    from charlm.cli import highlight

    if html is None:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        say(highlight.legend(sys.stderr.isatty() and colour), coloured=True)
        if not colour:
            say("no colours, because stdout is not a terminal or NO_COLOR is set; use --html PAGE for a web page")
        found = (model.surprisals(text, given=given) for _, text, given in texts)
        for piece in highlight.terminal(found, colour):
            write_text(piece)
        end_line()
        return
    surprised = ((number, list(model.surprisals(text, given=given))) for number, text, given in texts)
    headed = ((f"{number}: {_mean_bits(found):.3f} bits per character", found) for number, found in surprised)
    pieces = highlight.page(headed, f"{model.checkpoint.path}: surprisal")
    if html in ("-", "/dev/stdout"):
        for piece in pieces:
            write_text(piece)
        return
    _write_page(Path(html), pieces)


def _mean_bits(surprisals: list[Surprisal]) -> float:
    return bits(math.fsum(surprisal.nats for surprisal in surprisals) / max(1, len(surprisals)))


def _write_page(path: Path, pieces: Iterable[str]) -> None:
    """Write the page to a temporary file next to ``path`` and rename it when it is complete."""
    try:
        with replacing(path) as file:
            for piece in pieces:
                file.write(piece.encode("utf-8", "replace"))
    except OSError as error:
        raise CannotCreateError(f"{path} cannot be written ({error.strerror}); choose another path") from None
    say(f"wrote {path}")
