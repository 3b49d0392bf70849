"""Arrays of ids on disk, read by position."""

from __future__ import annotations

import hashlib
import os
import stat
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from charlm.errors import DataError, InputOutputError, MissingInputError
from charlm.tokenizer.protocol import Ids

MAX_CACHED_BYTES = 1 << 25


class IdFile:
    """``length`` ids on disk, read by position. The file is not memory-mapped, so that reading it needs no memory.

    Raises ``MissingInputError`` where the file is missing, ``DataError`` where it has another size. ``maximum`` is the
    largest valid id; positions are ``ascending``. Errors end with ``advice``.
    """

    def __init__(
        self,
        path: Path,
        dtype: np.dtype[Any],
        length: int,
        maximum: int | None = None,
        ascending: bool = False,
        advice: str = "prepare the corpus again",
    ) -> None:
        self._advice = advice
        self.path = path
        self.dtype = dtype
        self.length = length
        self._maximum = maximum
        self._ascending = ascending
        self._cached: Ids | None = None
        try:
            # Non-blocking, because the path may be a pipe.
            self._handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        except OSError as error:
            raise MissingInputError(f"{path} cannot be opened ({error.strerror}); {advice}") from None
        weakref.finalize(self, os.close, self._handle)
        status = os.fstat(self._handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size != length * dtype.itemsize:
            raise DataError(f"{path} does not have the size that its description says; {advice}")

    def __len__(self) -> int:
        return self.length

    def cache(self) -> None:
        """Keep a file of up to ``MAX_CACHED_BYTES`` in memory, where reading a few ids is many times faster."""
        if self.length * self.dtype.itemsize <= MAX_CACHED_BYTES:
            self._cached = self.read(0, self.length)

    def read(self, start: int, stop: int) -> Ids:
        """Ids ``start`` to ``stop`` (exclusive) in the dtype of the file.

        Raises ``InputOutputError``, and ``DataError`` for invalid ids or positions.
        """
        if not 0 <= start <= stop:
            raise self._damaged()
        if self._cached is not None:
            return self._cached[start:stop]
        itemsize = self.dtype.itemsize
        expected = (stop - start) * itemsize
        try:
            data = _read_at(self._handle, expected, start * itemsize)
        except OSError as error:
            raise InputOutputError(f"{self.path} could not be read ({error.strerror}); check the disk") from None
        if len(data) != expected:
            end = start * itemsize + len(data)
            raise InputOutputError(f"{self.path} ended at byte {end}: it was cut while in use; {self._advice}")
        ids: Ids = np.frombuffer(data, self.dtype)
        if self._maximum is not None and len(ids) and ids.max() > self._maximum:
            raise self._damaged()
        if self._ascending and not (ids[:-1] < ids[1:]).all():
            raise self._damaged()
        return ids

    def _damaged(self) -> DataError:
        return DataError(f"{self.path} is damaged: it has values out of range; {self._advice}")

    def sha256(self) -> str:
        """The SHA-256 digest of the whole file, in hexadecimal. Raises ``InputOutputError``."""
        return _file_digest(self.path)


def _read_at(handle: int, size: int, position: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(handle, size, position)
    os.lseek(handle, position, os.SEEK_SET)  # Windows has no pread
    return os.read(handle, size)


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while data := file.read(1 << 20):
                digest.update(data)
    except OSError as error:
        raise InputOutputError(f"{path} could not be read ({error.strerror}); check the disk") from None
    return digest.hexdigest()
