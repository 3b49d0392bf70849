"""Rows of a table in Parquet, which needs the library pyarrow. In constant memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from charlm.corpus.encodings import Changes
from charlm.corpus.table_readers import Cells, Column, cell_text
from charlm.errors import DataError, MissingInputError

_ROWS_AT_A_TIME = 1 << 10


class ParquetReader:
    """A Parquet file, called ``name``.

    Raises ``MissingInputError`` without pyarrow, ``DataError`` for a damaged file.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        with self._open() as file:
            self._names = [str(name) for name in file.schema_arrow.names]

    def columns(self) -> list[str]:
        return self._names

    def find(self, name: str) -> Column | None:
        return name if name in self._names else None

    def cells(
        self, columns: Sequence[Column], changes: Changes | None = None, lines: list[int] | None = None
    ) -> Iterator[list[Cells]]:
        number, names = 1, [str(column) for column in columns]
        with self._open() as file:
            for batch in file.iter_batches(_ROWS_AT_A_TIME, columns=list(dict.fromkeys(names))):
                yield [
                    [
                        cell_text(v, self._name, row, name)
                        for row, v in enumerate(batch.column(name).to_pylist(), number)
                    ]
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
                f"{self._name} is a Parquet file, which needs pyarrow; install it: pip install 'charlm-lstm[tables]'"
            ) from None
        try:
            with parquet.ParquetFile(self._path) as file:
                yield file
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{self._name} is not a Parquet file that can be read ({error!s:.80})") from None
