"""Whole evaluations of a text: exact, nearly exact and faster, and of several models together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import tee

import numpy as np

from charlm.config import ModelConfig
from charlm.engine import MOST_COST, Engine, FloatArray, create_engine
from charlm.engine.ensemble import mean_losses
from charlm.evaluation.losses import CHUNK, Progress, losses_of, silent
from charlm.evaluation.metrics import Evaluation, Tally, tally_of
from charlm.native import find
from charlm.tokenizer.protocol import Ids, Tokenizer


def evaluate_streams(
    engine: Engine,
    tokenizer: Tokenizer,
    ids: Ids,
    streams: int = 32,
    warmup: int = 128,
    progress: Progress = silent,
) -> Evaluation:
    """Nearly the exact pass, many times faster: ``ids`` in parallel ``streams``, each warmed on the text before it.

    For steering a training; every id is predicted once. A stream's first predictions know the ``warmup`` ids before
    them instead of everything before them.
    """
    streams = max(1, min(streams, len(ids) // (4 * warmup)))
    length = -(-len(ids) // streams)
    warmup = warmup if streams > 1 else 0
    before = np.full(warmup + 1, tokenizer.start_id, np.int64)
    padded = np.concatenate([before, ids.astype(np.int64), np.zeros(streams * length - len(ids), np.int64)])
    rows_BL = np.stack([padded[b * length : b * length + warmup + 1 + length] for b in range(streams)])
    state = engine.start(streams)
    nats_LB = np.empty((warmup + length, streams), np.float32)
    for start in range(0, warmup + length, CHUNK):
        stop = min(start + CHUNK, warmup + length)
        inputs_TB, targets_TB = rows_BL[:, start:stop].T, rows_BL[:, start + 1 : stop + 1].T
        nats_LB[start:stop], state = engine.losses(inputs_TB, targets_TB, state)
        progress(inputs_TB.size)
    tally = Tally(tokenizer)
    tally.add(ids, nats_LB[warmup:].T.reshape(-1)[: len(ids)])
    return tally.result()


def precision_costs(
    config: ModelConfig, weights: Mapping[str, FloatArray], loss: Callable[[Engine], float], threads: int
) -> dict[str, float]:
    """Nats per character that the native engine's faster precisions lose against its fp32, as ``loss`` measures.

    From the fastest on, up to the first that costs at most ``MOST_COST``. Empty where the engine is missing.
    """
    if find() is None:
        return {}
    exact, costs = loss(create_engine(config, weights, "cpu", "fp32", threads)), {}
    for precision in ("int8", "bf16"):
        costs[precision] = loss(create_engine(config, weights, "cpu", precision, threads)) - exact
        if abs(costs[precision]) <= MOST_COST:
            break
    return costs


def evaluate(
    engine: Engine, tokenizer: Tokenizer, blocks: Iterable[Ids], window: int | None = None, progress: Progress = silent
) -> Evaluation:
    """Exact sums over a text given as ``blocks`` of ids of any size, or over cold windows; see ``losses_of``.

    Raises ``DataError`` where there is nothing to predict.
    """
    tally = tally_of(tokenizer)
    for ids, nats in losses_of(engine, tokenizer, blocks, window, progress):
        tally.add(ids, nats)
    return tally.result()


def evaluate_together(
    engines: Sequence[Engine],
    tokenizer: Tokenizer,
    blocks: Iterable[Ids],
    window: int | None = None,
    progress: Progress = silent,
) -> tuple[Evaluation, list[Evaluation]]:
    """The evaluation of the mean of several models' probabilities, and that of each, from one reading of each.

    Errors and ``window`` as in ``scoring.losses_of``.
    """
    each = [
        losses_of(engine, tokenizer, copy, window, progress if number == 0 else silent)
        for number, (engine, copy) in enumerate(zip(engines, tee(blocks, len(engines)), strict=True))
    ]
    whole, parts = tally_of(tokenizer), [tally_of(tokenizer) for _ in engines]
    for read in zip(*each, strict=True):
        ids = read[0][0]
        whole.add(ids, mean_losses([nats for _, nats in read]))
        for tally, (_, nats) in zip(parts, read, strict=True):
            tally.add(ids, nats)
    return whole.result(), [tally.result() for tally in parts]
