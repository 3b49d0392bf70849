"""Writing the files of one split of a corpus."""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.corpus.conditions import without_prefixes
from charlm.corpus.hashing import DocumentHasher, Sums, document_sums
from charlm.corpus.pieces import Piece
from charlm.system.disk import naming
from charlm.tokenizer.conditions import prefix_mask
from charlm.tokenizer.protocol import Codes, Ids, Tokenizer, id_dtype


class Encoded(NamedTuple):
    """A piece as it is written, and what it adds to the description of its split."""

    ids: Ids
    ends: NDArray[np.int64]
    """[E] after how many of ``ids`` documents end."""
    prefix_ids: int
    characters: int
    """Those of the documents' texts, without conditions and ends; ``bytes`` likewise."""
    bytes: int
    sums: Sums | None
    """Those of the documents' texts, if there are documents."""


def encoded(piece: Piece, ids: Ids, tokenizer: Tokenizer) -> Encoded:
    """``piece``, whose ids without end markers are ``ids``."""
    ids = tokenizer.with_ends(ids, piece.ends).astype(id_dtype(tokenizer.vocabulary_size), copy=False)
    ends, prefix_ids, sums = np.zeros(0, np.int64), 0, None
    if tokenizer.document_kind:
        ends = np.flatnonzero(ids == tokenizer.end_id) + 1
        if tokenizer.separator_id is not None:  # two documents are equal whatever their conditions
            prefix_ids = int(np.count_nonzero(prefix_mask(tokenizer, ids)))
            piece = without_prefixes(piece)
        sums = document_sums(piece)
    codes = piece.codes
    return Encoded(
        ids, ends, prefix_ids, len(codes), len(codes) if tokenizer.kind == "byte" else _utf8_size(codes), sums
    )


def _utf8_size(codes: Codes) -> int:
    if codes.dtype.itemsize == 1:  # ASCII
        return len(codes)
    return len(codes) + sum(int(np.count_nonzero(codes >= start)) for start in (0x80, 0x800, 0x10000))


class SplitWriter:
    """Writes the ids of a split and, for documents, their ends, and computes its description in corpus.json.

    ``stack`` closes the files if ``finish`` is not reached.
    """

    def __init__(self, folder: Path, split: str, is_documents: bool, has_prefixes: bool, stack: ExitStack) -> None:
        self._has_prefixes = has_prefixes
        self._size = {"ids": 0, "characters": 0, "bytes": 0}
        self._documents = self._prefix_ids = 0
        self._ids = _HashedFile(folder / f"{split}.ids", stack)
        self._ends = _HashedFile(folder / f"{split}.ends", stack) if is_documents else None
        self._hasher = DocumentHasher()
        self._fingerprints: list[NDArray[np.uint64]] = []

    def write(self, piece: Encoded) -> None:
        """Add the next piece."""
        if self._ends is not None and piece.sums is not None:
            self._ends.write((piece.ends + self._size["ids"]).astype("<u8", copy=False))
            self._fingerprints.append(self._hasher.add(piece.sums))
        self._ids.write(piece.ids)
        self._documents += len(piece.ends)
        self._prefix_ids += piece.prefix_ids
        for name, count in (("ids", len(piece.ids)), ("characters", piece.characters), ("bytes", piece.bytes)):
            self._size[name] += count

    def fingerprints(self) -> NDArray[np.uint64]:
        """The fingerprints of all documents, ascending."""
        return np.sort(np.concatenate(self._fingerprints)) if self._fingerprints else np.zeros(0, np.uint64)

    def finish(self) -> dict[str, Any]:
        """Sync and close the files. Returns their description: sizes and digests."""
        description = {**self._size, "sha256": self._ids.finish()}
        if self._ends is None:
            return description
        if self._has_prefixes:
            description["prefix_ids"] = self._prefix_ids
        return {**description, "documents": self._documents, "ends_sha256": self._ends.finish()}


class _HashedFile:
    """A file that is written, synced and hashed. ``stack`` closes it if ``finish`` is not reached."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self._file = stack.enter_context(open(path, "wb"))  # noqa: SIM115  # closed by finish, or by ``stack``

    def write(self, numbers: NDArray[Any]) -> None:
        with naming(self._path):
            self._file.write(numbers.data)
        self._digest.update(numbers.data)

    def finish(self) -> str:
        """Sync and close the file. Returns its SHA-256 digest in hexadecimal."""
        with naming(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        return self._digest.hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Write and sync a file."""
    with naming(path), open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
