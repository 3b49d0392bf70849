"""Transfer of weights to a model with another vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from charlm.checkpoint.model_parts import ModelParts
from charlm.tokenizer.matching import matching_ids
from charlm.tokenizer.protocol import Tokenizer

_PER_ID = ("embedding.weight", "decoder.bias")
"""Weights [V, ...] with one row for each id."""


def transfer_weights(
    base: ModelParts, initial: Mapping[str, NDArray[Any]], tokenizer: Tokenizer
) -> dict[str, NDArray[Any]]:
    """The weights of ``base`` for the vocabulary of ``tokenizer``.

    The rows of characters that both vocabularies have are copied from ``base``; all other rows keep the values of
    ``initial``, the newly initialized weights of the new model.
    """
    ids = matching_ids(base.tokenizer, tokenizer)
    weights = {}
    for name in initial:
        if name in _PER_ID:
            weights[name] = initial[name].copy()
            weights[name][ids[:, 1]] = base.weights[name][ids[:, 0]]
        else:
            weights[name] = base.weights[name]
    return weights
