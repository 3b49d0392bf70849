"""Writing the files of one split of a corpus."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.corpus.conditions import without_prefixes
from charlm.corpus.hashing import DocumentHasher
from charlm.corpus.pieces import Piece
from charlm.system.disk import naming
from charlm.tokenizer.conditions import prefix_mask
from charlm.tokenizer.protocol import Ids, Tokenizer, id_dtype


class SplitWriter:
    """Writes the ids of a split and, for documents, their ends, and computes its description in corpus.json.

    ``stack`` closes the files if ``finish`` is not reached.
    """

    def __init__(self, folder: Path, split: str, tokenizer: Tokenizer, stack: contextlib.ExitStack) -> None:
        self._tokenizer = tokenizer
        self._dtype = id_dtype(tokenizer.vocabulary_size)
        self._counts_V = np.zeros(tokenizer.vocabulary_size, np.int64)
        self._prefix_counts_V = np.zeros(tokenizer.vocabulary_size, np.int64)
        self._ids = _HashedFile(folder / f"{split}.ids", stack)
        self._ends = _HashedFile(folder / f"{split}.ends", stack) if tokenizer.document_kind else None
        self._hasher = DocumentHasher()
        self._fingerprints: list[NDArray[np.uint64]] = []

    def write(self, ids: Ids, piece: Piece) -> None:
        """Add ``piece``, whose ids without end markers are ``ids``."""
        ids = self._tokenizer.with_ends(ids, piece.ends)
        if self._ends is not None:
            ends = np.flatnonzero(ids == self._tokenizer.end_id) + 1
            self._ends.write((ends + int(self._counts_V.sum())).astype("<u8").tobytes())
            if self._tokenizer.separator_id is not None:  # two documents are equal whatever their conditions
                prefixes = prefix_mask(self._tokenizer, ids)
                self._prefix_counts_V += np.bincount(ids[prefixes], minlength=self._tokenizer.vocabulary_size)
                piece = without_prefixes(piece)
            self._fingerprints.append(self._hasher.update(piece))
        self._ids.write(ids.astype(self._dtype, copy=False).tobytes())
        self._counts_V += np.bincount(ids, minlength=self._tokenizer.vocabulary_size)

    def fingerprints(self) -> NDArray[np.uint64]:
        """The fingerprints of all documents, ascending."""
        return np.sort(np.concatenate(self._fingerprints)) if self._fingerprints else np.zeros(0, np.uint64)

    def finish(self) -> dict[str, Any]:
        """Sync and close the files. Returns their description: sizes and digests."""
        end_id = self._tokenizer.end_id
        documents = 0 if end_id is None else int(self._counts_V[end_id])
        predicted_V = self._counts_V - self._prefix_counts_V
        description = {
            "ids": int(self._counts_V.sum()),
            "characters": int(predicted_V[self._tokenizer.starts_character].sum()) - documents,
            "bytes": int(predicted_V @ self._tokenizer.byte_lengths) - documents,
            "sha256": self._ids.finish(),
        }
        if self._ends is None:
            return description
        if self._tokenizer.separator_id is not None:
            description["prefix_ids"] = int(self._prefix_counts_V.sum())
        return {**description, "documents": documents, "ends_sha256": self._ends.finish()}


class _HashedFile:
    """A file that is written, synced and hashed. ``stack`` closes it if ``finish`` is not reached."""

    def __init__(self, path: Path, stack: contextlib.ExitStack) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self._file = stack.enter_context(open(path, "wb"))  # noqa: SIM115  # closed by finish, or by ``stack``

    def write(self, data: bytes) -> None:
        with naming(self._path):
            self._file.write(data)
        self._digest.update(data)

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
