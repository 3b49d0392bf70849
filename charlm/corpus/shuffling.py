"""Random permutations of any size in constant memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from charlm.corpus.hashing import hash_key, mix

_ROUNDS = 6


def shuffled(numbers: NDArray[np.int64], size: int, *key: int) -> NDArray[np.int64]:
    """The positions of ``numbers`` in the permutation of 0 ... ``size`` - 1 that ``key`` selects.

    A Feistel network permutes the next larger power of four. It is applied again to results that are out of range
    (cycle walking), which gives a permutation of any size, the same on every machine.
    """
    half_bits = np.uint64(max(4, (max(1, size - 1).bit_length() + 1) // 2))
    round_keys = mix(np.uint64(hash_key(key)) + np.arange(_ROUNDS, dtype=np.uint64))
    positions = _feistel(numbers.astype(np.uint64), half_bits, round_keys)
    while (outside := positions >= size).any():
        positions[outside] = _feistel(positions[outside], half_bits, round_keys)
    return positions.astype(np.int64)


def _feistel(numbers: NDArray[np.uint64], half_bits: np.uint64, round_keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = numbers >> half_bits, numbers & mask
    for key in round_keys:
        left, right = right, left ^ (mix(right ^ key) & mask)
    joined: NDArray[np.uint64] = (left << half_bits) | right
    return joined
