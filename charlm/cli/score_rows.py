"""The rows that ``charlm score`` prints: as text, CSV or JSON."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from charlm.cli.output import json_line, write_text

if TYPE_CHECKING:
    from charlm.cli.score_texts import ScoredTexts
    from charlm.evaluation.scoring import Scored

# A log line may hold escape sequences and bidirectional controls. They are escaped, because they would act on the
# terminal or reorder the row.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_ESCAPES.update(
    {code: f"\\u{code:04x}" for code in (0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))}
)
_ESCAPES.update({0x09: "\t", 0x0A: "\\n", 0x0D: "\\r"})


_ROWS_AT_ONCE = 1000


class Row(NamedTuple):
    """A document to print. ``percentile`` is None unless percentiles were asked for."""

    scored: Scored
    percentile: float | None


class RowWriter:
    """Prints rows in one form: "text", "csv" or "json"."""

    def __init__(self, form: str, texts: ScoredTexts, with_percentile: bool) -> None:
        self._texts, self._with_percentile = texts, with_percentile
        self._line = {"text": self._text_line, "csv": self._csv_row, "json": self._json_row}[form]
        if form == "csv":
            write_text(_csv_line(_columns(with_percentile)))

    def write(self, rows: Iterable[Row]) -> None:
        """Print rows, many at once."""
        lines = map(self._line, rows)
        while text := "".join(itertools.islice(lines, _ROWS_AT_ONCE)):
            write_text(text)

    def _text_line(self, row: Row) -> str:
        scored = row.scored
        file, line = self._texts.place_of(scored)
        fields = [f"{0.0 - scored.nats:.4f}", f"{scored.bits_per_char:.4f}"]
        fields += [] if row.percentile is None else [f"{row.percentile:.2f}%"]
        fields.append((file if line is None else f"{file}:{line}").translate(_ESCAPES))
        if not self._texts.are_files:
            fields.append(scored.text.translate(_ESCAPES))
        return "\t".join(fields) + "\n"

    def _csv_row(self, row: Row) -> str:
        return _csv_line(self._facts(row).values())

    def _json_row(self, row: Row) -> str:
        return json_line(self._facts(row))

    def _facts(self, row: Row) -> dict[str, Any]:
        scored, (file, line) = row.scored, self._texts.place_of(row.scored)
        values = {
            "number": scored.number,
            "log_probability": 0.0 - scored.nats,
            "bits_per_char": scored.bits_per_char,
            "percentile": row.percentile,
            "characters": scored.characters,
            "unknown_characters": scored.unknown_characters,
            "file": file,
            "line": line,
            "document": file if self._texts.are_files else scored.text,
        }
        return {name: values[name] for name in _columns(self._with_percentile)}


_COLUMNS = (
    "number", "log_probability", "bits_per_char", "percentile", "characters", "unknown_characters", "file", "line",
    "document",
)  # fmt: skip


def _columns(with_percentile: bool) -> list[str]:
    return [name for name in _COLUMNS if with_percentile or name != "percentile"]


def _csv_line(values: Iterable[Any]) -> str:
    line = io.StringIO()
    # Quoted, so that a document may hold any character, carriage returns too.
    csv.writer(line, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerow(values)
    return line.getvalue()
