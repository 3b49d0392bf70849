"""Which ids mean the same in two vocabularies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from charlm.tokenizer.characters import CharTokenizer
from charlm.tokenizer.documents import DocumentTokenizer
from charlm.tokenizer.protocol import Tokenizer


def matching_ids(old: Tokenizer, new: Tokenizer) -> NDArray[np.int64]:
    """[N, 2] pairs (old id, new id) of the same character, byte piece, document boundary or separator.

    Both tokenizers have the same ``kind``.
    """
    old_inner, new_inner = _without_boundary(old), _without_boundary(new)
    if isinstance(old_inner, CharTokenizer) and isinstance(new_inner, CharTokenizer):
        pairs = _matching_characters(old_inner, new_inner)
    else:
        pairs = np.repeat(np.arange(256)[:, None], 2, axis=1)
    for old_id, new_id in ((old.end_id, new.end_id), (old.separator_id, new.separator_id)):
        if old_id is not None and new_id is not None:
            pairs = np.vstack([pairs, [(old_id, new_id)]])
    return pairs


def _without_boundary(tokenizer: Tokenizer) -> Tokenizer:
    return tokenizer.inner if isinstance(tokenizer, DocumentTokenizer) else tokenizer


def _matching_characters(old: CharTokenizer, new: CharTokenizer) -> NDArray[np.int64]:
    shared = [(old.characters[c], i) for c, i in new.characters.items() if c in old.characters]
    in_bytes = zip(old.byte_ids.tolist(), new.byte_ids.tolist(), strict=True)
    return np.array([(0, 0), *in_bytes, *shared], np.int64)
