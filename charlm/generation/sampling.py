"""Sampling: logits and a uniform number to the next id.

``SamplingConfig`` holds the settings. The random numbers are an input: every stream has its own seeded generator of
uniform numbers, and each id takes one of them. So the same seed gives the same ids, sample i does not depend on
how many other samples are drawn, and every engine that maps (logits, u) to an id as ``next_ids`` does generates the
same text. Shapes: B streams, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.config import SamplingConfig
from charlm.tokenizer.protocol import Ids


def next_ids(
    logits_BV: NDArray[Any],
    u_B: NDArray[np.float64],
    config: SamplingConfig,
    allowed_BV: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Sample the next id [B] of each stream from logits [B, V] and uniform numbers [B] in [0, 1).

    The order is fixed: ``allowed_BV``, temperature, top-k, top-p, min-p, then the inverse of the cumulative
    distribution in order of ids. Ties are resolved in favour of the lower id.
    """
    logits = logits_BV.astype(np.float64)
    if allowed_BV is not None:
        logits = np.where(allowed_BV, logits, -np.inf)
    if config.temperature == 0:
        return np.asarray(logits.argmax(axis=1), np.int64)
    logits -= logits.max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):  # near temperature 0 the quotient may be minus infinity, which is correct
        weights = np.exp(logits / config.temperature)
    if config.top_k or config.top_p < 1:
        weights = _apply_top_k_and_top_p(weights, config)
    if config.min_p:
        weights = np.where(weights >= config.min_p * weights.max(axis=1, keepdims=True), weights, 0.0)
    cumulative = weights.cumsum(axis=1)
    chosen = (cumulative <= u_B[:, None] * cumulative[:, -1:]).sum(axis=1)
    # u * total may be rounded up to the total; the result is then the last id with a positive weight.
    last = weights.shape[1] - 1 - (weights[:, ::-1] > 0).argmax(axis=1)
    return np.asarray(np.minimum(chosen, last), np.int64)


def _apply_top_k_and_top_p(weights: NDArray[np.float64], config: SamplingConfig) -> NDArray[np.float64]:
    order = np.argsort(-weights, axis=1, kind="stable")
    ranked = np.take_along_axis(weights, order, axis=1)
    if config.top_k:
        ranked[:, config.top_k :] = 0.0
    if config.top_p < 1:
        probability_before = (ranked.cumsum(axis=1) - ranked) / ranked.sum(axis=1, keepdims=True)
        ranked[probability_before >= config.top_p] = 0.0
    kept = np.empty_like(weights)
    np.put_along_axis(kept, order, ranked, axis=1)
    return kept


def uniform_generators(seed: int, samples: Sequence[int]) -> list[np.random.Generator]:
    """Independent generators of uniform numbers, one for each sample number."""
    return [np.random.Generator(np.random.Philox(key=[seed, sample])) for sample in samples]


def ids_before_end(ids: Ids, end_id: int | None) -> Ids:
    """``ids`` before the first ``end_id``; all of them if there is none."""
    if end_id is None or end_id not in ids:
        return ids
    return ids[: int((ids == end_id).argmax())]
