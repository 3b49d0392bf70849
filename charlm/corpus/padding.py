"""Documents side by side: grouped by length, and padded to the longest of a group.

T time steps, B documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.tokenizer.protocol import Ids


def buckets(lengths: NDArray[np.int64], size: int, span: int) -> Iterator[NDArray[np.int64]]:
    """Batches of documents of similar ``lengths``, as indices into ``lengths``, the longest document first.

    A batch is read in chunks of up to ``span`` steps. A chunk has at most ``size`` elements, padding included, or one
    document.
    """
    order = np.argsort(-lengths, kind="stable")
    first = 0
    while first < len(order):
        longest = min(max(1, int(lengths[order[first]])), span)
        count = max(1, size // longest)
        yield order[first : first + count]
        first += count


class Padded(NamedTuple):
    """Documents side by side: input and target ids [T, B], and a mask that is false for padding."""

    inputs_TB: NDArray[np.int64]
    targets_TB: NDArray[np.int64]
    real_TB: NDArray[np.bool_]


def pad(flat_ids: Ids, lengths_B: NDArray[np.int64], before_B: NDArray[np.int64]) -> Padded:
    """Arrange the concatenated ids of B documents side by side; ``before_B`` are the first inputs.

    Padding is 0, which every vocabulary has. Results that are computed from it must not be used.
    """
    real_BT = np.arange(int(lengths_B.max()))[None] < lengths_B[:, None]
    targets_BT = np.zeros(real_BT.shape, np.int64)
    targets_BT[real_BT] = flat_ids
    inputs_BT = np.concatenate([before_B[:, None], targets_BT[:, :-1]], axis=1)
    transposed: list[NDArray[Any]] = [np.ascontiguousarray(a.T) for a in (inputs_BT, targets_BT, real_BT)]
    return Padded(*transposed)
