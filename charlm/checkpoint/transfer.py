"""Weights of a checkpoint for another vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.checkpoint.model_parts import checkpoint_parts
from charlm.checkpoint.step import Checkpoint
from charlm.tokenizer.bytes import ByteTokenizer
from charlm.tokenizer.characters import CharTokenizer
from charlm.tokenizer.documents import DocumentTokenizer
from charlm.tokenizer.protocol import Tokenizer


def transferred_weights(
    base: Checkpoint, fresh: Mapping[str, NDArray[Any]], tokenizer: Tokenizer
) -> dict[str, NDArray[Any]]:
    """Weights of ``base`` for another vocabulary: rows move with their characters, new ones keep ``fresh``."""
    _, old_tokenizer, old = checkpoint_parts(base)
    rows = matching_rows(old_tokenizer, tokenizer)
    weights = {}
    for name in fresh:
        if name in ("embedding.weight", "decoder.bias"):
            weights[name] = fresh[name].copy()
            weights[name][rows[:, 1]] = old[name][rows[:, 0]]
        else:
            weights[name] = old[name]
    return weights


def matching_rows(old: Tokenizer, new: Tokenizer) -> NDArray[np.int64]:
    """[N, 2]: ids that mean the same in the old and the new vocabulary."""
    if isinstance(old, DocumentTokenizer) and isinstance(new, DocumentTokenizer):
        return np.vstack([matching_rows(old.inner, new.inner), [(old.end_id, new.end_id)]])
    if isinstance(old, DocumentTokenizer):
        return matching_rows(old.inner, new)
    if isinstance(new, DocumentTokenizer):
        return matching_rows(old, new.inner)
    if isinstance(old, ByteTokenizer) or isinstance(new, ByteTokenizer):
        return np.repeat(np.arange(256)[:, None], 2, axis=1)
    assert isinstance(old, CharTokenizer)
    assert isinstance(new, CharTokenizer)
    shared = [(old.characters[c], i) for c, i in new.characters.items() if c in old.characters]
    in_bytes = zip(old.byte_ids.tolist(), new.byte_ids.tolist(), strict=True)
    return np.array([(0, 0), *in_bytes, *shared], np.int64)
