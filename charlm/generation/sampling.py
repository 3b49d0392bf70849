"""Logits and a uniform number to the next id.

The sampler knows ids, not text. ``SamplingConfig`` says what, and the chance comes from outside: every stream has its
own seeded source of uniform numbers, one for each id. So the same seed gives the same ids, sample i is the same
however many are drawn beside it, and any engine that maps (logits, u) as ``next_ids`` does writes the same text.
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
    """The next id of each of B streams, from logits [B, V] and uniform numbers [B] in [0, 1).

    The order is fixed: ``allowed_BV``, temperature, top-k, top-p, min-p; then the inverse of the cumulative
    distribution in order of ids. Among equals the lower id comes first.
    """
    logits = logits_BV.astype(np.float64)
    if allowed_BV is not None:
        logits = np.where(allowed_BV, logits, -np.inf)
    if config.temperature == 0:
        return np.asarray(logits.argmax(axis=1), np.int64)
    logits -= logits.max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):  # near temperature 0 the quotient is minus infinity, and that is right
        weights = np.exp(logits / config.temperature)
    if config.top_k or config.top_p < 1:
        weights = _keep_likeliest(weights, config)
    if config.min_p:
        weights = np.where(weights >= config.min_p * weights.max(axis=1, keepdims=True), weights, 0.0)
    cumulative = weights.cumsum(axis=1)
    chosen = (cumulative <= u_B[:, None] * cumulative[:, -1:]).sum(axis=1)
    # Rounding may carry u * total up to the total itself; the answer is then the last id that has any weight.
    last = weights.shape[1] - 1 - (weights[:, ::-1] > 0).argmax(axis=1)
    return np.asarray(np.minimum(chosen, last), np.int64)


def _keep_likeliest(weights: NDArray[np.float64], config: SamplingConfig) -> NDArray[np.float64]:
    order = np.argsort(-weights, axis=1, kind="stable")
    ranked = np.take_along_axis(weights, order, axis=1)
    if config.top_k:
        ranked[:, config.top_k :] = 0.0
    if config.top_p < 1:
        share_before = (ranked.cumsum(axis=1) - ranked) / ranked.sum(axis=1, keepdims=True)
        ranked[share_before >= config.top_p] = 0.0
    kept = np.empty_like(weights)
    np.put_along_axis(kept, order, ranked, axis=1)
    return kept


def uniform_sources(seed: int, samples: Sequence[int]) -> list[np.random.Generator]:
    """A source of uniform numbers for each sample number, independent of one another."""
    return [np.random.Generator(np.random.Philox(key=[seed, sample])) for sample in samples]


def up_to_end(ids: Ids, end_id: int | None) -> Ids:
    """``ids`` before the first end marker, if there is one."""
    if end_id is None or end_id not in ids:
        return ids
    return ids[: int((ids == end_id).argmax())]
