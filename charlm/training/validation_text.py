"""The part of the validation text that is evaluated during training and after an export."""

from __future__ import annotations

import numpy as np

from charlm.config import MAX_VALIDATION_IDS
from charlm.corpus.prepared import Corpus
from charlm.engine import Engine, LossEngine
from charlm.evaluation.losses import ProgressCallback, no_progress
from charlm.evaluation.measure import evaluate, evaluate_streams
from charlm.tokenizer.protocol import Ids
from charlm.training.budget import COMPARED_PIECES, compared_ids


class ValidationText:
    """The first ``max_ids`` validation ids. Without any, ``precision_loss`` uses the training text."""

    def __init__(self, corpus: Corpus, max_ids: int = MAX_VALIDATION_IDS) -> None:
        self._tokenizer = corpus.tokenizer
        self.ids = _first_ids(corpus, "valid", max_ids)
        """Empty where there is no validation text."""
        sampled = self.ids if len(self.ids) else _first_ids(corpus, "train", max_ids)
        self._sample = self._spread(sampled, compared_ids(max_ids))

    def loss(self, engine: LossEngine, progress: ProgressCallback = no_progress) -> float | None:
        """In nats per character; None without a validation text."""
        return self._measure(engine, self.ids, progress) if len(self.ids) else None

    def sample_loss(self, engine: LossEngine, max_ids: int) -> float:
        """The loss on ``max_ids`` of the validation text at most: pieces from all of it, or the first documents."""
        return self._measure(engine, self._spread(self.ids, max_ids), no_progress)

    def precision_loss(self, engine: Engine) -> float:
        """The loss on a sample large enough to tell two precisions of an engine apart."""
        return self._measure(engine, self._sample, no_progress)

    def _measure(self, engine: LossEngine, ids: Ids, progress: ProgressCallback) -> float:
        if self._tokenizer.document_kind is not None:
            return evaluate(engine, self._tokenizer, [ids], progress=progress).nats_per_char
        return evaluate_streams(engine, self._tokenizer, ids, progress=progress).nats_per_char

    def _spread(self, ids: Ids, count: int) -> Ids:
        if self._tokenizer.document_kind is not None:
            return _whole_documents(ids[:count], self._tokenizer.end_id)
        if len(ids) <= count:
            return ids
        piece = count // COMPARED_PIECES
        starts = np.linspace(0, len(ids) - piece, COMPARED_PIECES).astype(np.int64)
        return np.concatenate([ids[start : start + piece] for start in starts])


def _first_ids(corpus: Corpus, split: str, max_ids: int) -> Ids:
    ids = corpus.ids(split).read(0, min(corpus.sizes[split].ids, max_ids))
    return _whole_documents(ids, corpus.tokenizer.end_id)


def _whole_documents(ids: Ids, end_id: int | None) -> Ids:
    """``ids`` up to the last end of a document; all of them if there is none."""
    if end_id is None or end_id not in ids:
        return ids
    return ids[: int(np.flatnonzero(ids == end_id)[-1]) + 1]
