"""64-bit hashes of numbers and of documents. They are equal on every machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.corpus.pieces import Piece
from charlm.tokenizer.protocol import Codes

_CHUNK = 1 << 15
"""How many codes are hashed at once: their numbers fit into the cache of a core."""


def mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea and Flood 2014): a bijection whose results look random, also for similar numbers."""
    mixed: NDArray[np.uint64] = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def hash_key(key: Iterable[int]) -> int:
    """One 64-bit number from several."""
    state = np.zeros(1, np.uint64)
    for part in key:
        state = mix(state ^ np.array([part % 2**64], np.uint64))
    return int(state[0])


class Sums(NamedTuple):
    """What a piece adds to the sums of its documents."""

    head: Codes
    """The codes before the first end (all if there is none). Their document may have begun in an earlier piece."""
    sums: NDArray[np.uint64]
    """[E] of the codes after each end."""
    lengths: NDArray[np.int64]
    """[E] how many they are."""


def document_sums(piece: Piece) -> Sums:
    """The sums of documents that begin in ``piece``. This takes nearly all of the time, and no order."""
    codes, ends, _ = piece
    if not len(ends):
        return Sums(codes, np.zeros(0, np.uint64), ends)
    body = codes[ends[0] :]
    starts = ends - ends[0]
    return Sums(codes[: ends[0]], _sums(body, starts), np.diff(starts, append=len(body)))


def _sums(codes: Codes, starts: NDArray[np.int64], begun: int = 0) -> NDArray[np.uint64]:
    """The sum for each document, of which the first has ``begun`` codes already."""
    lengths = np.diff(starts, append=len(codes))
    # The position of a code in its document is its index less what is to be subtracted in this document.
    before = starts.copy()
    before[0] -= begun
    mixed = np.zeros(len(codes) + 1, np.uint64)  # with an element after the last code, where a document may start
    for chunk in range(0, len(codes), _CHUNK):
        stop = min(chunk + _CHUNK, len(codes))
        first, last = np.searchsorted(starts, (chunk, stop - 1), side="right") - 1
        counts: NDArray[np.int64] = np.diff(np.maximum(starts[first : last + 1], chunk), append=stop)
        positions = np.arange(chunk, stop) - np.repeat(before[first : last + 1], counts)
        # A sum of one mixed number for each (code, position) does not depend on where a document is cut into pieces.
        mixed[chunk:stop] = mix(codes[chunk:stop].astype(np.uint64) + (positions.astype(np.uint64) << np.uint64(21)))
    sums: NDArray[np.uint64] = np.add.reduceat(mixed, starts)
    sums[lengths == 0] = 0  # for an empty range reduceat returns the element at its start
    return sums


class DocumentHasher:
    """Computes a fingerprint of each document: 64 bits that two different documents share with probability 2^-64."""

    def __init__(self) -> None:
        self._sum = np.zeros(1, np.uint64)
        self._length = 0

    def update(self, piece: Piece) -> NDArray[np.uint64]:
        """Add the next piece. Returns the fingerprints of the documents that end in it."""
        return self.add(document_sums(piece))

    def add(self, piece: Sums) -> NDArray[np.uint64]:
        """Add the next piece, of which the sums are computed."""
        head, sums, lengths = piece
        if len(head):  # slices: overflow of arrays wraps silently, that of scalars warns
            self._sum = self._sum + _sums(head, np.zeros(1, np.int64), self._length)
            self._length += len(head)
        sums, lengths = np.append(self._sum, sums), np.append(self._length, lengths)
        self._sum, self._length = sums[-1:], int(lengths[-1])
        return mix(sums[:-1] + lengths[:-1].astype(np.uint64))
