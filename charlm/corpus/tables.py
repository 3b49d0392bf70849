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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from charlm.corpus.blocks import read_blocks
from charlm.corpus.conditions import MAX_VALUE_CHARACTERS, with_values, without_prefixes
from charlm.corpus.encodings import REPLACEMENT, Changes, Decoding
from charlm.corpus.formats import HEAD_BYTES, PARQUET, recognize, zip_member
from charlm.corpus.json_reader import JsonReader
from charlm.corpus.parquet_reader import ParquetReader
from charlm.corpus.pieces import Piece
from charlm.corpus.table_readers import Cells, Column, DelimitedReader, TableReader, TextFile
from charlm.corpus.text import TextSource, open_source
from charlm.corpus.trained_table import listed
from charlm.errors import DataError, MissingInputError, UsageError
from charlm.tokenizer.normalization import Normalizer
from charlm.tokenizer.protocol import Codes, code_points

logger = logging.getLogger("charlm")

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
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
    lines: list[int | None]
    """The line on which each row begins; None where rows have no lines, and unless asked for."""
    file: int
    """From 0, the place of the table among the files."""
    kept: list[Cells]
    """The cells of the columns that were asked for, for each of these as many as documents."""


class TableSource(TextSource):
    """The texts in one column of the tables ``source``. Created by ``open_table``.

    Raises ``UsageError`` if a table lacks the column, and the errors of its reader.
    """

    def __init__(self, source: TextSource, options: TableOptions) -> None:
        super().__init__(source.names, source.paths, source.decoding, source.name, source.stdin)
        self.options = options
        self._readers = [(path, make_reader(self._file(path), options.delimiter)) for path in self.paths]
        for path, reader in self._readers:
            for name in self._own_columns():
                find_column(reader, self.shown_name(path), name)
        self._reported = False

    def _file(self, path: Path) -> TextFile:
        return TextFile(path, self.decoding, self.shown_name(path))

    def documents(
        self,
        kind: str,
        document_kind: str,
        keep_empty: bool = False,
        start: str | None = None,
        merge: bool = False,
    ) -> Iterator[Piece]:
        """Each cell is one document, whatever ``document_kind`` says. Pieces hold whole documents."""
        return (block.piece for block in self.blocks(kind, keep_empty=keep_empty))

    def has_column(self, name: str) -> bool:
        """Whether all tables have the column ``name``."""
        return all(reader.find(name) is not None for _, reader in self._readers)

    def _own_columns(self) -> list[str]:
        """The column of the texts and that of the conditions, if there is one."""
        return [self.options.column] + ([] if self.options.given is None else [self.options.given])

    def blocks(
        self, kind: str, keep: Sequence[str] = (), keep_empty: bool = False, with_lines: bool = False
    ) -> Iterator[TableBlock]:
        """The documents with their rows' numbers, and the cells of the columns ``keep``, which are not normalized.

        Documents begin with their conditions, if there are any. Rows without a condition are left out, and those
        without a text unless ``keep_empty``; with "skip-document" those with bytes that are not valid in one of them.
        Raises ``UsageError`` if a table lacks a column.
        """
        self.changes = Changes()
        own, reads_marks = self._own_columns(), self.decoding.errors == "skip-document"
        missing = [0] * len(own)
        for file, (path, reader) in enumerate(self._readers):
            columns = [find_column(reader, self.shown_name(path), name) for name in (*own, *keep)]
            number, lines = 0, list[int]()
            for cells in reader.cells(columns, self.changes, lines if with_lines else None):
                count = len(cells[0])
                places: list[int | None] = [*lines[:count]] if len(lines) >= count else [None] * count
                rows: list[list[Any]] = [[*range(number + 1, number + count + 1)], places, *cells]
                number += count
                lines.clear()
                if len(own) > 1:
                    rows[3] = [None if value is None else value.strip() or None for value in rows[3]]
                for place in range(int(keep_empty), len(own)):
                    if None in (column := rows[2 + place]):
                        missing[place] += column.count(None)
                        rows = _where([cell is not None for cell in column], rows)
                if reads_marks:
                    rows = self._without_marks(rows, len(own))
                numbers, places, *rest = rows
                kept = [_shown(column) for column in rest[len(own) :]] if reads_marks else rest[len(own) :]
                yield TableBlock(self._piece(rest, kind), numbers, places, file, kept)
        self._report(dict(zip(own, missing, strict=True)))

    def _without_marks(self, rows: list[list[Any]], own: int) -> list[list[Any]]:
        """The rows without a surrogate, which marks invalid bytes, in a text or a condition; others are counted."""
        valid = [
            not any(cell and not cell.isascii() and _SURROGATE.search(cell) for cell in cells)
            for cells in zip(*rows[2 : 2 + own], strict=True)
        ]
        self.changes.skipped += valid.count(False)
        return rows if all(valid) else _where(valid, rows)

    def _piece(self, columns: list[list[Any]], kind: str) -> Piece:
        texts = make_piece([self._normal(text or "") for text in columns[0]], kind)
        if self.options.given is None:
            return texts
        values = [self._normal(value) for value in columns[1]]
        for value in set(values):
            if len(value) > MAX_VALUE_CHARACTERS:
                raise DataError(
                    f"{self.name}: the {self.options.given} {value!r:.40} has more than {MAX_VALUE_CHARACTERS} "
                    "characters; a condition is one of a few short values"
                )
        return with_values(make_piece(values, kind), texts)

    def _normal(self, cell: str) -> str:
        if self.decoding.normalization == "none" or cell.isascii():
            return cell
        normalizer = Normalizer(self.decoding.normalization)
        normal = "".join(normalizer.blocks([cell]))
        self.changes.normalized += normalizer.changed
        return normal

    def _report(self, missing: dict[str, int]) -> None:
        parts = [f"{count:,} rows without {name}" for name, count in missing.items() if count]
        if parts and not self._reported:
            self._reported = True
            logger.warning("%s: %s are left out", self.name, " and ".join(parts))

    def codes(self, kind: str) -> Iterator[Codes]:
        """The cells as one running text, a line feed after each, without conditions."""
        for piece in self.documents(kind, "rows"):
            codes, ends, _ = piece if self.options.given is None else without_prefixes(piece)
            yield np.insert(codes, ends, 0x0A)

    def files(self, kind: str) -> Iterator[Iterator[Codes]]:
        """The running text of ``codes``, of all tables together."""
        return iter([self.codes(kind)])


