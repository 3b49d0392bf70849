"""Ids to chunks for truncated backpropagation through time. A ``Cursor`` is the whole state of the reader.

``StreamBatches``, for continuous text: in an epoch, B contiguous streams of equal length are read side by side in
chunks of T steps. Targets are the inputs shifted by one, so the last target of a chunk is the first input of the next.
The last chunk is shorter and is used, too. Every epoch starts at another offset, which moves the chunk boundaries.

``DocumentBatches``: in an epoch, the documents are shuffled into pools. The documents of a pool are sorted by length,
and documents of similar length are read side by side, which needs hardly any padding. A batch longer than T steps is
cut into chunks, each with the documents that have not ended before it. Offsets and permutations are functions of
(seed, epoch).

T time steps, B streams or documents.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from charlm.corpus.id_files import IdFile
from charlm.corpus.padding import buckets, pad
from charlm.corpus.prepared import Corpus, longest_prefix
from charlm.corpus.shuffling import shuffled
from charlm.errors import DataError

IGNORE_INDEX = -100
"""The target of padding, which is not predicted; the default of torch's cross entropy."""
POOL_BATCHES = 64
"""About how many batches of documents are sorted by length together."""
_ORDER_KEY = 0x0BDE
_JITTER_KEY = 0x317


class Cursor(NamedTuple):
    """The position of training: ``part`` (an epoch of streams, a pool of documents) and the ``chunk`` within it."""

    part: int = 0
    chunk: int = 0


@dataclass(frozen=True)
class Chunk:
    """The ids of one training step. Unless it is ``fresh``, its B rows continue the first B rows of the last chunk."""

    inputs_TB: NDArray[np.int64]
    targets_TB: NDArray[np.int64]
    """``IGNORE_INDEX`` after the end of a document, and for its condition."""
    fresh: bool
    """Whether all rows start from the initial state."""
    is_padded: bool = False
    """Whether the rows are documents, the longest first, and padded to its length; streams fill the chunk."""
    positions_B: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Where each row's first target is in the ids of the training split; empty for a chunk of other ids."""

    @property
    def predictions(self) -> int:
        """The number of targets, without padding and conditions."""
        return self.inputs_TB.size if not self.is_padded else int((self.targets_TB != IGNORE_INDEX).sum())


class Batches(Protocol):
    """Chunks of a corpus, for any number of epochs."""

    def chunk(self, cursor: Cursor) -> Chunk:
        """The chunk at ``cursor``."""
        ...

    def next_cursor(self, cursor: Cursor) -> Cursor:
        """The cursor of the chunk after the one at ``cursor``."""
        ...

    def has(self, cursor: Cursor) -> bool:
        """Whether there is a chunk at ``cursor``."""
        ...

    def carried_rows(self, cursor: Cursor) -> int:
        """How many rows of the carried state the chunk at ``cursor`` continues; 0 if it starts fresh."""
        ...

    def epochs(self, cursor: Cursor) -> float:
        """The number of epochs before ``cursor``; an integer exactly where an epoch begins."""
        ...


def make_batches(corpus: Corpus, batch: int, bptt: int, seed: int, jitter: float = 0.0) -> Batches:
    """The training split of ``corpus`` as chunks. Raises ``DataError`` where it is too short.

    ``jitter`` moves the chunk boundaries of streams by up to this fraction of ``bptt``; documents have no jitter.
    """
    ids, end_id = corpus.ids("train"), corpus.tokenizer.end_id
    if end_id is None:
        return StreamBatches(ids, batch, bptt, seed, int(jitter * bptt))
    separator_id = corpus.tokenizer.separator_id
    conditions = None if separator_id is None else Conditions(separator_id, longest_prefix(corpus))
    return DocumentBatches(ids, corpus.ends("train"), end_id, batch, bptt, seed, conditions)


