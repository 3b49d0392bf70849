"""Ids on disk, read by position."""

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

MOST_HELD = 1 << 25


class IdFile:
    """Ids on disk, read by position. Nothing is mapped: what was read costs no memory afterwards."""

    def __init__(self, path: Path, dtype: np.dtype[Any], length: int) -> None:
        self.path = path
        self.dtype = dtype
        self.length = length
        self._held: Ids | None = None
        try:
            # Without waiting for the other end, should it be a pipe.
            self._handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        except OSError as error:
            raise MissingInputError(f"{path} cannot be opened ({error.strerror}); prepare the corpus again") from None
        weakref.finalize(self, os.close, self._handle)
        status = os.fstat(self._handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size != length * dtype.itemsize:
            raise DataError(f"{path} has not the size that corpus.json says; prepare the corpus again")

    def __len__(self) -> int:
        return self.length

    def hold(self) -> None:
        """Keep a file of up to ``MOST_HELD`` bytes in memory, where reading a few ids is many times cheaper."""
        if self.length * self.dtype.itemsize <= MOST_HELD:
            self._held = self.read(0, self.length)

    def read(self, start: int, stop: int) -> Ids:
        """Ids ``start`` to ``stop`` (exclusive), in the narrow dtype of the file."""
        if self._held is not None:
            return self._held[start:stop]
        size = self.dtype.itemsize
        wanted = (stop - start) * size
        try:
            data = _read_at(self._handle, wanted, start * size)
        except OSError as error:
            raise InputOutputError(f"{self.path} could not be read: {error.strerror}") from None
        if len(data) != wanted:
            raise InputOutputError(f"{self.path} ended at byte {start * size + len(data)}; it was cut while in use")
        return np.frombuffer(data, self.dtype)

    def sha256(self) -> str:
        """Digest of the whole file."""
        return _file_digest(self.path)


def _read_at(handle: int, size: int, position: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(handle, size, position)
    os.lseek(handle, position, os.SEEK_SET)  # Windows has no pread
    return os.read(handle, size)


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()
