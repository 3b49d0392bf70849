"""What is looked at while a model is trained: a bounded part of the validation text, measured fast and often, which
steers the training, and a little text that the model writes."""

from __future__ import annotations

import numpy as np

from charlm.config import SamplingConfig
from charlm.corpus.prepared import Corpus
from charlm.engine import Engine
from charlm.evaluation.losses import Progress, silent
from charlm.evaluation.measure import evaluate, evaluate_streams
from charlm.generation.sampling import uniform_sources, up_to_end
from charlm.generation.streams import Stream
from charlm.tokenizer.documents import DocumentTokenizer
from charlm.tokenizer.protocol import DOCUMENT_SEPARATORS, Ids, Tokenizer
from charlm.training.recipe import STEERING_IDS

SAMPLE_LENGTH, SAMPLE_DOCUMENTS = 120, 4
"""Characters of a sample, all together, and documents among them."""
_COST_PIECES, _COST_PIECE = 32, 512
"""Where ``precision_loss`` measures: so many pieces of so many ids, spread over the text; of documents as many ids."""


class Steering:
    """The first ``STEERING_IDS`` of the validation ids; without any, the training text tells precisions apart."""

    def __init__(self, corpus: Corpus) -> None:
        self._tokenizer = corpus.tokenizer
        self.ids = _first_ids(corpus, "valid")
        """Empty where there is no validation text."""
        self._sample = self._spread(self.ids if len(self.ids) else _first_ids(corpus, "train"))

    def loss(self, engine: Engine, progress: Progress = silent) -> float | None:
        """In nats per character; None without a validation text."""
        return self._measure(engine, self.ids, progress) if len(self.ids) else None

    def precision_loss(self, engine: Engine) -> float:
        """The loss on a sample large enough to tell two precisions of an engine apart."""
        return self._measure(engine, self._sample, silent)

    def _measure(self, engine: Engine, ids: Ids, progress: Progress) -> float:
        if isinstance(self._tokenizer, DocumentTokenizer):
            return evaluate(engine, self._tokenizer, [ids], progress=progress).nats_per_char
        return evaluate_streams(engine, self._tokenizer, ids, progress=progress).nats_per_char

    def _spread(self, ids: Ids) -> Ids:
        if self._tokenizer.document_kind is not None:
            return _whole_documents(ids[: _COST_PIECES * _COST_PIECE], self._tokenizer.end_id)
        if len(ids) <= _COST_PIECES * _COST_PIECE:
            return ids
        starts = np.linspace(0, len(ids) - _COST_PIECE, _COST_PIECES).astype(np.int64)
        return np.concatenate([ids[start : start + _COST_PIECE] for start in starts])


def sample(engine: Engine, tokenizer: Tokenizer, seed: int) -> str:
    """What a model writes: a little text, or the beginnings of a few documents."""
    count = 1 if tokenizer.document_kind is None else SAMPLE_DOCUMENTS
    sources = uniform_sources(seed, range(count))
    stream = Stream(engine, tokenizer, (), SamplingConfig(temperature=0.8), sources)
    ids_NB = np.concatenate([stream.draw(1) for _ in range(SAMPLE_LENGTH // count)])
    texts = [tokenizer.decoder().feed(up_to_end(ids, tokenizer.end_id)) for ids in ids_NB.T]
    return DOCUMENT_SEPARATORS.get(tokenizer.document_kind or "", "").join(texts)


def _first_ids(corpus: Corpus, split: str) -> Ids:
    ids = corpus.ids(split).read(0, min(corpus.sizes[split].ids, STEERING_IDS))
    return _whole_documents(ids, corpus.tokenizer.end_id)


def _whole_documents(ids: Ids, end_id: int | None) -> Ids:
    """``ids`` up to the last end of a document; all of them if there is none."""
    if end_id is None or end_id not in ids:
        return ids
    return ids[: int(np.flatnonzero(ids == end_id)[-1]) + 1]
