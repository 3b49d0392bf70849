"""Rows of a table in a file: delimited text, JSON lines, a JSON list of objects, Parquet. In constant memory.

A cell is a text, or None where it is missing: an empty cell of delimited text, ``null``, ``NaN`` or a key that a row
lacks. Numbers are the text that stands in the file, so 1.50 stays "1.50". Only Parquet needs a library, pyarrow.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from charlm.corpus.text import decode_blocks, read_blocks
from charlm.errors import DataError, MissingInputError

logger = logging.getLogger("charlm")

Cells = list[str | None]
"""Cells of one column, in the order of the rows."""
Column = int | str
"""How a reader knows a column: by its number from 0, or by its name."""

MAX_CELL = 1 << 24
"""Characters of the longest row. A longer one is a quote that is never closed, or not a table."""
_DELIMITERS = (",", "\t", ";", "|")
_HEAD = 1 << 16
"""Characters from which the delimiter and the columns of JSON are found."""
_ROWS_AT_A_TIME = 64
_ROWS_WITH_COLUMNS = 100
"""Rows of JSON whose keys are listed as columns."""
_ROWS_OF_PARQUET = 1 << 10
_WHITE = " \t\r\n"


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

    def cells(self, columns: Sequence[Column]) -> Iterator[list[Cells]]:
        """The cells of all rows in batches of about a megabyte of the file: for each of ``columns`` as many cells.

        Raises ``DataError`` where the file is damaged.
        """
        ...


class TextFile(NamedTuple):
    """A file of text and its encoding."""

    path: Path
    encoding: str

    def blocks(self) -> Iterator[str]:
        """The text of the file in blocks."""
        advice = "name its encoding, for example --encoding cp1252 (Windows) or utf-16"
        return decode_blocks(read_blocks(self.path), self.encoding, str(self.path), advice)

    def head(self) -> str:
        """The first characters."""
        head = ""
        for block in self.blocks():
            head += block
            if len(head) >= _HEAD:
                break
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
                f"{self._file.path} has {len(numbers)} columns named {name!r:.60}; choose one by its number: {places}"
            )
        is_number = name.isascii() and name.isdigit() and 1 <= int(name[:9]) <= len(names)
        return numbers[0] if numbers else int(name) - 1 if is_number else None

    def cells(self, columns: Sequence[Column]) -> Iterator[list[Cells]]:
        lines = _Lines(self._file)
        reader = self._parsed(lines)
        next((row for row in reader if row), None)  # the header
        batch: list[Cells] = [[] for _ in columns]
        number, blocks, ragged = 1, lines.blocks_read, list[int]()
        while rows := list(itertools.islice(reader, _ROWS_AT_A_TIME)):
            if set(map(len, rows)) != {len(self._header)}:
                rows = self._completed(rows, number, ragged)
            number += len(rows)
            for column, cells in zip(columns, batch, strict=True):
                cells.extend([row[int(column)] or None for row in rows])
            if lines.blocks_read > blocks:
                yield batch
                batch, blocks = [[] for _ in columns], lines.blocks_read
        yield batch
        if ragged and not self._reported:
            self._reported = True
            logger.warning(
                "%s: %d rows have fewer or more cells than the header, the first of them row %d; check its quotes and "
                "the --delimiter",
                self._file.path, len(ragged), ragged[0],
            )  # fmt: skip

    def _completed(self, rows: list[list[str]], number: int, ragged: list[int]) -> list[list[str]]:
        """``rows`` without blank lines, with as many cells as the header at least.

        The numbers of rows with fewer or more are added to ``ragged``; the first has ``number``.
        """
        width = len(self._header)
        rows = [row for row in rows if row]
        ragged += [row for row, cells in enumerate(rows, number) if len(cells) != width]
        return [row + [""] * (width - len(row)) for row in rows]

    def _parsed(self, lines: Iterable[str]) -> Iterator[list[str]]:
        # Python's limit of 131,072 characters belongs to the process; it is raised, never lowered.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL))
        reader = csv.reader(lines, delimiter=self._delimiter)
        try:
            yield from reader
        except csv.Error as error:
            raise DataError(
                f"{self._file.path}, line {reader.line_num}: {error}; is a quote not closed, or is this not a table?"
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

    def __init__(self, file: TextFile) -> None:
        self.blocks_read = 0
        self._file = file

    def __iter__(self) -> Iterator[str]:
        return itertools.chain.from_iterable(self._texts())

    def _texts(self) -> Iterator[Iterable[str]]:
        """The lines in groups, one for each block."""
        pending: list[str] = []
        for block in self._file.blocks():
            self.blocks_read += 1
            # A carriage return at the end may be half of a line end.
            cut = max(block.rfind("\n"), block.rfind("\r", 0, len(block) - 1)) + 1
            if not cut:
                pending.append(block)
                _refuse_long(self._file.path, sum(map(len, pending)))
                continue
            yield io.StringIO("".join([*pending, block[:cut]]), newline="")
            pending = [block[cut:]]
        yield io.StringIO("".join(pending), newline="")


def _refuse_long(path: Path, characters: int) -> None:
    if characters > MAX_CELL:
        raise DataError(f"{path} has a line or row of more than {MAX_CELL:,} characters; is it a table?")


# ---------------------------------------------------------------------------------------------------- JSON


class JsonReader:
    """JSON objects, each of which is a row: one on each line, or all in one list."""

    def __init__(self, file: TextFile) -> None:
        self._file = file
        # Numbers keep the text that stands in the file; NaN and infinities, which JSON lacks, are missing.
        self._decoder = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=lambda name: None)
        self._is_list = file.head().lstrip(_WHITE).startswith("[")

    def columns(self) -> list[str]:
        first = itertools.islice(self._rows(), _ROWS_WITH_COLUMNS)
        return list(dict.fromkeys(key for values in first for key in values))

    def find(self, name: str) -> Column | None:
        # A key may be absent from the first rows, so that a misspelt one is known at the end only.
        return name if any(name in values for values in self._rows()) else None

    def cells(self, columns: Sequence[Column]) -> Iterator[list[Cells]]:
        number, names = 0, [str(column) for column in columns]
        for batch in self._batches():
            cells: list[Cells] = [[] for _ in columns]
            for values in batch:
                number += 1
                for name, found in zip(names, cells, strict=True):
                    value = values.get(name)
                    if not isinstance(value, str) or not value:
                        value = _cell(value, self._file.path, number, name)
                    found.append(value)
            yield cells

    def _rows(self) -> Iterator[dict[str, Any]]:
        return itertools.chain.from_iterable(self._batches())

    def _batches(self) -> Iterator[Iterator[dict[str, Any]]]:
        """The rows in groups, one for each block. A group must be read before the next one is."""
        batches = _decoded_list(self._file, self._decoder) if self._is_list else self._decoded_lines()
        numbers = itertools.count(1)
        return (self._objects(batch, numbers) for batch in batches)

    def _objects(self, batch: Iterable[Any], numbers: Iterator[int]) -> Iterator[dict[str, Any]]:
        for values, row in zip(batch, numbers, strict=False):
            if not isinstance(values, dict):
                raise DataError(f"{self._file.path}, row {row} is not an object; a JSON table is a list of objects")
            yield values

    def _decoded_lines(self) -> Iterator[Iterator[Any]]:
        pending: list[str] = []
        line = 1
        for block in itertools.chain(self._file.blocks(), ["\n"]):
            pending.append(block)
            if "\n" not in block:
                _refuse_long(self._file.path, sum(map(len, pending)))
                continue
            *lines, rest = "".join(pending).split("\n")
            pending = [rest]
            yield self._decode(lines, line)
            line += len(lines)

    def _decode(self, lines: list[str], first: int) -> Iterator[Any]:
        decode = self._decoder.raw_decode
        for number, line in enumerate(lines, first):
            if not (text := line.strip(_WHITE)):
                continue
            try:
                value, end = decode(text)
                if end < len(text):
                    raise ValueError("something follows the object")
            except (ValueError, RecursionError) as error:
                raise _invalid_json(self._file.path, f"line {number}", error) from None
            yield value


def _invalid_json(path: Path, place: str, error: Exception) -> DataError:
    return DataError(
        f"{path}, {place} is not valid JSON ({str(error).partition(':')[0]:.60}); a table is one object on each line, "
        "or a list of objects"
    )


_LIST_STATES = {"start": "[", "first": "]", "value": "", "after": ",]", "end": ""}
"""State of the parser of a list -> the marks that may come. In "first" and "value" an element may come as well."""
_AFTER_MARK = {"[": "first", ",": "value", "]": "end"}


def _decoded_list(file: TextFile, decoder: json.JSONDecoder) -> Iterator[list[Any]]:
    """The elements of the list in ``file``, a batch for each block."""
    text, row, state = "", 1, "start"
    for block in itertools.chain(file.blocks(), [""]):  # the empty block is the end of the file
        text += block
        batch, position, error = list[Any](), 0, Exception("the list does not end")
        while (position := _skip_white(text, position)) < len(text):
            if (mark := text[position]) in _LIST_STATES[state]:
                state = _AFTER_MARK[mark]
                position += 1
                continue
            if state not in ("first", "value"):
                raise _invalid_json(file.path, f"row {row}", ValueError(f"unexpected {mark!r}"))
            try:
                value, position = decoder.raw_decode(text, position)
            except (ValueError, RecursionError) as invalid:  # or incomplete
                error = invalid
                break
            batch.append(value)
            row, state = row + 1, "after"
        text = text[position:]
        if len(text) > MAX_CELL or (not block and state != "end"):
            raise _invalid_json(file.path, f"row {row}", error)
        yield batch


def _skip_white(text: str, position: int) -> int:
    while position < len(text) and text[position] in _WHITE:
        position += 1
    return position


def _cell(value: Any, path: Path, row: int, column: str) -> str | None:
    """A value of JSON or Parquet as a text, None for a missing one. Raises ``DataError`` for a list or an object."""
    if isinstance(value, str):
        return value or None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, (list, dict, bytes)):
        raise DataError(
            f"{path}, row {row}: {column} holds a {type(value).__name__}, not a text; choose a column of texts"
        )
    return str(value).lower() if isinstance(value, bool) else str(value)


# ---------------------------------------------------------------------------------------------------- Parquet


class ParquetReader:
    """A Parquet file. Raises ``MissingInputError`` without pyarrow, ``DataError`` for a damaged file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as file:
            self._names = [str(name) for name in file.schema_arrow.names]

    def columns(self) -> list[str]:
        return self._names

    def find(self, name: str) -> Column | None:
        return name if name in self._names else None

    def cells(self, columns: Sequence[Column]) -> Iterator[list[Cells]]:
        number, names = 1, [str(column) for column in columns]
        with self._open() as file:
            for batch in file.iter_batches(_ROWS_OF_PARQUET, columns=list(dict.fromkeys(names))):
                yield [
                    [_cell(v, self._path, row, name) for row, v in enumerate(batch.column(name).to_pylist(), number)]
                    for name in names
                ]
                number += batch.num_rows

    @contextlib.contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise MissingInputError(
                f"{self._path} is a Parquet file, which needs pyarrow; install it: pip install 'charlm-lstm[tables]'"
            ) from None
        try:
            with parquet.ParquetFile(self._path) as file:
                yield file
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{self._path} is not a Parquet file that can be read ({error!s:.80})") from None
