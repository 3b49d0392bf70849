"""64-bit hashes of numbers and of documents. They are equal on every machine."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from charlm.corpus.pieces import Piece


def mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea and Flood 2014): a bijection whose results look random, also for similar numbers."""
    z = numbers + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed


def hash_key(key: Iterable[int]) -> int:
    """One 64-bit number from several."""
    state = np.zeros(1, np.uint64)
    for part in key:
        state = mix(state ^ np.array([part % 2**64], np.uint64))
    return int(state[0])


class DocumentHasher:
    """Computes a fingerprint of each document: 64 bits that two different documents share with probability 2^-64."""

    def __init__(self) -> None:
        self._sum = np.zeros(1, np.uint64)
        self._length = 0

    def update(self, piece: Piece) -> NDArray[np.uint64]:
        """Add the next piece. Returns the fingerprints of the documents that end in it."""
        codes, ends, _ = piece
        lengths = np.diff(ends, prepend=0, append=len(codes))
        positions = np.arange(len(codes)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        positions[: lengths[0]] += self._length
        # A sum of one mixed number for each (code, position) does not depend on where a document is cut into pieces.
        mixed = mix(codes.astype(np.uint64) + (positions.astype(np.uint64) << np.uint64(21)))
        sums = np.add.reduceat(np.append(mixed, np.uint64(0)), np.append(0, ends))
        sums[lengths == 0] = 0  # for an empty range reduceat returns the element at its start
        sums[:1] += self._sum  # slices: overflow of arrays wraps silently, that of scalars warns
        lengths[0] += self._length
        self._sum, self._length = sums[-1:], int(lengths[-1])
        return mix(sums[:-1] + lengths[:-1].astype(np.uint64))
