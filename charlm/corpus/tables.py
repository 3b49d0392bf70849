"""Tables: one column of a table is a corpus, and each of its cells is a document, with its line ends.

A table is delimited text (.csv, .tsv), JSON lines (.jsonl, .ndjson), a JSON list of objects (.json) or Parquet
(.parquet). A file with another name, and stdin, is a table where a column is named; its first characters tell the form.
"""

from __future__ import annotations

import difflib
import itertools
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from charlm.corpus.conditions import MAX_VALUE_CHARACTERS, with_values, without_prefixes
from charlm.corpus.documents import Piece
from charlm.corpus.table_readers import (
    Cells,
    Column,
    DelimitedReader,
    JsonReader,
    ParquetReader,
    TableReader,
    TextFile,
)
from charlm.corpus.text import TextSource, open_source, read_blocks
from charlm.corpus.trained_table import listed
from charlm.errors import DataError, MissingInputError, UsageError
from charlm.tokenizer.protocol import Codes, code_points

logger = logging.getLogger("charlm")

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_PARQUET_MAGIC = b"PAR1"
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class TableOptions:
    """Which column of a table is the text, which is its condition (None: none), what separates them (None: guessed).

    Raises ``UsageError`` for an invalid delimiter, and for one column as both.
    """

    column: str
    delimiter: str | None = None
    given: str | None = None

    def __post_init__(self) -> None:
        if self.delimiter is not None:
            parse_delimiter(self.delimiter)
        if self.given == self.column:
            raise UsageError(f"the column {self.column!r:.60} cannot be text and condition; name two columns")


def parse_delimiter(text: str) -> str:
    """The character that ``text`` stands for: itself, or a tab for "tab" and "\\t". Raises ``UsageError``."""
    delimiter = "\t" if text in ("tab", "\\t") else text
    if len(delimiter) != 1 or delimiter in '"\r\n\0 ':
        raise UsageError(f"--delimiter must be one character, such as ';' or tab, not {text!r:.40}")
    return delimiter


class TableBlock(NamedTuple):
    """Documents from consecutive rows of a table."""

    piece: Piece
    numbers: list[int]
    """The number of each document's row, from 1 in its file. The header and blank lines are not rows."""
    kept: list[Cells]
    """The cells of the columns that were asked for, for each of these as many as documents."""


