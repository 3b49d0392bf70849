"""Conditions in ids: a document may begin with a value and a separator, which are read but not predicted.

    boundary  s h o e s  separator  N i m b u s  boundary
              read only             predicted

A model of p(text | value) needs no p(value): how frequent the values are is known exactly, from counts. So the loss is
that of the text alone, as in sequence-to-sequence models and with control codes (CTRL, Keskar et al. 2019), and nats
per character can be compared with a model that has no condition. The separator is an id of its own, which no text has.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from charlm.tokenizer.protocol import Ids, Tokenizer


def prefix_ids(tokenizer: Tokenizer, value: str) -> Ids:
    """The ids that are read before a document with the condition ``value``, after the boundary."""
    assert tokenizer.separator_id is not None, "a model with conditions"
    return np.append(tokenizer.encode(value), tokenizer.separator_id).astype(np.int64)


class PrefixTracker:
    """Finds the values and separators in consecutive ids of documents, each of which has one separator."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._separator_id, self._end_id = tokenizer.separator_id, tokenizer.end_id
        self._separators = 0  # less the boundaries so far: 0 in a value, 1 in a text

    def mask(self, ids: Ids) -> NDArray[np.bool_]:
        """Which of the next ids [N] are read only."""
        changes = (ids == self._separator_id).astype(np.int64) - (ids == self._end_id)
        after = self._separators + np.cumsum(changes)
        before = after - changes
        self._separators = int(after[-1]) if len(after) else self._separators
        read_only: NDArray[np.bool_] = before <= 0
        return read_only


def prefix_mask(tokenizer: Tokenizer, ids: Ids) -> NDArray[np.bool_]:
    """Which ids of whole documents are read only; none without conditions."""
    if tokenizer.separator_id is None:
        return np.zeros(len(ids), np.bool_)
    return PrefixTracker(tokenizer).mask(ids)
