"""The loss of every id of a text: of running text in one stream, in parallel streams or in windows, and of documents.

Every document is read from the initial state. Many are read in one batch, sorted by length so that there is little
padding; their losses come out in the order of the text. Losses are in nats. Shapes: N ids, T time steps, B streams or
documents, W window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from charlm.corpus.padding import buckets, pad
from charlm.engine import EngineState, FloatArray, LossEngine
from charlm.errors import DataError, UsageError
from charlm.tokenizer.conditions import PrefixTracker
from charlm.tokenizer.protocol import Ids, Tokenizer

CHUNK = 256
"""Time steps per call of the engine."""
DOCUMENT_POOL = 1 << 18
"""Ids of documents that are sorted by length together. A longer document is read by itself, chunk by chunk."""
MAX_BATCH_IDS = 1 << 14
"""Ids in one call of the engine for documents or windows, padding included."""

ProgressCallback = Callable[[int], None]
"""Called with the number of ids read since the last call."""
Losses = Iterator[tuple[Ids, FloatArray]]
"""Consecutive ids [N] and their losses [N], piece by piece."""


def no_progress(ids: int) -> None:
    """A ``ProgressCallback`` that reports nothing."""


def compute_losses(
    engine: LossEngine,
    tokenizer: Tokenizer,
    blocks: Iterable[Ids],
    window: int | None = None,
    progress: ProgressCallback = no_progress,
) -> Losses:
    """Ids and their losses: of documents, if the tokenizer has an end marker, of running text, or of its windows.

    Conditions of documents are read, but they are not among the ids.

    Raises ``UsageError`` for an invalid ``window``, and for any ``window`` with documents, which are read from the
    initial state anyway.
    """
    if window is not None and window < 1:
        raise UsageError(f"window must be 1 or more, not {window}")
    if tokenizer.end_id is not None:
        if window is not None:
            raise UsageError("each document is read from the initial state anyway; evaluate without a window")
        losses = document_losses(engine, tokenizer.start_id, tokenizer.end_id, blocks, progress)
        return losses if tokenizer.separator_id is None else _without_prefixes(losses, tokenizer)
    if window is not None:
        return _report(crop_losses(engine, blocks, window), progress)
    return _report(exact_losses(engine, tokenizer.start_id, blocks), progress)


def _without_prefixes(losses: Losses, tokenizer: Tokenizer) -> Losses:
    tracker = PrefixTracker(tokenizer)
    for ids, nats in losses:
        predicted = ~tracker.mask(ids)
        yield ids[predicted], nats[predicted]


def _report(losses: Losses, progress: ProgressCallback) -> Losses:
    for ids, nats in losses:
        yield ids, nats
        progress(len(ids))


# ---------------------------------------------------------------------------------------------------- running text


def exact_losses(engine: LossEngine, start_id: int, blocks: Iterable[Ids]) -> Losses:
    """Ids and their losses, chunk by chunk, in one stream from the first id to the last."""
    state = engine.initial_state(1)
    previous = np.array([start_id], np.int64)
    for block in blocks:
        for start in range(0, len(block), CHUNK):
            targets = block[start : start + CHUNK].astype(np.int64)
            inputs = np.concatenate([previous, targets[:-1]])
            nats_T1, state = engine.losses(inputs[:, None], targets[:, None], state)
            previous = targets[-1:]
            yield targets, nats_T1[:, 0]


def stream_losses(
    engine: LossEngine, start_id: int, ids: Ids, streams: int, warmup: int, progress: ProgressCallback = no_progress
) -> FloatArray:
    """The losses [N] of ``ids`` [N], read in parallel ``streams``, each after ``warmup`` ids of the text before it.

    Nearly those of ``exact_losses``, many times faster: the first ids of a stream are predicted from ``warmup`` ids
    instead of all before them. A short text is read in fewer streams.
    """
    streams = max(1, min(streams, len(ids) // (4 * warmup)))
    length = -(-len(ids) // streams)
    warmup = warmup if streams > 1 else 0
    before = np.full(warmup + 1, start_id, np.int64)
    padded = np.concatenate([before, ids.astype(np.int64), np.zeros(streams * length - len(ids), np.int64)])
    rows_BT = np.stack([padded[b * length : b * length + warmup + 1 + length] for b in range(streams)])
    state = engine.initial_state(streams)
    nats_TB = np.empty((warmup + length, streams), np.float32)
    for start in range(0, warmup + length, CHUNK):
        stop = min(start + CHUNK, warmup + length)
        inputs_TB, targets_TB = rows_BT[:, start:stop].T, rows_BT[:, start + 1 : stop + 1].T
        nats_TB[start:stop], state = engine.losses(inputs_TB, targets_TB, state)
        progress(inputs_TB.size)
    return nats_TB[warmup:].T.reshape(-1)[: len(ids)]


def crop_losses(engine: LossEngine, blocks: Iterable[Ids], window: int) -> Losses:
    """Ids and their losses in windows of ``window`` ids, each read from the initial state. nanoGPT reports their mean.

    The windows are adjacent, whereas nanoGPT draws a few at random; the expectation is the same. As in
    nanoGPT, a window has no preceding context: the id before its first prediction is all that is read. An incomplete
    last window is left out. Raises ``DataError`` if the text is shorter than a window.
    """
    batch = max(1, MAX_BATCH_IDS // window)
    pending, any_read = np.zeros(0, np.int64), False
    for block in blocks:
        pending = np.concatenate([pending, block.astype(np.int64)])
        while (len(pending) - 1) // window >= batch:
            yield _window_losses(engine, pending[: batch * window + 1], window)
            pending, any_read = pending[batch * window :], True
    count = (len(pending) - 1) // window
    if count > 0:
        yield _window_losses(engine, pending[: count * window + 1], window)
    elif not any_read:
        raise DataError(f"the text is shorter than one window of {window} characters; choose a smaller window")


def _window_losses(engine: LossEngine, ids: Ids, window: int) -> tuple[Ids, FloatArray]:
    inputs_BW, targets_BW = ids[:-1].reshape(-1, window), ids[1:].reshape(-1, window)
    state = engine.initial_state(len(inputs_BW))
    chunks_TB = []
    for start in range(0, window, CHUNK):
        chunk = slice(start, start + CHUNK)
        nats_TB, state = engine.losses(inputs_BW[:, chunk].T, targets_BW[:, chunk].T, state)
        chunks_TB.append(nats_TB)
    return ids[1:], np.concatenate(chunks_TB).T.reshape(-1)


# ---------------------------------------------------------------------------------------------------- documents


def document_losses(
    engine: LossEngine, start_id: int, end_id: int, blocks: Iterable[Ids], progress: ProgressCallback = no_progress
) -> Losses:
    """Ids and their losses, in order, of documents in ``blocks`` of any size, each document with its end marker.

    A document larger than ``DOCUMENT_POOL`` is read chunk by chunk, in constant memory.
    """
    splitter = DocumentSplitter(blocks, end_id)
    while splitter.fill():
        ids, ends = splitter.take_documents()
        if len(ids):
            yield ids, batched_document_losses(engine, start_id, ids, ends, progress)
        if splitter.begins_long_document:
            yield from _report(exact_losses(engine, start_id, splitter.take_long_document()), progress)


class DocumentSplitter:
    """Splits blocks of ids of any size into pools of whole documents, and a long document into its pieces.

    The next documents are pending after ``fill``; they must be taken before it is called again.
    """

    def __init__(self, blocks: Iterable[Ids], end_id: int) -> None:
        self._blocks = iter(blocks)
        self._end_id = end_id
        self._pending: Ids = np.zeros(0, np.int64)
        self._at_end = False

    def fill(self) -> bool:
        """Read blocks until ``DOCUMENT_POOL`` ids are pending or the text ends. Returns whether any id is pending."""
        for block in self._blocks:
            self._pending = np.concatenate([self._pending, block.astype(np.int64)])
            if len(self._pending) >= DOCUMENT_POOL:
                return True
        self._at_end = True
        return len(self._pending) > 0

    def take_documents(self) -> tuple[Ids, NDArray[np.int64]]:
        """The ids of all pending documents that are complete, and the index after each document's last id.

        At the end of the text, ids without an end marker are a document as well.
        """
        ends = np.flatnonzero(self._pending == self._end_id) + 1
        if self._at_end and not (len(ends) and ends[-1] == len(self._pending)):
            ends = np.append(ends, len(self._pending))
        size = int(ends[-1]) if len(ends) else 0
        ids, self._pending = self._pending[:size], self._pending[size:]
        return ids, ends

    @property
    def begins_long_document(self) -> bool:
        """Whether the pending ids begin a document that does not fit in a pool."""
        return len(self._pending) >= DOCUMENT_POOL

    def take_long_document(self) -> Iterator[Ids]:
        """The long document in pieces, up to its end marker or the end of the text. The iterator must be exhausted."""
        piece, self._pending = self._pending, self._pending[:0]
        yield piece
        for block in self._blocks:
            ends = np.flatnonzero(block == self._end_id) + 1
            if len(ends):
                yield block[: ends[0]]
                self._pending = block[ends[0] :].astype(np.int64)
                return
            yield block


def batched_document_losses(
    engine: LossEngine,
    start_id: int,
    ids: Ids,
    ends: NDArray[np.int64],
    progress: ProgressCallback = no_progress,
    initial: EngineState | None = None,
) -> FloatArray:
    """The losses [N] of documents that are concatenated in ``ids`` [N].

    ``ends`` are the indices after each document's last id, so the last is N. Each document is read after ``start_id``,
    from the engine's initial state or from ``initial``, the state of one stream.
    """
    nats_N = np.empty(len(ids), np.float32)
    starts, lengths = np.append(0, ends[:-1]), np.diff(ends, prepend=0)
    for bucket in buckets(lengths, MAX_BATCH_IDS, CHUNK):
        rows_B = bucket
        state: EngineState = engine.initial_state(len(rows_B))
        if initial is not None:
            state = engine.gather([(initial, np.zeros(len(rows_B), np.int64))])
        offset = 0
        while active := int((lengths[rows_B] > offset).sum()):
            if active < len(rows_B):  # the shorter documents have ended
                rows_B = rows_B[:active]
                state = engine.gather([(state, np.arange(active))])
            lengths_B = np.minimum(lengths[rows_B] - offset, CHUNK)
            indices = _concatenated_ranges(starts[rows_B] + offset, lengths_B)
            before_B = ids[starts[rows_B] + offset - 1] if offset else np.full(active, start_id)
            chunk = pad(ids[indices], lengths_B, before_B.astype(np.int64))
            nats_TB, state = engine.losses(chunk.inputs_TB, chunk.targets_TB, state)
            nats_N[indices] = nats_TB.T[chunk.real_TB.T]
            progress(len(indices))
            offset += CHUNK
    return nats_N


def _concatenated_ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """``arange(starts[0], starts[0] + lengths[0])``, ``arange(starts[1], ...)`` and so on, concatenated."""
    offsets = starts - np.append(0, np.cumsum(lengths)[:-1])
    return np.repeat(offsets, lengths) + np.arange(int(lengths.sum()))
