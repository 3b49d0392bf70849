"""Rows of a table in a file, in constant memory: the interface of a reader, and delimited text.

A cell is a text, or None where it is missing: an empty cell of delimited text, ``null``, ``NaN`` or a key that a row
lacks. Numbers are the text that stands in the file, so 1.50 stays "1.50".
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from charlm.corpus.blocks import read_blocks
from charlm.corpus.encodings import Changes, Decoding, decode_blocks
from charlm.errors import CharlmError, DataError

logger = logging.getLogger("charlm")

Cells = list[str | None]
"""Cells of one column, in the order of the rows."""
Column = int | str
"""How a reader knows a column: by its number from 0, or by its name."""

MAX_CELL = 1 << 24
"""Characters of the longest row. A longer one is a quote that is never closed, or not a table."""
_DELIMITERS = (",", "\t", ";", "|")
_HEAD = 1 << 16
"""Characters from which the delimiter and the form of a table are found."""
_ROWS_AT_A_TIME = 64


class TableReader(Protocol):
    """A table in a file, which can be read repeatedly."""

    def columns(self) -> list[str]:
        """The names of the columns; of JSON, the keys of the first rows."""
        ...

    def find(self, name: str) -> Column | None:
        """The column with this name or, in delimited text, with this number from 1; None if there is none.

        Raises ``DataError`` if several columns have the name.
        """
        ...

    def cells(
        self, columns: Sequence[Column], changes: Changes | None = None, lines: list[int] | None = None
    ) -> Iterator[list[Cells]]:
        """The cells of all rows in batches of about a megabyte of the file: for each of ``columns`` as many cells.

        ``changes`` counts what decoding replaces. The line on which each row of a batch begins is appended to ``lines``
        where rows have lines. Raises ``DataError`` where the file is damaged, after the rows before that.
        """
        ...


class TextFile(NamedTuple):
    """A file of text, packed or not, how it is decoded, and what messages call it."""

    path: Path
    decoding: Decoding
    name: str

    def blocks(self, changes: Changes | None = None) -> Iterator[str]:
        """The text of the file in blocks. Bytes that are not valid are marked by surrogates, or count in ``changes``.

        Nothing is normalized: the normal form of a character may be a delimiter or a quote.
        """
        blocks = read_blocks(self.path, self.name, offers_bytes=self.decoding.offers_bytes)
        return decode_blocks(blocks, self.name, self.decoding, changes)

    def head(self) -> str:
        """The first characters; before a byte that is not valid, the whole lines, if there is one."""
        head = ""
        try:
            for block in self.blocks():
                head += block
                if len(head) >= _HEAD:
                    break
        except DataError:
            head = head[: head.rfind("\n") + 1]
            if not head:
                raise
        return head[:_HEAD]


# ---------------------------------------------------------------------------------------------------- delimited text


class DelimitedReader:
    """Delimited text with a header: RFC 4180, with any delimiter. A blank line is not a row.

    ``delimiter`` None is guessed from the beginning of the file. Quotes follow Python's ``csv`` module: a line end
    inside quotes belongs to the cell, and two quotes are one.
    """

    def __init__(self, file: TextFile, delimiter: str | None = None) -> None:
        self._file = file
        head = file.head()
        self._delimiter = delimiter or _likely_delimiter(head)
        self._header = next((row for row in self._parsed(io.StringIO(head, newline="")) if row), [])
        self._reported = False

    def columns(self) -> list[str]:
        return [name.strip() for name in self._header]

    def find(self, name: str) -> Column | None:
        names = self.columns()
        numbers = [number for number, other in enumerate(names) if other == name]
        if len(numbers) > 1:
            places = ", ".join(str(number + 1) for number in numbers)
            raise DataError(
                f"{self._file.name} has {len(numbers)} columns named {name!r:.60}; choose one by its number: {places}"
            )
        is_number = name.isascii() and name.isdigit() and 1 <= int(name[:9]) <= len(names)
        return numbers[0] if numbers else int(name) - 1 if is_number else None

    def cells(
        self, columns: Sequence[Column], changes: Changes | None = None, lines: list[int] | None = None
    ) -> Iterator[list[Cells]]:
        text = _Lines(self._file, changes)
        reader = self._parsed(text, lines)
        next((row for row in reader if row), None)  # the header
        if lines is not None:
            lines.clear()
        batch: list[Cells] = [[] for _ in columns]
        number, blocks, ragged, error = 1, text.blocks_read, list[int](), None
        while error is None:
            rows = list[list[str]]()
            try:
                rows.extend(itertools.islice(reader, _ROWS_AT_A_TIME))
            except CharlmError as raised:
                error = raised  # the rows before it are read
            if not rows:
                break
            if set(map(len, rows)) != {len(self._header)}:
                rows = self._completed(rows, number, ragged)
            number += len(rows)
            for column, cells in zip(columns, batch, strict=True):
                cells.extend([row[int(column)] or None for row in rows])
            if text.blocks_read > blocks:
                yield batch
                batch, blocks = [[] for _ in columns], text.blocks_read
        yield batch
        if error is not None:
            raise error
        if ragged and not self._reported:
            self._reported = True
            logger.warning(
                "%s: %d rows have fewer or more cells than the header, the first of them row %d; check its quotes and "
                "the --delimiter",
                self._file.name, len(ragged), ragged[0],
            )  # fmt: skip

    def _completed(self, rows: list[list[str]], number: int, ragged: list[int]) -> list[list[str]]:
        """``rows`` without blank lines, with as many cells as the header at least.

        The numbers of rows with fewer or more are added to ``ragged``; the first has ``number``.
        """
        width = len(self._header)
        rows = [row for row in rows if row]
        ragged += [row for row, cells in enumerate(rows, number) if len(cells) != width]
        return [row + [""] * (width - len(row)) for row in rows]

    def _parsed(self, text: Iterable[str], lines: list[int] | None = None) -> Iterator[list[str]]:
        """The rows; the line on which each begins is appended to ``lines``, except for blank ones."""
        # Python's limit of 131,072 characters belongs to the process; it is raised, never lowered.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL))
        reader = csv.reader(text, delimiter=self._delimiter)
        try:
            if lines is None:
                yield from reader
                return
            line = 1
            for row in reader:
                if row:
                    lines.append(line)
                line = reader.line_num + 1
                yield row
        except csv.Error as error:
            raise DataError(
                f"{self._file.name}, line {reader.line_num}: {error}; is a quote not closed, or is this not a table?"
            ) from None


def _likely_delimiter(head: str) -> str:
    """The delimiter that gives the header several cells, and the most rows as many cells as the header."""

    def agreement(delimiter: str) -> tuple[float, int]:
        with contextlib.suppress(csv.Error):
            rows = [row for row in csv.reader(io.StringIO(head, newline=""), delimiter=delimiter) if row]
            cells = len(rows[0]) if rows else 0
            if cells > 1:
                rows = rows[:-1] if len(head) == _HEAD and len(rows) > 1 else rows  # the last row may be cut
                return sum(len(row) == cells for row in rows) / len(rows), cells
        return 0.0, 1

    return max(_DELIMITERS, key=agreement)


class _Lines:
    """The lines of a file with their ends: LF, CR LF or CR. No other character ends a line of a table."""

    def __init__(self, file: TextFile, changes: Changes | None) -> None:
        self.blocks_read = 0
        self._file, self._changes = file, changes

    def __iter__(self) -> Iterator[str]:
        return itertools.chain.from_iterable(self._texts())

    def _texts(self) -> Iterator[Iterable[str]]:
        """The lines in groups, one for each block."""
        pending: list[str] = []
        for block in self._file.blocks(self._changes):
            self.blocks_read += 1
            # A carriage return at the end may be half of a line end.
            cut = max(block.rfind("\n"), block.rfind("\r", 0, len(block) - 1)) + 1
            if not cut:
                pending.append(block)
                refuse_long(self._file.name, sum(map(len, pending)))
                continue
            yield io.StringIO("".join([*pending, block[:cut]]), newline="")
            pending = [block[cut:]]
        yield io.StringIO("".join(pending), newline="")


def refuse_long(name: str, characters: int) -> None:
    """Raise ``DataError`` for a line or row of the file ``name`` that has too many characters."""
    if characters > MAX_CELL:
        raise DataError(f"{name} has a line or row of more than {MAX_CELL:,} characters; is it a table?")


def cell_text(value: Any, name: str, row: int, column: str) -> str | None:
    """A value of JSON or Parquet as a text, None for a missing one. Raises ``DataError`` for a list or an object."""
    if isinstance(value, str):
        return value or None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, (list, dict, bytes)):
        raise DataError(
            f"{name}, row {row}: {column} holds a {type(value).__name__}, not a text; choose a column of texts"
        )
    return str(value).lower() if isinstance(value, bool) else str(value)
