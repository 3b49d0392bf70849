"""Evaluations of a whole text: exact, in parallel streams (faster, nearly exact), and of several models in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import tee

from charlm.config import ModelConfig
from charlm.engine import MAX_PRECISION_COST, Engine, FloatArray, LossEngine, create_engine
from charlm.engine.ensemble import ensemble_losses
from charlm.evaluation.losses import ProgressCallback, compute_losses, no_progress, stream_losses
from charlm.evaluation.metrics import Evaluation, Tally, make_tally
from charlm.native import find_library
from charlm.tokenizer.protocol import Ids, Tokenizer


def evaluate(
    engine: LossEngine,
    tokenizer: Tokenizer,
    blocks: Iterable[Ids],
    window: int | None = None,
    progress: ProgressCallback = no_progress,
) -> Evaluation:
    """Exact sums over a text given as ``blocks`` of ids of any size, or over its windows; see ``compute_losses``.

    Raises ``UsageError`` as ``compute_losses`` does, ``DataError`` if there is nothing to predict.
    """
    tally = make_tally(tokenizer)
    for ids, nats in compute_losses(engine, tokenizer, blocks, window, progress):
        tally.add(ids, nats)
    return tally.result()


def evaluate_streams(
    engine: LossEngine,
    tokenizer: Tokenizer,
    ids: Ids,
    streams: int = 32,
    warmup: int = 128,
    progress: ProgressCallback = no_progress,
) -> Evaluation:
    """Nearly ``evaluate``, many times faster: in parallel ``streams``; see ``stream_losses``. For running text.

    Validation uses it during training. Every id is predicted once.
    """
    tally = Tally(tokenizer)
    tally.add(ids, stream_losses(engine, tokenizer.start_id, ids, streams, warmup, progress))
    return tally.result()


def evaluate_together(
    engines: Sequence[Engine],
    tokenizer: Tokenizer,
    blocks: Iterable[Ids],
    window: int | None = None,
    progress: ProgressCallback = no_progress,
) -> tuple[Evaluation, list[Evaluation]]:
    """The evaluation of the mean of the engines' probabilities, and that of each engine; each reads the text once.

    Errors and ``window`` as in ``evaluate``.
    """
    losses = [
        compute_losses(engine, tokenizer, copy, window, progress if number == 0 else no_progress)
        for number, (engine, copy) in enumerate(zip(engines, tee(blocks, len(engines)), strict=True))
    ]
    mean_tally, tallies = make_tally(tokenizer), [make_tally(tokenizer) for _ in engines]
    for pieces in zip(*losses, strict=True):
        ids = pieces[0][0]
        mean_tally.add(ids, ensemble_losses([nats for _, nats in pieces]))
        for tally, (_, nats) in zip(tallies, pieces, strict=True):
            tally.add(ids, nats)
    return mean_tally.result(), [tally.result() for tally in tallies]


def precision_costs(
    config: ModelConfig, weights: Mapping[str, FloatArray], loss: Callable[[Engine], float], threads: int
) -> dict[str, float]:
    """Nats per character that the native engine's faster precisions lose against its fp32, according to ``loss``.

    From the fastest on, up to the first that costs at most ``MAX_PRECISION_COST``. Empty without a native engine.
    """
    if find_library() is None:
        return {}
    exact, costs = loss(create_engine(config, weights, "cpu", "fp32", threads)), {}
    for precision in ("int8", "bf16"):
        costs[precision] = loss(create_engine(config, weights, "cpu", precision, threads)) - exact
        if abs(costs[precision]) <= MAX_PRECISION_COST:
            break
    return costs
