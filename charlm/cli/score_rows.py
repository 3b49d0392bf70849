"""The rows that ``charlm score`` prints: as text, CSV or JSON."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from charlm.cli.lines import csv_line, escaped
from charlm.cli.output import json_line, write_text
from charlm.cli.tables import kept_names

if TYPE_CHECKING:
    from charlm.cli.score_texts import ScoredTexts
    from charlm.cli.tables import RowDocuments
    from charlm.evaluation.scoring import Scored

_ROWS_AT_ONCE = 1000


class Row(NamedTuple):
    """A document to print. ``percentile`` is None unless percentiles were asked for."""

    scored: Scored
    percentile: float | None


class RowWriter:
    """Prints rows in one form: "text", "csv", "raw csv" or "json". ``keep`` names columns of a table to print, too."""

    def __init__(
        self, form: str, documents: ScoredTexts | RowDocuments, with_percentile: bool, keep: Sequence[str] = ()
    ) -> None:
        self._documents, self._columns = documents, _columns(with_percentile)
        self._kept = kept_names(_COLUMNS, keep)
        self._raw = form == "raw csv"
        self._line = {"text": self._text_line, "json": self._json_row}.get(form, self._csv_row)
        if form.endswith("csv"):
            write_text(csv_line([*self._columns, *self._kept], self._raw))

    def write(self, rows: Iterable[Row]) -> None:
        """Print rows, many at once."""
        lines = map(self._line, rows)
        while text := "".join(itertools.islice(lines, _ROWS_AT_ONCE)):
            write_text(text)

    def _text_line(self, row: Row) -> str:
        scored = row.scored
        fields = [f"{0.0 - scored.nats:.4f}", f"{scored.bits_per_char:.4f}"]
        fields += [] if row.percentile is None else [f"{row.percentile:.2f}%"]
        fields += map(escaped, (self._documents.shown_place(scored), *scored.kept))
        if not self._documents.are_files:
            fields.append(escaped(scored.text))
        return "\t".join(fields) + "\n"

    def _csv_row(self, row: Row) -> str:
        return csv_line(self._facts(row).values(), self._raw)

    def _json_row(self, row: Row) -> str:
        return json_line(self._facts(row))

    def _facts(self, row: Row) -> dict[str, Any]:
        scored, (file, line) = row.scored, self._documents.place_of(row.scored)
        values = {
            "number": scored.number,
            "log_probability": 0.0 - scored.nats,
            "bits_per_char": scored.bits_per_char,
            "percentile": row.percentile,
            "characters": scored.characters,
            "unknown_characters": scored.unknown_characters,
            "file": file,
            "line": line,
            "document": file if self._documents.are_files else scored.text,
        }
        own = {name: values[name] for name in self._columns}
        return {**own, **dict(zip(self._kept, scored.kept, strict=True))}


_COLUMNS = (
    "number", "log_probability", "bits_per_char", "percentile", "characters", "unknown_characters", "file", "line",
    "document",
)  # fmt: skip


def _columns(with_percentile: bool) -> list[str]:
    return [name for name in _COLUMNS if with_percentile or name != "percentile"]
