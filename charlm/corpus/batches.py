"""Ids to TBPTT chunks, read one by one at a cursor, which is the whole state of the reader.

``StreamBatches``: an epoch lays B contiguous streams of equal length side by side and cuts them into chunks of T;
targets are the inputs shifted by one, so a chunk's last target is the next chunk's first input. The last, shorter chunk
is used. Every epoch starts at another offset, so chunk borders fall elsewhere each time.

``DocumentBatches``: an epoch shuffles the documents into pools; those of a pool are sorted by length and laid side by
side with others of like length, so that hardly anything is padding. A batch longer than T is cut into chunks, each with
those documents that have not ended. Offsets and shuffles are pure functions of (seed, epoch).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from charlm.corpus.documents import buckets, pad, shuffled
from charlm.corpus.id_files import IdFile
from charlm.corpus.prepared import Corpus
from charlm.errors import DataError

IGNORED = -100
"""The target of a place that is no prediction; torch's own number for it."""
POOL_BATCHES = 64
"""So many batches of documents, about, are sorted by length together."""
_ORDER_KEY = 0x0BDE
_JITTER_KEY = 0x317


class Cursor(NamedTuple):
    """Where training stands: ``part`` (an epoch of streams, a pool of documents) and ``chunk`` within it."""

    part: int = 0
    chunk: int = 0


@dataclass(frozen=True)
class Chunk:
    """What one step reads. Its rows go on from the first B rows of the chunk before, unless it is ``fresh``."""

    inputs_TB: NDArray[np.int64]
    targets_TB: NDArray[np.int64]
    """``IGNORED`` where a document has ended."""
    fresh: bool
    """Whether all rows begin from an empty state."""
    lengths_B: NDArray[np.int64] | None = None
    """Of documents, which need not fill the chunk; the longest first."""

    @property
    def predictions(self) -> int:
        """Ids that are really predicted."""
        return self.inputs_TB.size if self.lengths_B is None else int(self.lengths_B.sum())


class Batches(Protocol):
    """Chunks of a corpus, epoch after epoch."""

    def chunk(self, cursor: Cursor) -> Chunk:
        """What to read at ``cursor``."""
        ...

    def after(self, cursor: Cursor) -> Cursor:
        """Where to read next."""
        ...

    def has(self, cursor: Cursor) -> bool:
        """Whether there is a chunk at ``cursor``."""
        ...

    def rows(self, cursor: Cursor) -> int:
        """Rows of state that the chunk at ``cursor`` goes on from; 0 if it begins anew."""
        ...

    def epochs(self, cursor: Cursor) -> float:
        """Epochs behind ``cursor``; a whole number exactly where one begins."""
        ...


def make_batches(corpus: Corpus, batch: int, bptt: int, seed: int, jitter: float = 0.0) -> Batches:
    """The training part of ``corpus``, as streams or by documents. Raises ``DataError`` where it is too short.

    ``jitter`` moves the borders of a stream's chunks; a document has its own.
    """
    ids, end_id = corpus.ids("train"), corpus.tokenizer.end_id
    if end_id is None:
        return StreamBatches(ids, batch, bptt, seed, int(jitter * bptt))
    return DocumentBatches(ids, corpus.ends("train"), end_id, batch, bptt, seed)


