"""The loss of every id: of a text that runs on, of windows of it, or of documents.

Every document is read from a fresh state. Many are read side by side, sorted by length, so that hardly anything is
padding, and what comes out is in the order that went in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from charlm.corpus.padding import buckets, pad
from charlm.engine import Engine, EngineState, FloatArray
from charlm.errors import DataError, UsageError
from charlm.tokenizer.documents import DocumentTokenizer
from charlm.tokenizer.protocol import Ids, Tokenizer

CHUNK = 256

Progress = Callable[[int], None]
Losses = Iterator[tuple[Ids, FloatArray]]
"""Ids [N] that follow one another and what each cost in nats [N], piece by piece."""


def silent(predictions: int) -> None:
    """No progress is wanted."""


def exact_losses(engine: Engine, tokenizer: Tokenizer, blocks: Iterable[Ids]) -> Losses:
    """Ids and their losses in nats, chunk by chunk, in one stream from the first id to the last."""
    state = engine.start(1)
    previous = np.array([tokenizer.start_id], np.int64)
    for block in blocks:
        for start in range(0, len(block), CHUNK):
            targets = block[start : start + CHUNK].astype(np.int64)
            inputs = np.concatenate([previous, targets[:-1]])
            nats_TB, state = engine.losses(inputs[:, None], targets[:, None], state)
            previous = targets[-1:]
            yield targets, nats_TB[:, 0]


def crop_losses(engine: Engine, blocks: Iterable[Ids], window: int) -> Losses:
    """The same in windows of ``window`` characters, each read from a cold state, whose mean nanoGPT reports.

    Windows follow one another without a gap, where nanoGPT draws a few at random; the expectation is the same. Its
    protocol knows nothing before a window, so the first id of each is read, not predicted. Raises ``DataError`` where
    the text is shorter than a window.
    """
    batch = max(1, 16384 // window)
    left, read = np.zeros(0, np.int64), False
    for block in blocks:
        left = np.concatenate([left, block.astype(np.int64)])
        while min(batch, (len(left) - 1) // window) == batch:
            yield _crops(engine, left[: batch * window + 1], window)
            left, read = left[batch * window :], True
    count = (len(left) - 1) // window
    if count > 0:
        yield _crops(engine, left[: count * window + 1], window)
    elif not read:
        raise DataError(f"the text is shorter than one window of {window} characters; choose a smaller --window")


def _crops(engine: Engine, ids: Ids, window: int) -> tuple[Ids, FloatArray]:
    inputs_BT, targets_BT = ids[:-1].reshape(-1, window), ids[1:].reshape(-1, window)
    state = engine.start(len(inputs_BT))
    pieces = []
    for start in range(0, window, CHUNK):
        span = slice(start, start + CHUNK)
        nats_TB, state = engine.losses(inputs_BT[:, span].T, targets_BT[:, span].T, state)
        pieces.append(nats_TB)
    return ids[1:], np.concatenate(pieces).T.reshape(-1)


_PLACES = 1 << 14
"""Ids that are read in one call, padding included."""
POOL = 1 << 18
"""Ids of documents that are sorted by length together; a longer document is read by itself, chunk by chunk."""


def side_by_side(
    engine: Engine, start_id: int, ids: Ids, ends: NDArray[np.int64], progress: Progress = silent
) -> FloatArray:
    """The losses [N] of documents that lie one after another in ``ids`` [N] and end at ``ends``, the last at N."""
    nats_N = np.empty(len(ids), np.float32)
    starts, lengths = np.append(0, ends[:-1]), np.diff(ends, prepend=0)
    for rows in buckets(lengths, _PLACES, CHUNK):
        state: EngineState = engine.start(len(rows))
        first = 0
        while active := int((lengths[rows] > first).sum()):
            if active < len(rows):
                rows = rows[:active]  # noqa: PLW2901  # the shorter documents have ended
                state = engine.gather([(state, np.arange(active))])
            lengths_B = np.minimum(lengths[rows] - first, CHUNK)
            places = _ranges(starts[rows] + first, lengths_B)
            before_B = ids[starts[rows] + first - 1] if first else np.full(active, start_id)
            chunk = pad(ids[places], lengths_B, before_B.astype(np.int64))
            nats_TB, state = engine.losses(chunk.inputs_TB, chunk.targets_TB, state)
            nats_N[places] = nats_TB.T[chunk.real_TB.T]
            progress(len(places))
            first += CHUNK
    return nats_N


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """``starts[0]`` ... ``starts[0] + lengths[0] - 1``, ``starts[1]`` and so on, one after another."""
    offsets = starts - np.append(0, np.cumsum(lengths)[:-1])
    return np.repeat(offsets, lengths) + np.arange(int(lengths.sum()))


def losses_of(
    engine: Engine, tokenizer: Tokenizer, blocks: Iterable[Ids], window: int | None = None, progress: Progress = silent
) -> Losses:
    """Ids and their losses in nats as the tokenizer asks for: of documents, of a text that runs on, or of its windows.

    ``progress`` is called with the number of ids read since its last call. Raises ``UsageError`` for a ``window`` over
    documents, which are read from their beginnings in any case.
    """
    if isinstance(tokenizer, DocumentTokenizer):
        if window is not None:
            raise UsageError("documents are each read from a cold state anyway; leave out --protocol crops")
        return document_losses(engine, tokenizer, blocks, progress)
    pieces = exact_losses(engine, tokenizer, blocks) if window is None else crop_losses(engine, blocks, window)
    return _counted(pieces, progress)


def _counted(losses: Losses, progress: Progress) -> Losses:
    for ids, nats in losses:
        yield ids, nats
        progress(len(ids))


def document_losses(
    engine: Engine, tokenizer: DocumentTokenizer, blocks: Iterable[Ids], progress: Progress = silent
) -> Losses:
    """Ids and their losses in nats, in order, of documents given in ``blocks`` of any size, each with its end marker.

    A document larger than memory is read chunk by chunk.
    """
    held: Ids = np.zeros(0, np.int64)
    blocks = iter(blocks)
    for block in blocks:
        held = np.concatenate([held, block.astype(np.int64)])
        if len(held) < POOL:
            continue
        ends = np.flatnonzero(held == tokenizer.end_id) + 1
        if len(ends):
            yield held[: ends[-1]], side_by_side(engine, tokenizer.start_id, held[: ends[-1]], ends, progress)
            held = held[ends[-1] :]
        if len(held) >= POOL:
            rest: list[Ids] = []
            for ids, nats in exact_losses(engine, tokenizer, _to_the_end(held, blocks, tokenizer.end_id, rest)):
                yield ids, nats
                progress(len(ids))
            held = rest[0] if rest else held[:0]
    ends = np.flatnonzero(held == tokenizer.end_id) + 1
    if len(held):
        ends = ends if len(ends) and ends[-1] == len(held) else np.append(ends, len(held))
        yield held, side_by_side(engine, tokenizer.start_id, held, ends, progress)


def _to_the_end(begun: Ids, blocks: Iterator[Ids], end_id: int, rest: list[Ids]) -> Iterator[Ids]:
    """The rest of a document that has ``begun``; what comes after it in its last block is put into ``rest``."""
    yield begun
    for block in blocks:
        ends = np.flatnonzero(block == end_id)
        if len(ends):
            yield block[: ends[0] + 1]
            rest.append(block[ends[0] + 1 :].astype(np.int64))
            return
        yield block
