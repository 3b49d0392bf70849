"""Ids to TBPTT chunks: B parallel streams of one corpus, read chunk by chunk at an integer cursor.

An epoch lays B contiguous streams of equal length side by side and cuts them into chunks of T; targets are the
inputs shifted by one, so a chunk's last target is the next chunk's first input. The last, shorter chunk is used. Every
epoch starts at another offset, a pure function of (seed, epoch), so chunk borders fall elsewhere each time. The
cursor counts chunks since the beginning of training: it is the whole state of the streamer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.corpus import IdFile
from charlm.errors import DataError


@dataclass(frozen=True)
class StreamBatches:
    """Chunks of ``ids`` for ``batch`` streams of ``bptt`` steps. Raises ``DataError`` where the text is too short."""

    ids: IdFile
    batch: int
    bptt: int
    seed: int

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

    def epoch(self, cursor: int) -> int:
        """The epoch, from 0, that the chunk at ``cursor`` belongs to."""
        return cursor // self.chunks_per_epoch

    def starts_epoch(self, cursor: int) -> bool:
        """Whether the chunk at ``cursor`` is the first of an epoch, before which the carried state is reset."""
        return cursor % self.chunks_per_epoch == 0

    def offset(self, epoch: int) -> int:
        """Where an epoch's first stream begins."""
        random = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        return int(random.integers(self._max_offset + 1))

    def chunk(self, cursor: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Inputs and targets, each [T, B], of the chunk at ``cursor``."""
        first = (cursor % self.chunks_per_epoch) * self.bptt
        length = min(self.bptt, self.stream_length - first)
        start = self.offset(self.epoch(cursor)) + first
        ids_BT = np.empty((self.batch, length + 1), np.int64)
        for stream in range(self.batch):
            position = start + stream * self.stream_length
            ids_BT[stream] = self.ids.read(position, position + length + 1)
        ids_TB = np.ascontiguousarray(ids_BT.T)
        return ids_TB[:-1], ids_TB[1:]
