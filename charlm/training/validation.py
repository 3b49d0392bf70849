"""Evaluation during training: the validation loss, the cost of faster precisions, and a short sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from charlm.config import DEFAULT_TEMPERATURE, SamplingConfig
from charlm.corpus.prepared import Corpus
from charlm.engine import Engine, LossEngine, create_engine
from charlm.engine.torch import TorchEngine
from charlm.evaluation.measure import precision_costs
from charlm.generation.sampling import ids_before_end, uniform_generators
from charlm.generation.streams import IdStream
from charlm.system.devices import memory_errors
from charlm.system.processes import ALONE, Group
from charlm.tokenizer.conditions import prefix_ids
from charlm.tokenizer.protocol import Ids, Tokenizer, document_separator
from charlm.training.shared_engine import SharedEngine
from charlm.training.state import TrainingState
from charlm.training.validation_text import ValidationText

SAMPLE_LENGTH, SAMPLE_DOCUMENTS = 120, 4
"""Characters of a sample in total, and the number of documents in it."""


class StoppedError(Exception):
    """A stop was requested in the middle of an evaluation."""


class ValidationResult(NamedTuple):
    """Losses in nats per character; ``train_loss``, the mean ``grad_norm`` before clipping and ``clipped_share`` are of
    the steps since the last evaluation.
    """

    train_loss: float | None
    valid_loss: float | None
    grad_norm: float | None
    clipped_share: float
    is_best: bool
    sample: str


class Validator:
    """Evaluates the averaged weights of a training on ``corpus``, and lets the schedule follow the loss.

    It reads at most ``max_ids`` of the validation text. ``memory_advice`` ends the message where the device's memory
    does not suffice. The processes of a ``group`` read the text together; the first one does the rest.
    """

    def __init__(self, corpus: Corpus, max_ids: int, memory_advice: str, group: Group = ALONE) -> None:
        self._group = group
        self.text = ValidationText(corpus, max_ids)
        self._tokenizer = corpus.tokenizer
        values = [] if corpus.table is None else [value for value, _ in corpus.table.frequent()]
        self._sampled_values = values[:SAMPLE_DOCUMENTS]
        self._memory_advice = memory_advice

    def evaluate(self, state: TrainingState, stop: Callable[[], bool]) -> ValidationResult:
        """Evaluate ``state`` and record the result in it. Raises ``StoppedError`` soon after ``stop()`` is true."""
        progress = state.progress
        train_loss = progress.mean_loss()
        clipping = progress.mean_grad_norm(), progress.clipped_share()
        with state.average.applied():
            loss = self._loss(state, stop)
            is_best = state.observe_validation(loss, train_loss)
            # Measured only for the best weights, because generation uses those.
            is_first = self._group.is_first
            costs = self._precision_costs(state) if is_first and (is_best or loss is None) else {}
            progress.int8_cost, progress.bf16_cost = costs.get("int8"), costs.get("bf16")
            return ValidationResult(train_loss, loss, *clipping, is_best, self._sample(state) if is_first else "")

    def _loss(self, state: TrainingState, stop: Callable[[], bool]) -> float | None:
        def check(predictions: int) -> None:
            if stop():
                raise StoppedError

        with memory_errors(self._memory_advice):
            engine: LossEngine = TorchEngine(state.model, state.config.precision)
            engine = engine if self._group.size == 1 else SharedEngine(engine, self._group)
            loss = self.text.loss(engine, check)
        # inf: worst possible for the schedule, and never recorded as the best.
        return math.inf if loss is not None and not math.isfinite(loss) else loss

    def _precision_costs(self, state: TrainingState) -> dict[str, float]:
        weights, loss = state.model.weights(), self.text.precision_loss
        return precision_costs(state.model.config, weights, loss, torch.get_num_threads())

    def _sample(self, state: TrainingState) -> str:
        weights, threads = state.model.weights(), torch.get_num_threads()
        # A single stream is generated faster on the CPU than on a GPU.
        device = "cpu" if state.device.type == "cpu" else "auto"
        engine = create_engine(state.model.config, weights, device, threads=threads)
        return sample(engine, self._tokenizer, state.config.seed ^ state.progress.step, self._sampled_values)


def sample(engine: Engine, tokenizer: Tokenizer, seed: int, values: Sequence[str] = ()) -> str:
    """A short generated text, or the beginnings of a few documents; with conditions, one for each of ``values``."""
    if values:
        count = len(values)
        prompts = [prefix_ids(tokenizer, value) for value in values]
        texts = [_drawn(engine, tokenizer, seed, [number], prompts[number : number + 1]) for number in range(count)]
        return "\n".join(f"{value}: {text}" for value, (text,) in zip(values, texts, strict=True))
    samples = range(1 if tokenizer.document_kind is None else SAMPLE_DOCUMENTS)
    return document_separator(tokenizer).join(_drawn(engine, tokenizer, seed, samples))


def _drawn(
    engine: Engine, tokenizer: Tokenizer, seed: int, samples: Sequence[int], prompt: Sequence[Ids] = ()
) -> list[str]:
    sources = uniform_generators(seed, samples)
    stream = IdStream(engine, tokenizer, prompt, SamplingConfig(temperature=DEFAULT_TEMPERATURE), sources)
    length = SAMPLE_LENGTH if tokenizer.document_kind is None else SAMPLE_LENGTH // SAMPLE_DOCUMENTS
    ids_NB = np.concatenate([stream.draw(1) for _ in range(length)])
    return [tokenizer.decoder().feed(ids_before_end(ids, tokenizer.end_id)) for ids in ids_NB.T]
