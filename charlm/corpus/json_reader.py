"""Rows of a table in JSON: one object on each line, or all in one list. In constant memory."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from charlm.corpus.encodings import Changes
from charlm.corpus.table_readers import MAX_CELL, Cells, Column, TextFile, cell_text, refuse_long
from charlm.errors import CharlmError, DataError

_ROWS_WITH_COLUMNS = 100
"""Rows whose keys are listed as columns."""
_WHITE = " \t\r\n"


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

    def cells(
        self, columns: Sequence[Column], changes: Changes | None = None, lines: list[int] | None = None
    ) -> Iterator[list[Cells]]:
        number, names = 0, [str(column) for column in columns]
        for batch in self._batches(changes, lines):
            cells: list[Cells] = [[] for _ in columns]
            try:
                for values in batch:
                    number += 1
                    for name, found in zip(names, cells, strict=True):
                        value = values.get(name)
                        if not isinstance(value, str) or not value:
                            value = cell_text(value, self._file.name, number, name)
                        found.append(value)
            except CharlmError:
                complete = min(map(len, cells), default=0)
                yield [found[:complete] for found in cells]
                raise
            yield cells

    def _rows(self) -> Iterator[dict[str, Any]]:
        return itertools.chain.from_iterable(self._batches())

    def _batches(
        self, changes: Changes | None = None, lines: list[int] | None = None
    ) -> Iterator[Iterator[dict[str, Any]]]:
        """The rows in groups, one for each block. A group must be read before the next one is."""
        if self._is_list:
            batches: Iterator[Iterable[Any]] = _decoded_list(self._file, self._decoder, changes)
        else:
            batches = self._decoded_lines(changes, lines)
        numbers = itertools.count(1)
        return (self._objects(batch, numbers) for batch in batches)

    def _objects(self, batch: Iterable[Any], numbers: Iterator[int]) -> Iterator[dict[str, Any]]:
        for values, row in zip(batch, numbers, strict=False):
            if not isinstance(values, dict):
                raise DataError(f"{self._file.name}, row {row} is not an object; a JSON table is a list of objects")
            yield values

    def _decoded_lines(self, changes: Changes | None, numbers: list[int] | None) -> Iterator[Iterator[Any]]:
        pending: list[str] = []
        line = 1
        for block in itertools.chain(self._file.blocks(changes), ["\n"]):
            pending.append(block)
            if "\n" not in block:
                refuse_long(self._file.name, sum(map(len, pending)))
                continue
            *lines, rest = "".join(pending).split("\n")
            pending = [rest]
            yield self._decode(lines, line, numbers)
            line += len(lines)

    def _decode(self, lines: list[str], first: int, numbers: list[int] | None) -> Iterator[Any]:
        decode = self._decoder.raw_decode
        for number, line in enumerate(lines, first):
            if not (text := line.strip(_WHITE)):
                continue
            try:
                value, end = decode(text)
                if end < len(text):
                    raise ValueError("something follows the object")
            except (ValueError, RecursionError) as error:
                raise _invalid_json(self._file.name, f"line {number}", error) from None
            if numbers is not None:
                numbers.append(number)
            yield value


def _invalid_json(name: str, place: str, error: Exception) -> DataError:
    return DataError(
        f"{name}, {place} is not valid JSON ({str(error).partition(':')[0]:.60}); a table is one object on each line, "
        "or a list of objects"
    )


_LIST_STATES = {"start": "[", "first": "]", "value": "", "after": ",]", "end": ""}
"""State of the parser of a list -> the marks that may come. In "first" and "value" an element may come as well."""
_AFTER_MARK = {"[": "first", ",": "value", "]": "end"}


def _decoded_list(file: TextFile, decoder: json.JSONDecoder, changes: Changes | None) -> Iterator[list[Any]]:
    """The elements of the list in ``file``, a batch for each block."""
    text, row, state = "", 1, "start"
    for block in itertools.chain(file.blocks(changes), [""]):  # the empty block is the end of the file
        text += block
        batch, position, error = list[Any](), 0, Exception("the list does not end")
        while (position := _skip_white(text, position)) < len(text):
            if (mark := text[position]) in _LIST_STATES[state]:
                state = _AFTER_MARK[mark]
                position += 1
                continue
            if state not in ("first", "value"):
                yield batch
                raise _invalid_json(file.name, f"row {row}", ValueError(f"unexpected {mark!r}"))
            try:
                value, position = decoder.raw_decode(text, position)
            except (ValueError, RecursionError) as invalid:  # or incomplete
                error = invalid
                break
            batch.append(value)
            row, state = row + 1, "after"
        text = text[position:]
        yield batch
        if len(text) > MAX_CELL or (not block and state != "end"):
            raise _invalid_json(file.name, f"row {row}", error)


def _skip_white(text: str, position: int) -> int:
    while position < len(text) and text[position] in _WHITE:
        position += 1
    return position
