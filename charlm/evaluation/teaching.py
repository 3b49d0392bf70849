"""Writes the soft targets of a teacher for the training split of a corpus.

Each document is read from the initial state. Running text is read in parallel streams, each after some ids of the text
before it, which is many times faster than one stream. Shapes: N positions, T time steps, B streams or documents, V
vocabulary, K likely ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.corpus.id_files import IdFile
from charlm.corpus.padding import buckets, pad
from charlm.corpus.prepared import Corpus
from charlm.corpus.soft_targets import SoftTargetWriter
from charlm.engine import Engine, FloatArray
from charlm.evaluation.losses import CHUNK, DOCUMENT_POOL, MAX_BATCH_IDS, ProgressCallback, no_progress

_STREAMS, _WARM_UP = 32, 256
"""Of running text: how many are read in parallel, and after how many ids of the text before."""
_MAX_LOGITS = 1 << 22
"""In one call of the engine."""


class _Rows(NamedTuple):
    """Parts of the text that are read side by side, the longest first: from ``starts_B``, and kept from ``kept_B``."""

    starts_B: NDArray[np.int64]
    kept_B: NDArray[np.int64]
    ends_B: NDArray[np.int64]

    def at_once(self, vocabulary: int) -> int:
        """How many time steps the engine reads in one call."""
        return max(1, min(CHUNK, _MAX_LOGITS // (len(self.starts_B) * vocabulary)))


def write_soft_targets(
    folder: Path,
    engine: Engine,
    corpus: Corpus,
    teachers: Sequence[str],
    progress: ProgressCallback = no_progress,
) -> None:
    """Write the soft targets of ``engine`` to a new ``folder``; ``teachers`` are the names of its models.

    ``progress`` is called with the number of positions written. Raises ``OSError`` where writing fails.
    """
    ids = corpus.ids("train")
    is_documents = corpus.tokenizer.end_id is not None
    rows = _documents(corpus.ends("train")) if is_documents else [_streams(len(ids))]
    with SoftTargetWriter(folder, corpus, teachers) as writer:
        for side_by_side in rows:
            _read(engine, corpus.tokenizer.start_id, ids, side_by_side, writer, progress)


def _streams(length: int) -> _Rows:
    """Running text as parallel streams of equal length."""
    count = max(1, min(_STREAMS, length // (4 * _WARM_UP)))
    kept_B = np.arange(count) * -(-length // count)
    ends_B = np.append(kept_B[1:], length)
    # All but the first stream are longer by the warm-up.
    order = np.argsort(-(ends_B - np.maximum(kept_B - _WARM_UP, 0)), kind="stable")
    return _Rows(np.maximum(kept_B - _WARM_UP, 0)[order], kept_B[order], ends_B[order])


def _documents(ends: IdFile) -> Iterator[_Rows]:
    """Documents of similar length side by side; those that are sorted together have ``DOCUMENT_POOL`` ids or so."""
    mean = int(ends.read(len(ends) - 1, len(ends))[0]) / len(ends)
    pool = max(1, int(DOCUMENT_POOL / mean))
    for first in range(0, len(ends), pool):
        before = int(ends.read(first - 1, first)[0]) if first else 0
        ends_D = ends.read(first, min(first + pool, len(ends))).astype(np.int64)
        starts_D = np.append(before, ends_D[:-1])
        for rows in buckets(ends_D - starts_D, MAX_BATCH_IDS, CHUNK):
            yield _Rows(starts_D[rows], starts_D[rows], ends_D[rows])


def _read(
    engine: Engine, start_id: int, ids: IdFile, rows: _Rows, writer: SoftTargetWriter, progress: ProgressCallback
) -> None:
    state, offset = engine.initial_state(len(rows.starts_B)), 0
    at_once = rows.at_once(writer.vocabulary_size)
    while active := int((rows.ends_B - rows.starts_B > offset).sum()):
        if active < len(rows.starts_B):  # the shorter ones have ended
            rows = _Rows(*(positions_B[:active] for positions_B in rows))
            state = engine.gather([(state, np.arange(active))])
        starts_B = rows.starts_B + offset
        ends_B = np.minimum(starts_B + at_once, rows.ends_B)
        read = [ids.read(*bounds) for bounds in zip(starts_B.tolist(), ends_B.tolist(), strict=True)]
        chunk = pad(np.concatenate(read), ends_B - starts_B, _ids_before(ids, start_id, starts_B, rows, offset))
        logits_TBV, state = engine.forward(chunk.inputs_TB, state)
        likely_TBK, probabilities_TBK = _most_likely(logits_TBV, writer.width)
        for row, (start, end) in enumerate(zip(starts_B.tolist(), ends_B.tolist(), strict=True)):
            skipped = max(0, int(rows.kept_B[row]) - start)
            if start + skipped < end:
                kept = slice(skipped, end - start)
                writer.write(start + skipped, likely_TBK[kept, row], probabilities_TBK[kept, row])
                progress(end - start - skipped)
        offset += at_once


def _ids_before(ids: IdFile, start_id: int, starts_B: NDArray[np.int64], rows: _Rows, offset: int) -> NDArray[np.int64]:
    """The first input of each row. A document, and the text, begins after ``start_id``."""
    begins_B = (starts_B == rows.kept_B) & (offset == 0)
    return np.array(
        [
            start_id if begins else int(ids.read(start - 1, start)[0])
            for begins, start in zip(begins_B, starts_B, strict=True)
        ],
        np.int64,
    )


def _most_likely(logits_TBV: FloatArray, width: int) -> tuple[NDArray[np.int64], FloatArray]:
    """The ``width`` most likely ids [T, B, K] and their probabilities, which add up to 1."""
    ids_TBK = np.argpartition(logits_TBV, -width, axis=2)[..., -width:]
    likely_TBK = np.take_along_axis(logits_TBV, ids_TBK, axis=2)
    weights_TBK = np.exp(likely_TBK - likely_TBK.max(axis=2, keepdims=True))
    return ids_TBK.astype(np.int64), weights_TBK / weights_TBK.sum(axis=2, keepdims=True)
