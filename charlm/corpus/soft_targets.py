"""Soft targets: at each position of the training split, the most likely ids there and their probabilities.

A teacher, a model that was trained before, gives them (Hinton et al. 2015). They are kept in a folder of the run:

    soft-targets/ids                N x K ids, in the type of the corpus's ids
    soft-targets/probabilities      N x K numbers of float16; a position's sum is about 1
    soft-targets/soft-targets.json  N, K, the teachers, and the digests of both files

N positions, T time steps, B streams or documents, K likely ids.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.config import MAX_JSON_BYTES, dump_json, parse_json
from charlm.corpus.batches import IGNORE_INDEX, Chunk
from charlm.corpus.id_files import IdFile
from charlm.corpus.prepared import Corpus
from charlm.errors import DataError, MissingInputError
from charlm.system.disk import naming, read_at_most, sync_folders, write_synced

MAX_IDS = 32
"""Ids that are kept at a position. Among the characters of a script, all others together are hardly ever likely."""
BYTES_PER_ID = 4 * MAX_IDS
"""On disk, with the usual ids of two bytes."""
_IDS, _PROBABILITIES, _DESCRIPTION = "ids", "probabilities", "soft-targets.json"
_PROBABILITY = np.dtype("<f2")


class Soft(NamedTuple):
    """Soft targets of a chunk. A position's probabilities add up to 1; to 0 where nothing is predicted."""

    ids_TBK: NDArray[np.int64]
    probabilities_TBK: NDArray[np.float32]


class SoftTargetWriter:
    """Writes the soft targets of the training split of ``corpus`` to ``folder``, at any positions, in any order.

    A context manager; the description is written at its end, if nothing is raised. ``teachers`` are their names.
    """

    def __init__(self, folder: Path, corpus: Corpus, teachers: Sequence[str]) -> None:
        self._folder = folder
        self._teachers = list(teachers)
        ids = corpus.ids("train")
        self._dtype, self._positions = ids.dtype, len(ids)
        self.vocabulary_size = corpus.tokenizer.vocabulary_size
        self.width = min(MAX_IDS, self.vocabulary_size)
        """How many ids are kept at a position."""
        folder.mkdir()
        with naming(folder):
            self._ids = open(folder / _IDS, "xb")  # noqa: SIM115  # closed by __exit__
            self._probabilities = open(folder / _PROBABILITIES, "xb")  # noqa: SIM115

    def write(self, position: int, ids_NK: NDArray[np.int64], probabilities_NK: NDArray[np.floating]) -> None:
        """Write consecutive positions, the first of which is ``position``."""
        values = (self._ids, ids_NK.astype(self._dtype)), (self._probabilities, probabilities_NK.astype(_PROBABILITY))
        for file, array_NK in values:
            with naming(Path(file.name)):
                file.seek(position * self.width * array_NK.itemsize)
                file.write(array_NK.tobytes())

    def __enter__(self) -> SoftTargetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._ids, self._probabilities:  # closes both
            if error is not None:
                return
            for file in (self._ids, self._probabilities):
                with naming(Path(file.name)):
                    file.flush()
                    os.fsync(file.fileno())
        size = self._positions * self.width
        files = {_IDS: self._dtype, _PROBABILITIES: _PROBABILITY}
        digests = {name: _open(self._folder, name, dtype, size).sha256() for name, dtype in files.items()}
        described = {"positions": self._positions, "width": self.width, "teachers": self._teachers, "sha256": digests}
        write_synced(self._folder / _DESCRIPTION, dump_json(described))
        sync_folders([self._folder])


class SoftTargets:
    """The soft targets in ``folder``, for the training split of ``corpus``.

    Raises ``MissingInputError`` where they are missing, ``DataError`` where they are damaged or do not fit the corpus.
    """

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        self.folder = folder
        try:
            described = read_at_most(folder / _DESCRIPTION, MAX_JSON_BYTES + 1)
        except OSError as error:
            raise MissingInputError(
                f"{folder} has no soft targets ({error.strerror}); restore the folder, or train again"
            ) from None
        self.sha256 = hashlib.sha256(described).hexdigest()
        """Digest of the description, which names the digests of the files."""
        ids = corpus.ids("train")
        self.teachers, self.width, self._digests = _checked(
            parse_json(described, str(folder / _DESCRIPTION)), folder, len(ids), corpus.tokenizer.vocabulary_size
        )
        size = len(ids) * self.width
        self._ids = _open(folder, _IDS, ids.dtype, size, corpus.tokenizer.vocabulary_size - 1)
        self._probabilities = _open(folder, _PROBABILITIES, _PROBABILITY, size)
        self._ids.cache()
        self._probabilities.cache()

    def check(self) -> None:
        """Raise ``DataError`` unless both files have the digests in the description."""
        for name, file in ((_IDS, self._ids), (_PROBABILITIES, self._probabilities)):
            if file.sha256() != self._digests[name]:
                raise DataError(f"{file.path} is damaged; restore it, or train again")

    def of(self, chunk: Chunk) -> Soft:
        """The soft targets of ``chunk``, a chunk of the training split."""
        targets_TB = chunk.targets_TB
        shape = *targets_TB.shape, self.width
        ids_TBK, probabilities_TBK = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        for row, position in enumerate(chunk.positions_B.tolist()):
            predicted = np.flatnonzero(targets_TB[:, row] != IGNORE_INDEX)
            length = int(predicted[-1]) + 1 if len(predicted) else 0
            where = position * self.width, (position + length) * self.width
            ids_TBK[:length, row] = self._ids.read(*where).reshape(length, self.width)
            probabilities_TBK[:length, row] = self._probabilities.read(*where).reshape(length, self.width)
        probabilities_TBK[targets_TB == IGNORE_INDEX] = 0.0
        sums_TB1 = probabilities_TBK.sum(axis=2, keepdims=True)
        np.divide(probabilities_TBK, sums_TB1, out=probabilities_TBK, where=sums_TB1 > 0)
        return Soft(ids_TBK, probabilities_TBK)


def _open(folder: Path, name: str, dtype: np.dtype[np.generic], length: int, maximum: int | None = None) -> IdFile:
    return IdFile(folder / name, dtype, length, maximum, advice="restore it, or train again")


def _checked(described: object, folder: Path, positions: int, vocabulary: int) -> tuple[list[str], int, dict[str, str]]:
    """Teachers, width and digests of a description, which may be forged. Raises ``DataError``."""
    try:
        if not isinstance(described, dict):
            raise TypeError("it is not an object")
        teachers, width, digests = described["teachers"], described["width"], described["sha256"]
        if not all(isinstance(name, str) for name in [*teachers, digests[_IDS], digests[_PROBABILITIES]]):
            raise TypeError("a value is not a string")
        if type(width) is not int or not 1 <= width <= min(MAX_IDS, vocabulary):
            raise ValueError("the width is out of range")
        if described["positions"] != positions:
            raise ValueError("they are those of another text")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / _DESCRIPTION} is damaged ({error!r:.60}); train again") from None
    return list(teachers), width, dict(digests)