def _where(chosen: list[bool], columns: list[list[Any]]) -> list[list[Any]]:
    """The chosen elements of each list."""
    return [list(itertools.compress(column, chosen)) for column in columns]


def _shown(column: Cells) -> Cells:
    """Cells without marks of invalid bytes."""
    return [cell if cell is None or cell.isascii() else _SURROGATE.sub(REPLACEMENT, cell) for cell in column]


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
    decoding: Decoding | None = None,
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
        return open_table(names, table, decoding, spool)
    source = open_source(names, spool=spool, any_file=any_file, decoding=decoding, parquet=not as_text)
    tables = [] if as_text else [name for name in names if _tables_of(name, source)]
    if len(tables) == len(names) and default is not None:
        return open_table(names, default, decoding, spool)
    if tables:
        first, *more = _tables_of(tables[0], source)
        what = "a folder of tables" if more or first != Path(tables[0]) else "a table"
        columns = listed(make_reader(_text_file(first, source)).columns())
        raise UsageError(f"{tables[0]} is {what} with the columns {columns}; {advice}")
    return source


def open_table(
    names: Sequence[str], options: TableOptions, decoding: Decoding | None = None, spool: Path | None = None
) -> TableSource:
    """The texts in one column of files, of all tables in folders, or of ``-`` for stdin.

    Raises the errors of ``open_source`` and of ``TableSource``.
    """
    return TableSource(find_tables(names, decoding, spool), options)