class TableSource(TextSource):
    """The texts in one column of the tables ``source``. Created by ``open_table``.

    Raises ``UsageError`` if a table lacks the column, and the errors of its reader.
    """

    def __init__(self, source: TextSource, options: TableOptions) -> None:
        super().__init__(source.names, source.paths, source.encoding, source.name)
        self.options = options
        self._readers = [(path, make_reader(path, source.encoding, options.delimiter)) for path in self.paths]
        for path, reader in self._readers:
            for name in self._own_columns():
                find_column(reader, path, name)
        self._reported = False

    def documents(self, kind: str, document_kind: str, keep_empty: bool = False) -> Iterator[Piece]:
        """Each cell is one document, whatever ``document_kind`` says. Pieces hold whole documents."""
        return (block.piece for block in self.blocks(kind, keep_empty=keep_empty))

    def has_column(self, name: str) -> bool:
        """Whether all tables have the column ``name``."""
        return all(reader.find(name) is not None for _, reader in self._readers)

    def _own_columns(self) -> list[str]:
        """The column of the texts and that of the conditions, if there is one."""
        return [self.options.column] + ([] if self.options.given is None else [self.options.given])

    def blocks(self, kind: str, keep: Sequence[str] = (), keep_empty: bool = False) -> Iterator[TableBlock]:
        """The documents with their rows' numbers, and the cells of the columns ``keep``.

        Documents begin with their conditions, if there are any. Rows without a condition are left out, and those
        without a text unless ``keep_empty``. Raises ``UsageError`` if a table lacks a column.
        """
        own = self._own_columns()
        missing = [0] * len(own)
        for path, reader in self._readers:
            columns = [find_column(reader, path, name) for name in (*own, *keep)]
            number = 0
            for cells in reader.cells(columns):
                rows: list[list[Any]] = [list(range(number + 1, number + len(cells[0]) + 1)), *cells]
                number += len(cells[0])
                if len(own) > 1:
                    rows[2] = [None if value is None else value.strip() or None for value in rows[2]]
                for place in range(int(keep_empty), len(own)):
                    if None in (column := rows[1 + place]):
                        missing[place] += column.count(None)
                        rows = _where([cell is not None for cell in column], rows)
                numbers, *rest = rows
                yield TableBlock(self._piece(rest, kind), numbers, rest[len(own) :])
        self._report(dict(zip(own, missing, strict=True)))

    def _piece(self, columns: list[list[Any]], kind: str) -> Piece:
        texts = make_piece([text or "" for text in columns[0]], kind)
        if self.options.given is None:
            return texts
        for value in set(columns[1]):
            if len(value) > MAX_VALUE_CHARACTERS:
                raise DataError(
                    f"{self.name}: the {self.options.given} {value!r:.40} has more than {MAX_VALUE_CHARACTERS} "
                    "characters; a condition is one of a few short values"
                )
        return with_values(make_piece(columns[1], kind), texts)

    def _report(self, missing: dict[str, int]) -> None:
        parts = [f"{count:,} rows without {name}" for name, count in missing.items() if count]
        if parts and not self._reported:
            self._reported = True
            logger.warning("%s: %s are left out", self.name, " and ".join(parts))

    def codes(self, kind: str) -> Iterator[Codes]:
        """The cells as one running text, a line feed after each, without conditions."""
        for piece in self.documents(kind, "rows"):
            codes, ends = piece if self.options.given is None else without_prefixes(piece)
            yield np.insert(codes, ends, 0x0A)

    def files(self, kind: str) -> Iterator[Iterator[Codes]]:
        """The running text of ``codes``, of all tables together."""
        return iter([self.codes(kind)])


def _where(chosen: list[bool], columns: list[list[Any]]) -> list[list[Any]]:
    """The chosen elements of each list."""
    return [list(itertools.compress(column, chosen)) for column in columns]


def make_piece(cells: Sequence[str], kind: str) -> Piece:
    """``cells`` as documents: code points for the tokenizer kind "char", UTF-8 bytes for "byte".

    Raises ``DataError`` for a lone surrogate, which JSON can hold.
    """
    try:
        if kind == "byte":
            encoded = [cell.encode("utf-8", "surrogateescape") for cell in cells]
            codes, lengths = np.frombuffer(b"".join(encoded), np.uint8), [len(cell) for cell in encoded]
        else:
            codes, lengths = code_points("".join(cells)), [len(cell) for cell in cells]
    except (UnicodeEncodeError, DataError):
        wrong = next(cell for cell in cells if not cell.isascii() and _SURROGATE.search(cell))
        raise DataError(f"the cell {wrong!r:.60} has half of a character, a lone surrogate; correct it") from None
    return Piece(codes, np.cumsum(lengths, dtype=np.int64))


# ---------------------------------------------------------------------------------------------------- opening


def open_texts(
    names: Sequence[str],
    encoding: str = "utf-8",
    spool: Path | None = None,
    any_file: bool = False,
    table: TableOptions | None = None,
    as_text: bool = False,
    default: TableOptions | None = None,
    advice: str = "choose one with --column NAME, or read it as it stands with --as-text",
) -> TextSource:
    """``open_source``, or ``open_table`` where ``table`` names a column.

    ``default`` is used where all ``names`` are tables. Raises ``UsageError``, which ends with ``advice``, for a table
    without a column, unless ``as_text`` says to read it as it stands.
    """
    if table is not None:
        return open_table(names, table, encoding, spool)
    source = open_source(names, encoding, spool, any_file)
    tables = [] if as_text else [name for name in names if _tables_of(name, source)]
    if len(tables) == len(names) and default is not None:
        return open_table(names, default, encoding, spool)
    if tables:
        first, *more = _tables_of(tables[0], source)
        what = "a folder of tables" if more or first != Path(tables[0]) else "a table"
        columns = listed(make_reader(first, encoding).columns())
        raise UsageError(f"{tables[0]} is {what} with the columns {columns}; {advice}")
    return source


