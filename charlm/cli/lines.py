"""Lines of output: text that does not act on a terminal, and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from typing import Any

# A log line may hold escape sequences and bidirectional controls. They are escaped, because they would act on the
# terminal or reorder the row.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_ESCAPES.update(
    {code: f"\\u{code:04x}" for code in (0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))}
)
_ESCAPES.update({0x09: "\t", 0x0A: "\\n", 0x0D: "\\r"})


def escaped(text: str) -> str:
    """``text`` on one line, without characters that act on a terminal."""
    return text.translate(_ESCAPES)


_RUN_BY_SPREADSHEETS = ("=", "+", "-", "@", "\t", "\r")
"""First characters of cells that a spreadsheet takes for formulas (OWASP, CSV injection)."""
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")


def csv_line(values: Iterable[Any], raw: bool = False) -> str:
    """One row of CSV. A text that a spreadsheet would run gets an apostrophe in front, unless ``raw``."""
    line = io.StringIO()
    # Quoted, so that a document may hold any character, carriage returns too.
    rows = csv.writer(line, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    rows.writerow(values if raw else map(_defused, values))
    return line.getvalue()


def _defused(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith(_RUN_BY_SPREADSHEETS) or _NUMBER.fullmatch(value):
        return value
    return f"'{value}"


def output_form(csv: bool, raw_csv: bool, json: bool) -> str:
    """The form of output that the options ask for: "text", "csv", "raw csv" or "json"."""
    return "json" if json else "csv" if csv else "raw csv" if raw_csv else "text"
