"""Lines of output: text that does not act on a terminal, and CSV."""

from __future__ import annotations

import csv
import io
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


def csv_line(values: Iterable[Any]) -> str:
    """One row of CSV."""
    line = io.StringIO()
    # Quoted, so that a document may hold any character, carriage returns too.
    csv.writer(line, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerow(values)
    return line.getvalue()