@dataclass(frozen=True)
class StreamBatches:
    """Chunks of ``ids`` for ``batch`` streams of ``bptt`` steps, with boundaries moved by up to ``jitter`` steps.

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
        """The number of predictions in one stream and epoch; it does not depend on the epoch's offset."""
        return (len(self.ids) - 1 - self._max_offset) // self.batch

    @property
    def _max_offset(self) -> int:
        # An epoch does not read what its offset skips, so in a short text it is a tenth of a stream at most.
        return min(self.bptt - 1, (len(self.ids) - 1) // self.batch // 10)

    @property
    def chunks_per_epoch(self) -> int:
        """The number of chunks in one epoch, including the last, shorter one."""
        return -(-self.stream_length // self.bptt)

    def offset(self, epoch: int) -> int:
        """The position where the first stream of an epoch begins."""
        random = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        return int(random.integers(self._max_offset + 1))

    def _boundary(self, epoch: int, chunk: int) -> int:
        """Where in a stream a chunk begins: a function of its number, so that chunks can be read in any order."""
        moved = 0
        if self.jitter and 0 < chunk < self.chunks_per_epoch:
            random = np.random.Generator(np.random.Philox(key=[self.seed ^ _JITTER_KEY, epoch], counter=chunk))
            moved = int(random.integers(-self.jitter, self.jitter + 1))
        # At the latest one step before the end of the stream, so that the last chunk is not empty.
        latest = self.stream_length - (chunk < self.chunks_per_epoch)
        return min(chunk * self.bptt + moved, latest)

    def next_cursor(self, cursor: Cursor) -> Cursor:
        last = cursor.chunk + 1 == self.chunks_per_epoch
        return Cursor(cursor.part + 1) if last else Cursor(cursor.part, cursor.chunk + 1)

    def has(self, cursor: Cursor) -> bool:
        return cursor.part >= 0 and 0 <= cursor.chunk < self.chunks_per_epoch

    def carried_rows(self, cursor: Cursor) -> int:
        return self.batch if cursor.chunk else 0

    def epochs(self, cursor: Cursor) -> float:
        return cursor.part + cursor.chunk / self.chunks_per_epoch

    def chunk(self, cursor: Cursor) -> Chunk:
        first = self._boundary(cursor.part, cursor.chunk)
        length = self._boundary(cursor.part, cursor.chunk + 1) - first
        start = self.offset(cursor.part) + first
        ids_BT = np.empty((self.batch, length + 1), np.int64)
        positions_B = start + self.stream_length * np.arange(self.batch)
        for stream, position in enumerate(positions_B.tolist()):
            ids_BT[stream] = self.ids.read(position, position + length + 1)
        ids_TB = np.ascontiguousarray(ids_BT.T)
        return Chunk(ids_TB[:-1], ids_TB[1:], cursor.chunk == 0, positions_B=positions_B + 1)


@dataclass(frozen=True)
class _Batch:
    """Documents that are read side by side, the longest first. Lengths include the end marker."""

    starts_B: NDArray[np.int64]
    lengths_B: NDArray[np.int64]

    def active(self, first: int) -> int:
        """The number of documents that are longer than ``first``."""
        return int((self.lengths_B > first).sum())


class Conditions(NamedTuple):
    """How documents begin with conditions: the id after each, and the most ids that one has, this one included."""

    separator_id: int
    longest: int


class DocumentBatches:
    """Chunks of documents, each of at most ``batch`` x ``bptt`` ids and at most ``bptt`` steps.

    So a chunk of short documents has more than ``batch`` of them. In ``ids``, ``end_id`` follows each document;
    ``ends`` are the positions after it. With ``conditions`` a document's first chunk is longer by the longest of them,
    so that it holds the whole condition, which is not a target. Raises ``DataError`` where there are no documents.
    """

    def __init__(
        self,
        ids: IdFile,
        ends: IdFile,
        end_id: int,
        batch: int,
        bptt: int,
        seed: int,
        conditions: Conditions | None = None,
    ) -> None:
        if not len(ends):
            raise DataError("the training text has no document; use a longer text, or another --documents or --split")
        ids.cache()
        ends.cache()
        self._ids, self._ends, self._end_id = ids, ends, end_id
        self._size, self._bptt, self._seed = batch * bptt, bptt, seed
        self._conditions = conditions
        self._first_steps = bptt + (0 if conditions is None else conditions.longest)
        mean = len(ids) / len(ends)
        self._pool_size = min(len(ends), max(1, round(POOL_BATCHES * self._size / mean)))
        self._pools_per_epoch = -(-len(ends) // self._pool_size)
        self._pool = functools.lru_cache(maxsize=2)(self._make_pool)

    def next_cursor(self, cursor: Cursor) -> Cursor:
        last = cursor.chunk + 1 == len(self._pool(cursor.part))
        return Cursor(cursor.part + 1) if last else Cursor(cursor.part, cursor.chunk + 1)

    def has(self, cursor: Cursor) -> bool:
        return cursor.part >= 0 and 0 <= cursor.chunk < len(self._pool(cursor.part))

    def carried_rows(self, cursor: Cursor) -> int:
        batch, first = self._pool(cursor.part)[cursor.chunk]
        return batch.active(first) if first else 0

    def epochs(self, cursor: Cursor) -> float:
        within = cursor.chunk / len(self._pool(cursor.part)) if cursor.chunk else 0.0
        epoch, pool = divmod(cursor.part, self._pools_per_epoch)
        return epoch + (pool + within) / self._pools_per_epoch

    def chunk(self, cursor: Cursor) -> Chunk:
        batch, first = self._pool(cursor.part)[cursor.chunk]
        active, steps = batch.active(first), self._bptt if first else self._first_steps
        starts_B, lengths_B = batch.starts_B[:active] + first, np.minimum(batch.lengths_B[:active] - first, steps)
        read = [self._ids.read(start, start + length) for start, length in zip(starts_B, lengths_B, strict=True)]
        before_B = np.full(active, self._end_id)
        if first:
            before_B = np.concatenate([self._ids.read(start - 1, start) for start in starts_B])
        inputs_TB, targets_TB, real_TB = pad(np.concatenate(read), lengths_B, before_B.astype(np.int64))
        if self._conditions is not None and not first:
            separators_TB = targets_TB == self._conditions.separator_id
            real_TB = real_TB & (np.cumsum(separators_TB, axis=0) > separators_TB)
        targets_TB[~real_TB] = IGNORE_INDEX
        return Chunk(inputs_TB, targets_TB, first == 0, is_padded=True, positions_B=starts_B)

    def _make_pool(self, part: int) -> list[tuple[_Batch, int]]:
        """For every chunk of a pool its batch, and the position in its documents where the chunk begins."""
        epoch, pool = divmod(part, self._pools_per_epoch)
        numbers = np.arange(pool * self._pool_size, min((pool + 1) * self._pool_size, len(self._ends)))
        starts, lengths = self._bounds(shuffled(numbers, len(self._ends), self._seed, epoch))
        batches = [_Batch(starts[rows], lengths[rows]) for rows in buckets(lengths, self._size, self._first_steps)]
        order = shuffled(np.arange(len(batches)), len(batches), self._seed, part, _ORDER_KEY)
        return [
            (batches[number], first)
            for number in order
            for first in (0, *range(self._first_steps, int(batches[number].lengths_B[0]), self._bptt))
        ]

    def _bounds(self, documents: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The positions in the ids where documents begin, and their lengths."""
        bounds = np.zeros((len(documents), 2), np.int64)
        for row, document in zip(bounds, documents.tolist(), strict=True):
            row[0 if document else 1 :] = self._ends.read(max(0, document - 1), document + 1)
        return bounds[:, 0], bounds[:, 1] - bounds[:, 0]