@dataclass(frozen=True)
class StreamBatches:
    """Chunks of ``ids`` for ``batch`` streams of ``bptt`` steps, give or take ``jitter`` at either border.

    Raises ``DataError`` where the text is too short.
    """

    ids: IdFile
    batch: int
    bptt: int
    seed: int
    jitter: int = 0

    def __post_init__(self) -> None:
        if len(self.ids) < 2 * self.batch + 1:
            raise DataError(
                f"the training text has {len(self.ids)} characters, too few for {self.batch} streams; "
                "use a longer text or a smaller --batch"
            )

    @property
    def stream_length(self) -> int:
        """Predictions in one stream of one epoch; the same in every epoch, whatever its offset."""
        return (len(self.ids) - 1 - self._max_offset) // self.batch

    @property
    def _max_offset(self) -> int:
        # What the offset skips is lost to that epoch, so a short text moves by a tenth of a stream at most.
        return min(self.bptt - 1, (len(self.ids) - 1) // self.batch // 10)

    @property
    def chunks_per_epoch(self) -> int:
        """Chunks in one epoch, the last short one counted."""
        return -(-self.stream_length // self.bptt)

    def offset(self, epoch: int) -> int:
        """Where an epoch's first stream begins."""
        random = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        return int(random.integers(self._max_offset + 1))

    def _border(self, epoch: int, chunk: int) -> int:
        """Where in a stream a chunk begins: a function of its number, so any chunk is found without the ones before."""
        moved = 0
        if self.jitter and 0 < chunk < self.chunks_per_epoch:
            random = np.random.Generator(np.random.Philox(key=[self.seed ^ _JITTER_KEY, epoch], counter=chunk))
            moved = int(random.integers(-self.jitter, self.jitter + 1))
        # The last chunk keeps a step at least; nothing lies behind the stream's end.
        most = self.stream_length - (chunk < self.chunks_per_epoch)
        return min(chunk * self.bptt + moved, most)

    def after(self, cursor: Cursor) -> Cursor:
        last = cursor.chunk + 1 == self.chunks_per_epoch
        return Cursor(cursor.part + 1) if last else Cursor(cursor.part, cursor.chunk + 1)

    def has(self, cursor: Cursor) -> bool:
        return cursor.part >= 0 and 0 <= cursor.chunk < self.chunks_per_epoch

    def rows(self, cursor: Cursor) -> int:
        return self.batch if cursor.chunk else 0

    def epochs(self, cursor: Cursor) -> float:
        return cursor.part + cursor.chunk / self.chunks_per_epoch

    def chunk(self, cursor: Cursor) -> Chunk:
        first = self._border(cursor.part, cursor.chunk)
        length = self._border(cursor.part, cursor.chunk + 1) - first
        start = self.offset(cursor.part) + first
        ids_BT = np.empty((self.batch, length + 1), np.int64)
        for stream in range(self.batch):
            position = start + stream * self.stream_length
            ids_BT[stream] = self.ids.read(position, position + length + 1)
        ids_TB = np.ascontiguousarray(ids_BT.T)
        return Chunk(ids_TB[:-1], ids_TB[1:], fresh=cursor.chunk == 0)


@dataclass(frozen=True)
class _Batch:
    """Documents that are read side by side, the longest first; lengths count the end marker."""

    starts_B: NDArray[np.int64]
    lengths_B: NDArray[np.int64]

    def active(self, first: int) -> int:
        """How many of them go on at ``first`` or beyond."""
        return int((self.lengths_B > first).sum())


class DocumentBatches:
    """Chunks of documents: at most ``batch`` x ``bptt`` places in each, ``bptt`` steps at most.

    So short documents come many at a time. ``ids`` hold them with the marker ``boundary`` after each, ``ends`` where
    each ends. Raises ``DataError`` where there is none.
    """

    def __init__(self, ids: IdFile, ends: IdFile, boundary: int, batch: int, bptt: int, seed: int) -> None:
        if not len(ends):
            raise DataError("the training part has no document; use a longer text, or another --documents or --split")
        ids.hold()
        ends.hold()
        self._ids, self._ends, self._boundary = ids, ends, boundary
        self._size, self._bptt, self._seed = batch * bptt, bptt, seed
        mean = len(ids) / len(ends)
        self._pool = min(len(ends), max(1, round(POOL_BATCHES * self._size / mean)))
        self._pools = -(-len(ends) // self._pool)
        self._batches_of = functools.lru_cache(maxsize=2)(self._make_pool)

    def after(self, cursor: Cursor) -> Cursor:
        last = cursor.chunk + 1 == len(self._batches_of(cursor.part))
        return Cursor(cursor.part + 1) if last else Cursor(cursor.part, cursor.chunk + 1)

    def has(self, cursor: Cursor) -> bool:
        return cursor.part >= 0 and 0 <= cursor.chunk < len(self._batches_of(cursor.part))

    def rows(self, cursor: Cursor) -> int:
        batch, first = self._batches_of(cursor.part)[cursor.chunk]
        return batch.active(first) if first else 0

    def epochs(self, cursor: Cursor) -> float:
        within = cursor.chunk / len(self._batches_of(cursor.part)) if cursor.chunk else 0.0
        epoch, pool = divmod(cursor.part, self._pools)
        return epoch + (pool + within) / self._pools

    def chunk(self, cursor: Cursor) -> Chunk:
        batch, first = self._batches_of(cursor.part)[cursor.chunk]
        active = batch.active(first)
        starts_B, lengths_B = batch.starts_B[:active] + first, np.minimum(batch.lengths_B[:active] - first, self._bptt)
        read = [self._ids.read(start, start + length) for start, length in zip(starts_B, lengths_B, strict=True)]
        before_B = np.full(active, self._boundary)
        if first:
            before_B = np.concatenate([self._ids.read(start - 1, start) for start in starts_B])
        inputs_TB, targets_TB, real_TB = pad(np.concatenate(read), lengths_B, before_B.astype(np.int64))
        targets_TB[~real_TB] = IGNORED
        return Chunk(inputs_TB, targets_TB, first == 0, lengths_B)

    def _make_pool(self, part: int) -> list[tuple[_Batch, int]]:
        """Of every chunk in a pool its batch, and where in its documents it begins."""
        epoch, pool = divmod(part, self._pools)
        places = np.arange(pool * self._pool, min((pool + 1) * self._pool, len(self._ends)))
        starts, lengths = self._bounds(shuffled(places, len(self._ends), self._seed, epoch))
        batches = [_Batch(starts[rows], lengths[rows]) for rows in buckets(lengths, self._size, self._bptt)]
        order = shuffled(np.arange(len(batches)), len(batches), self._seed, part, _ORDER_KEY)
        return [
            (batches[number], first)
            for number in order
            for first in range(0, int(batches[number].lengths_B[0]), self._bptt)
        ]

    def _bounds(self, documents: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where documents begin among the ids, and their lengths."""
        bounds = np.zeros((len(documents), 2), np.int64)
        for row, document in zip(bounds, documents.tolist(), strict=True):
            row[0 if document else 1 :] = self._ends.read(max(0, document - 1), document + 1)
        return bounds[:, 0], bounds[:, 1] - bounds[:, 0]
