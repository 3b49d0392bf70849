"""``charlm score --by character`` and ``--by word``: a row for each character or word of the documents."""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from charlm.cli.lines import csv_line, escaped
from charlm.cli.output import counting, json_line, write_text
from charlm.cli.tables import RowDocuments, kept_names
from charlm.errors import UsageError

if TYPE_CHECKING:
    from charlm.cli.score_texts import ScoredTexts
    from charlm.evaluation.characters import CharacterScores
    from charlm.evaluation.scoring import Scored
    from charlm.language_model import LanguageModel

UNITS = ("character", "word", "document")
_ROWS_AT_ONCE = 1000
_PLACE = ("number", "file", "line", "column", "position")
_COLUMNS = {
    "character": (*_PLACE, "character", "bits", "entropy", "rank", "unknown"),
    "word": (*_PLACE, "word", "characters", "bits", "bits_after"),
}


def check_unit(unit: str, coloured: bool, percentile: bool) -> None:
    """Raise ``UsageError`` for a value of --by that does not exist, or that another option contradicts."""
    if unit not in UNITS:
        raise UsageError(f"--by must be character, word or document, not {unit!r:.40}")
    if unit != "document" and (coloured or percentile):
        raise UsageError(f"--by {unit} has no colours and no percentiles; leave out --highlight, --html, --percentile")


class UnitRow(NamedTuple):
    """A character or word of a document."""

    document: Scored
    position: int
    """The index of its first character in the document, from 0."""
    line: int
    """Its line in the document, from 0."""
    column: int
    """Its place in this line, from 1."""
    text: str
    facts: tuple[Any, ...]
    """The values of the columns after the text."""
    bits: float


class UnitWriter:
    """Prints the characters or words of documents in one form: "text", "csv", "raw csv" or "json".

    ``keep`` names columns of a table to print, too.
    """

    def __init__(self, unit: str, form: str, documents: ScoredTexts | RowDocuments, keep: Sequence[str]) -> None:
        self._unit, self._documents, self._columns = unit, documents, _COLUMNS[unit]
        self._kept = kept_names(self._columns, keep)
        self._raw = form == "raw csv"
        self._line = {"text": self._text_line, "json": self._json_row}.get(form, self._csv_row)
        if form.endswith("csv"):
            write_text(csv_line([*self._columns, *self._kept], self._raw))

    def write(self, model: LanguageModel, documents: Iterable[Scored], top: int | None, bottom: int | None) -> None:
        """Print the rows of documents in order, or those with the most or the fewest bits of all."""
        rows = itertools.chain.from_iterable(unit_rows(model, document, self._unit) for document in documents)
        if not top and not bottom:
            self._write(rows)
            return
        with counting("scoring", None) as progress:
            counted = _counted(rows, progress)
            ranked = heapq.nlargest(top, counted, _bits) if top else heapq.nsmallest(bottom or 0, counted, _bits)
        self._write(ranked)

    def _write(self, rows: Iterable[UnitRow]) -> None:
        lines = map(self._line, rows)
        while text := "".join(itertools.islice(lines, _ROWS_AT_ONCE)):
            write_text(text)

    def _text_line(self, row: UnitRow) -> str:
        facts = dict(zip(self._columns[len(_PLACE) + 1 :], row.facts, strict=True))
        fields = [f"{row.bits:.4f}"]
        fields += [f"{facts['entropy']:.4f}", str(facts["rank"])] if self._unit == "character" else []
        file, line, column = self._place(row)
        place = self._documents.shown_place(row.document) if column is None else f"{file}:{line}"
        place = f"{place}:{column or row.position + 1}"
        return "\t".join([*fields, *map(escaped, (place, *row.document.kept, row.text))]) + "\n"

    def _csv_row(self, row: UnitRow) -> str:
        return csv_line(self._facts(row).values(), self._raw)

    def _json_row(self, row: UnitRow) -> str:
        return json_line(self._facts(row))

    def _facts(self, row: UnitRow) -> dict[str, Any]:
        values = (row.document.number, *self._place(row), row.position + 1, row.text, *row.facts)
        own = dict(zip(self._columns, values, strict=True))
        return {**own, **dict(zip(self._kept, row.document.kept, strict=True))}

    def _place(self, row: UnitRow) -> tuple[str, int | None, int | None]:
        """File, line and column, from 1. A cell of a table has no column."""
        file, line = self._documents.place_of(row.document)
        if isinstance(self._documents, RowDocuments):
            return file, line, None
        return file, (line or 1) + row.line, row.column


def unit_rows(model: LanguageModel, document: Scored, unit: str) -> Iterator[UnitRow]:
    """The characters or words of a document."""
    pieces = model.character_pieces(document.text, document.given)
    found = _characters(pieces) if unit == "character" else _words(pieces)
    starts = [0, *(place + 1 for place, character in enumerate(document.text) if character == "\n")]
    for position, text, facts, bits in found:
        line = bisect_right(starts, position) - 1
        yield UnitRow(document, position, line, position - starts[line] + 1, text, facts, bits)


_Found = Iterator[tuple[int, str, tuple[Any, ...], float]]
"""Position, text, the values of the columns after it, and bits."""


def _characters(pieces: Iterable[CharacterScores]) -> _Found:
    positions = itertools.count()
    for piece in pieces:
        columns = [piece.characters, *(column.tolist() for column in piece[1:])]
        for character, bits, entropy, rank, unknown in zip(*columns, strict=True):
            yield next(positions), character, (bits, entropy, rank, unknown), bits


def _words(pieces: Iterable[CharacterScores]) -> _Found:
    from charlm.evaluation.characters import score_words

    for word in score_words(pieces):
        yield word.start, word.text, (word.characters, word.bits, word.bits_after), word.bits


def _counted(rows: Iterable[UnitRow], progress: Any) -> Iterator[UnitRow]:
    for row in rows:
        progress(len(row.text))
        yield row


def _bits(row: UnitRow) -> float:
    return row.bits