def find_tables(names: Sequence[str], decoding: Decoding | None = None, spool: Path | None = None) -> TextSource:
    """The files of ``open_table``, which are not read."""
    decoding = decoding or Decoding()
    # A table is always characters.
    decoding = replace(decoding, options=[option for option in decoding.options if option != "--tokenizer"])
    source = open_source(names, spool=spool, any_file=True, decoding=decoding)
    folders = {Path(name) for name in names if name != "-" and Path(name).is_dir()}
    paths = [path for path in source.paths if table_suffix(path) or not folders.intersection(path.parents)]
    if not paths:
        raise MissingInputError(f"{', '.join(names)[:80]} has no table in it ({', '.join(TABLE_SUFFIXES)})")
    return TextSource(source.names, paths, decoding, source.name, source.stdin)


def _tables_of(name: str, source: TextSource) -> list[Path]:
    """The table ``name``, or the files of a folder with nothing but tables; empty if it is neither."""
    path = Path(name)
    if name == "-":
        return []
    files = [file for file in source.paths if path in file.parents] if path.is_dir() else [path]
    return files if all(is_table(_text_file(file, source)) for file in files) else []


def _text_file(path: Path, source: TextSource) -> TextFile:
    return TextFile(path, source.decoding, source.shown_name(path))


def is_table(file: TextFile) -> bool:
    """Whether the name of a file says that it is a table, and a JSON file is one of rows indeed."""
    suffix = table_suffix(file.path)
    if suffix in (".csv", ".tsv"):
        return True
    if suffix == ".parquet":
        return _head(file.path).startswith(b"PAR1")
    if suffix is None:
        return False
    head = file.head().lstrip()
    return head.startswith("{") if suffix != ".json" else _has_json_rows(head)


def _head(path: Path) -> bytes:
    """The first bytes of a file as they are on disk."""
    return next(read_blocks(path, unpack=False, any_file=True, size=HEAD_BYTES), b"")


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
    """The suffix that makes ``path`` the name of a table, without that of a compression. None if it has none.

    Of a zip file it is that of the one file in it.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        packing = suffixes.pop()
        if packing == ".zip" and (member := zip_member(path)):
            suffixes = [suffix.lower() for suffix in Path(member).suffixes]
    return suffixes[-1] if suffixes and suffixes[-1] in TABLE_SUFFIXES else None


def make_reader(file: TextFile, delimiter: str | None = None) -> TableReader:
    """A reader for the form of the file, which its name or its first characters tell."""
    suffix, format_ = table_suffix(file.path), recognize(_head(file.path))
    # Parquet that is packed is refused where it is read as text: its content is compressed anyway.
    if format_ is PARQUET or (suffix == ".parquet" and (format_ is None or not format_.packing)):
        return ParquetReader(file.path, file.name)
    if suffix in (".jsonl", ".ndjson", ".json") or (suffix is None and file.head().lstrip().startswith(("{", "["))):
        return JsonReader(file)
    if delimiter is not None:
        return DelimitedReader(file, parse_delimiter(delimiter))
    return DelimitedReader(file, "\t" if suffix == ".tsv" else None)


def find_column(reader: TableReader, table: str, name: str) -> Column:
    """What ``reader`` calls the column ``name``. Raises ``UsageError`` if there is none, with the most similar name."""
    column = reader.find(name)
    if column is not None:
        return column
    names = reader.columns()
    similar = difflib.get_close_matches(name.lower(), [other.lower() for other in names], 1)
    guess = next((f"did you mean {other!r:.60}? " for other in names if similar and other.lower() == similar[0]), "")
    raise UsageError(f"{table} has no column {name!r:.60}; {guess}its columns are {listed(names)}")
