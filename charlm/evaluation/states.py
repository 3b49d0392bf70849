"""States of the model while it reads texts side by side: vectors of texts, and the activations of cells.

Shapes: N texts or characters, T ids, B streams, H width of a layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.engine import EngineState, FloatArray, LayerState, StateEngine
from charlm.evaluation.losses import CHUNK
from charlm.tokenizer.protocol import Ids, Tokenizer

_STREAMS = 256
"""Texts that are read side by side."""
_MAX_POOL_TEXTS, _MAX_POOL_IDS = 1 << 14, 1 << 22
"""Texts, and ids of texts, that are sorted by length together."""


class Step(NamedTuple):
    """The states after the id at ``time`` of each text that has one."""

    time: int
    rows_B: NDArray[np.int64]
    """The indices of these texts."""
    layers: list[LayerState]


class _Batch(NamedTuple):
    """Texts that are read side by side, the longest first; shorter ones are padded with 0."""

    rows_B: NDArray[np.int64]
    """The indices of the texts."""
    lengths_B: NDArray[np.int64]
    ids_TB: NDArray[np.int64]


def _batches(texts: Sequence[Ids], streams: int) -> Iterator[_Batch]:
    lengths = np.array([len(ids) for ids in texts], np.int64)
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    for first in range(0, len(order), streams):
        rows_B = order[first : first + streams]
        ids_BT = np.zeros((len(rows_B), int(lengths[rows_B[0]])), np.int64)
        for place, row in enumerate(rows_B.tolist()):
            ids_BT[place, : lengths[row]] = texts[row]
        yield _Batch(rows_B, lengths[rows_B], np.ascontiguousarray(ids_BT.T))


def read_side_by_side(engine: StateEngine, texts: Sequence[Ids], streams: int = _STREAMS) -> Iterator[Step]:
    """Read each text from the initial state, ``streams`` at a time, the longest first, id by id."""
    for rows_B, lengths_B, ids_TB in _batches(texts, streams):
        state: EngineState = engine.initial_state(len(rows_B))
        active = len(rows_B)
        for time, ids_B in enumerate(ids_TB):
            still_active = int((lengths_B > time).sum())
            if still_active < active:  # the shorter texts have ended
                active = still_active
                state = engine.gather([(state, np.arange(active))])
            _, state = engine.step(ids_B[:active], state)
            yield Step(time, rows_B[:active], engine.layer_states(state))


def last_states(engine: StateEngine, texts: Sequence[Ids]) -> Iterator[tuple[NDArray[np.int64], list[LayerState]]]:
    """The states after the last id of each text that has one, with the indices of the texts.

    Texts are read up to the next end of one of them, or ``CHUNK`` ids, in one call, which is faster than id by id.
    """
    for rows_B, lengths_B, ids_TB in _batches(texts, _STREAMS):
        state: EngineState = engine.initial_state(len(rows_B))
        active, time = len(rows_B), 0
        for stop in sorted({*lengths_B.tolist(), *range(CHUNK, len(ids_TB), CHUNK)}):
            still_active = int((lengths_B > time).sum())
            if still_active < active:  # the shorter texts have ended
                active = still_active
                state = engine.gather([(state, np.arange(active))])
            ids = ids_TB[time:stop, :active]
            _, state = engine.losses(ids, ids, state)  # what it predicts is not used
            time = stop
            ended = np.flatnonzero(lengths_B[:active] == time)
            if len(ended):
                layers = [LayerState(*(each[ended] for each in layer)) for layer in engine.layer_states(state)]
                yield rows_B[ended], layers


def embed(engine: StateEngine, width: int, texts: Iterable[tuple[Ids, Ids]], mean: bool) -> FloatArray:
    """A vector for each text, [N, H]: the hidden state of the last layer, whose width is H, after the last id.

    A text is given as what is read before it, at least one id, and its ids. With ``mean``, a vector is the mean of the
    states after each of its ids; of a text without ids, the state after what is read before it.
    """
    vectors, pool, size = [np.zeros((0, width), np.float32)], list[tuple[Ids, Ids]](), 0
    for text in texts:
        pool.append(text)
        size += len(text[0]) + len(text[1])
        if len(pool) >= _MAX_POOL_TEXTS or size >= _MAX_POOL_IDS:
            vectors.append(_embed_pool(engine, width, pool, mean))
            pool, size = [], 0
    return np.concatenate([*vectors, _embed_pool(engine, width, pool, mean)])


def _embed_pool(engine: StateEngine, width: int, pool: Sequence[tuple[Ids, Ids]], mean: bool) -> FloatArray:
    texts = [np.concatenate([before, ids]).astype(np.int64) for before, ids in pool]
    if not mean:
        vectors_NH = np.zeros((len(pool), width), np.float32)
        for rows, layers in last_states(engine, texts):
            vectors_NH[rows] = layers[-1].hidden_BH
        return vectors_NH
    lengths_N = np.array([len(ids) for ids in texts], np.int64)
    # From this step on, the states of a text count.
    first_N = np.minimum([len(before) for before, _ in pool], lengths_N - 1)
    sums_NH = np.zeros((len(pool), width))
    for time, rows_B, layers in read_side_by_side(engine, texts):
        counted_B = time >= first_N[rows_B]
        if counted_B.all():
            sums_NH[rows_B] += layers[-1].hidden_BH
        elif counted_B.any():
            sums_NH[rows_B[counted_B]] += layers[-1].hidden_BH[counted_B]
    means_NH: FloatArray = (sums_NH / np.maximum(1, lengths_N - first_N)[:, None]).astype(np.float32)
    return means_NH


def activations(
    engine: StateEngine, tokenizer: Tokenizer, ids: Ids, layer: int, before: Sequence[Ids] = ()
) -> Iterator[FloatArray]:
    """tanh of the cell state of one layer after each character of a text, [H], which is read after ``before``."""
    prefix = [np.array([tokenizer.start_id], np.int64), *before]
    skipped = sum(map(len, prefix))
    completes = np.append(tokenizer.starts_character[ids[1:]], True)  # the id is the last of its character
    for time, _, layers in read_side_by_side(engine, [np.concatenate([*prefix, ids])]):
        if time >= skipped and completes[time - skipped]:
            yield np.tanh(layers[layer].cell_BH[0])