def open_table(
    names: Sequence[str], options: TableOptions, encoding: str = "utf-8", spool: Path | None = None
) -> TableSource:
    """The texts in one column of files, of all tables in folders, or of ``-`` for stdin.

    Raises the errors of ``open_source`` and of ``TableSource``.
    """
    return TableSource(find_tables(names, encoding, spool), options)


def find_tables(names: Sequence[str], encoding: str, spool: Path | None = None) -> TextSource:
    """The files of ``open_table``, which are not read."""
    source = open_source(names, encoding, spool, any_file=True)
    folders = {Path(name) for name in names if name != "-" and Path(name).is_dir()}
    paths = [path for path in source.paths if table_suffix(path) or not folders.intersection(path.parents)]
    if not paths:
        raise MissingInputError(f"{', '.join(names)[:80]} has no table in it ({', '.join(TABLE_SUFFIXES)})")
    return TextSource(source.names, paths, encoding, source.name)


def _tables_of(name: str, source: TextSource) -> list[Path]:
    """The table ``name``, or the files of a folder with nothing but tables; empty if it is neither."""
    path = Path(name)
    if name == "-":
        return []
    files = [file for file in source.paths if path in file.parents] if path.is_dir() else [path]
    return files if all(is_table(file, source.encoding) for file in files) else []


def is_table(path: Path, encoding: str = "utf-8") -> bool:
    """Whether the name of a file says that it is a table, and a JSON file is one of rows indeed."""
    suffix = table_suffix(path)
    if suffix in (".csv", ".tsv"):
        return True
    if suffix == ".parquet":
        return next(read_blocks(path), b"").startswith(_PARQUET_MAGIC)
    if suffix is None:
        return False
    head = TextFile(path, encoding).head().lstrip()
    return head.startswith("{") if suffix != ".json" else _has_json_rows(head)


def _has_json_rows(head: str) -> bool:
    """Whether a .json file is a list of objects or JSON lines; others hold settings or data of another form."""
    if head.startswith("["):
        return head[1:].lstrip().startswith("{")
    first, _, rest = head.partition("\n")
    try:
        return isinstance(json.loads(first), dict) and rest.lstrip().startswith("{")
    except (ValueError, RecursionError):
        return False


def table_suffix(path: Path) -> str | None:
    """The suffix that makes ``path`` the name of a table, without that of a compression. None if it has none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in TABLE_SUFFIXES else None


def make_reader(path: Path, encoding: str, delimiter: str | None = None) -> TableReader:
    """A reader for the form of the file, which its name or its first characters tell."""
    suffix, file = table_suffix(path), TextFile(path, encoding)
    if suffix == ".parquet" or (suffix is None and next(read_blocks(path), b"").startswith(_PARQUET_MAGIC)):
        return ParquetReader(path)
    if suffix in (".jsonl", ".ndjson", ".json") or (suffix is None and file.head().lstrip().startswith(("{", "["))):
        return JsonReader(file)
    if delimiter is not None:
        return DelimitedReader(file, parse_delimiter(delimiter))
    return DelimitedReader(file, "\t" if suffix == ".tsv" else None)


def find_column(reader: TableReader, path: Path, name: str) -> Column:
    """What ``reader`` calls the column ``name``. Raises ``UsageError`` if there is none, with the most similar name."""
    column = reader.find(name)
    if column is not None:
        return column
    names = reader.columns()
    similar = difflib.get_close_matches(name.lower(), [other.lower() for other in names], 1)
    guess = next((f"did you mean {other!r:.60}? " for other in names if similar and other.lower() == similar[0]), "")
    raise UsageError(f"{path} has no column {name!r:.60}; {guess}its columns are {listed(names)}")
