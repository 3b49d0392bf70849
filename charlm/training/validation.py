"""What is measured during training: a bounded part of the validation text, often and fast, and a short sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from charlm.config import DEFAULT_TEMPERATURE, SamplingConfig
from charlm.corpus.prepared import Corpus
from charlm.engine import Engine, create_engine
from charlm.engine.torch import TorchEngine
from charlm.evaluation.losses import Progress, no_progress
from charlm.evaluation.measure import evaluate, evaluate_streams, precision_costs
from charlm.generation.sampling import ids_before_end, uniform_generators
from charlm.generation.streams import IdStream
from charlm.system.devices import memory_errors
from charlm.tokenizer.protocol import SEPARATORS, Ids, Tokenizer
from charlm.training.recipe import MAX_VALIDATION_IDS
from charlm.training.state import TrainingState

SAMPLE_LENGTH, SAMPLE_DOCUMENTS = 120, 4
"""Characters of a sample in total, and the number of documents in it."""
_COST_PIECES, _COST_PIECE = 32, 512
"""``precision_loss`` reads this many pieces of this many ids, spread over the text; of documents, as many ids."""


class StoppedError(Exception):
    """A stop was requested in the middle of an evaluation."""


class ValidationText:
    """The first ``MAX_VALIDATION_IDS`` validation ids. Without any, ``precision_loss`` uses the training text."""

    def __init__(self, corpus: Corpus) -> None:
        self._tokenizer = corpus.tokenizer
        self.ids = _first_ids(corpus, "valid")
        """Empty where there is no validation text."""
        self._sample = self._spread(self.ids if len(self.ids) else _first_ids(corpus, "train"))

    def loss(self, engine: Engine, progress: Progress = no_progress) -> float | None:
        """In nats per character; None without a validation text."""
        return self._measure(engine, self.ids, progress) if len(self.ids) else None

    def precision_loss(self, engine: Engine) -> float:
        """The loss on a sample large enough to tell two precisions of an engine apart."""
        return self._measure(engine, self._sample, no_progress)

    def _measure(self, engine: Engine, ids: Ids, progress: Progress) -> float:
        if self._tokenizer.documents is not None:
            return evaluate(engine, self._tokenizer, [ids], progress=progress).nats_per_char
        return evaluate_streams(engine, self._tokenizer, ids, progress=progress).nats_per_char

    def _spread(self, ids: Ids) -> Ids:
        if self._tokenizer.documents is not None:
            return _whole_documents(ids[: _COST_PIECES * _COST_PIECE], self._tokenizer.end_id)
        if len(ids) <= _COST_PIECES * _COST_PIECE:
            return ids
        starts = np.linspace(0, len(ids) - _COST_PIECE, _COST_PIECES).astype(np.int64)
        return np.concatenate([ids[start : start + _COST_PIECE] for start in starts])


class Validated(NamedTuple):
    """Losses in nats per character; ``train_loss`` and ``clipped_share`` of the steps since the last evaluation."""

    train_loss: float | None
    valid_loss: float | None
    clipped_share: float
    is_best: bool
    sample: str


class Validator:
    """Evaluates the averaged weights of a training on ``corpus``, and lets the schedule follow the loss.

    ``memory_advice`` ends the message where the device's memory does not suffice.
    """

    def __init__(self, corpus: Corpus, memory_advice: str) -> None:
        self.text = ValidationText(corpus)
        self._tokenizer = corpus.tokenizer
        self._memory_advice = memory_advice

    def evaluate(self, state: TrainingState, stop: Callable[[], bool]) -> Validated:
        """Evaluate ``state`` and record the result in it. Raises ``StoppedError`` soon after ``stop()`` is true."""
        progress = state.progress
        train_loss, clipped_share = progress.mean_loss(), progress.clipped_share()
        with state.average.applied():
            loss = self._loss(state, stop)
            is_best = state.observe_validation(loss, train_loss)
            # Weights that are not the best are not what people generate with.
            costs = self._precision_costs(state) if is_best or loss is None else {}
            progress.int8_cost, progress.bf16_cost = costs.get("int8"), costs.get("bf16")
            return Validated(train_loss, loss, clipped_share, is_best, self._sample(state))

    def _loss(self, state: TrainingState, stop: Callable[[], bool]) -> float | None:
        def check(predictions: int) -> None:
            if stop():
                raise StoppedError

        with memory_errors(self._memory_advice):
            loss = self.text.loss(TorchEngine(state.model, state.config.precision), check)
        # For the schedule the worst that can be, and never the best.
        return math.inf if loss is not None and not math.isfinite(loss) else loss

    def _precision_costs(self, state: TrainingState) -> dict[str, float]:
        weights, loss = state.model.weights(), self.text.precision_loss
        return precision_costs(state.model.config, weights, loss, torch.get_num_threads())

    def _sample(self, state: TrainingState) -> str:
        weights, threads = state.model.weights(), torch.get_num_threads()
        # A single stream is generated faster on the CPU than on a GPU.
        device = "cpu" if state.device.type == "cpu" else "auto"
        engine = create_engine(state.model.config, weights, device, threads=threads)
        return sample(engine, self._tokenizer, state.config.seed ^ state.progress.step)


def sample(engine: Engine, tokenizer: Tokenizer, seed: int) -> str:
    """A short generated text, or the beginnings of a few documents."""
    count = 1 if tokenizer.documents is None else SAMPLE_DOCUMENTS
    sources = uniform_generators(seed, range(count))
    stream = IdStream(engine, tokenizer, (), SamplingConfig(temperature=DEFAULT_TEMPERATURE), sources)
    ids_NB = np.concatenate([stream.draw(1) for _ in range(SAMPLE_LENGTH // count)])
    texts = [tokenizer.decoder().feed(ids_before_end(ids, tokenizer.end_id)) for ids in ids_NB.T]
    return SEPARATORS.get(tokenizer.documents or "", "").join(texts)


def _first_ids(corpus: Corpus, split: str) -> Ids:
    ids = corpus.ids(split).read(0, min(corpus.sizes[split].ids, MAX_VALIDATION_IDS))
    return _whole_documents(ids, corpus.tokenizer.end_id)


def _whole_documents(ids: Ids, end_id: int | None) -> Ids:
    """``ids`` up to the last end of a document; all of them if there is none."""
    if end_id is None or end_id not in ids:
        return ids
    return ids[: int(np.flatnonzero(ids == end_id)[-1]) + 1]
