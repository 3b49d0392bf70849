"""The budget of a training: how many ids it will read, estimated before it starts. The recipe depends on it.

Steps and epochs need no estimate, so that they give the same recipe on every machine. For a time the estimate comes
from the speed that this machine was measured to have (``speed.py``), rounded so coarsely that it is usually the same
when the training is repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from charlm.config import MAX_VALIDATION_IDS, ModelConfig, TrainingConfig

EPOCHS_WITHOUT_LIMIT = 30
"""Assumed for a training that runs until the validation loss stops improving; its limit without validation text."""
TRAINING_SHARE = 0.9
"""Of a time limit. The rest is for measuring the speed, evaluations and saving."""
MAX_EVALUATION_SHARE = 0.05
"""Of a time limit, for one evaluation."""
MIN_VALIDATION_IDS = 1 << 10
COMPARED_PIECES, _COMPARED_PIECE = 32, 512
"""The comparison of precisions reads this many pieces of this many ids, spread over the text. For documents, the same
total. Where evaluations read fewer than ``MAX_VALIDATION_IDS``, the pieces are shorter in proportion."""
_MIN_EVALUATION_SECONDS = 1e-3
_INTERVAL = 12
"""The time between evaluations, as a multiple of the time of one."""
_WARM_UP_IDS = 1.25
"""Ids that parallel streams of an evaluation read for each id that they predict; see ``stream_losses``."""


def compared_ids(max_ids: int) -> int:
    """How many ids the comparison of precisions reads at most, where evaluations read at most ``max_ids``."""
    return COMPARED_PIECES * max(1, _COMPARED_PIECE * max_ids // MAX_VALIDATION_IDS)


@dataclass(frozen=True)
class TrainingSpeed:
    """A training step takes ``per_step`` seconds and ``per_id`` seconds for each of its ids."""

    per_step: float
    per_id: float

    def ids_per_second(self, ids_per_step: int) -> float:
        """Ids per second in steps of ``ids_per_step``, rounded."""
        return rounded_speed(ids_per_step / (self.per_step + self.per_id * ids_per_step))


@dataclass(frozen=True)
class EvaluationSpeed:
    """Seconds per id of the loss, and per id of the comparison of precisions, which takes ``fixed`` seconds more."""

    per_id: float
    per_compared_id: float
    fixed: float = 0.0

    def seconds(self, ids: int, max_ids: int) -> float:
        """Of an evaluation that reads ``ids``, at most ``max_ids``."""
        compared = min(ids or max_ids, compared_ids(max_ids))
        return self.fixed + _WARM_UP_IDS * self.per_id * ids + self.per_compared_id * compared


class Speedometer(Protocol):
    """Measures the speed of models on this machine. The same question gets the same answer."""

    def training(self, model: ModelConfig, config: TrainingConfig) -> TrainingSpeed:
        """How fast ``model`` trains with the optimizer, precision, device, threads and batch of ``config``."""
        ...

    def evaluation(self, model: ModelConfig, config: TrainingConfig) -> EvaluationSpeed:
        """How fast ``model`` is evaluated during a training with ``config``."""
        ...


@dataclass(frozen=True)
class Budget:
    """The limit of a training: at most one of ``steps``, ``epochs`` and ``seconds`` is set.

    ``speed`` measures how fast a model trains; it is called only for a limit in seconds.
    """

    train_ids: int
    ids_per_step: int
    steps: int | None
    epochs: int | None
    seconds: float | None
    device: str
    """cpu, cuda or mps."""
    speed: Callable[[ModelConfig], TrainingSpeed]

    def estimated_ids(self, model: ModelConfig) -> float:
        """How many ids ``model`` will be trained on, repetitions counted."""
        if self.steps is not None:
            return self.steps * self.ids_per_step
        if self.epochs is not None:
            return self.epochs * self.train_ids
        if self.seconds is not None:
            return TRAINING_SHARE * self.seconds * self.ids_per_second(model)
        return EPOCHS_WITHOUT_LIMIT * self.train_ids

    def estimated_epochs(self, model: ModelConfig) -> float:
        """How many epochs ``model`` will be trained for."""
        return self.estimated_ids(model) / max(1, self.train_ids)

    def estimated_steps(self, model: ModelConfig) -> float:
        """How many optimizer steps ``model`` will be trained for."""
        return self.estimated_ids(model) / max(1, self.ids_per_step)

    def ids_per_second(self, model: ModelConfig) -> float:
        """The measured speed of ``model`` in steps of this size, rounded."""
        return self.speed(model).ids_per_second(self.ids_per_step)


@dataclass(frozen=True)
class EvaluationPlan:
    """Evaluations that fit into a time limit: each reads at most ``max_ids`` and takes about ``seconds``."""

    max_ids: int
    seconds: float

    @property
    def interval(self) -> float:
        """The least time between two of them in seconds."""
        return _INTERVAL * self.seconds


def plan_evaluations(speed: EvaluationSpeed, validation_ids: int, limit: float) -> EvaluationPlan:
    """As many of ``validation_ids`` as an evaluation can read in a small share of ``limit`` seconds."""

    def seconds(max_ids: int) -> float:
        return max(_MIN_EVALUATION_SECONDS, speed.seconds(min(validation_ids, max_ids), max_ids))

    max_ids = MAX_VALIDATION_IDS
    while max_ids > MIN_VALIDATION_IDS and seconds(max_ids) > MAX_EVALUATION_SHARE * limit:
        max_ids //= 2
    return EvaluationPlan(max_ids, 1.0 / rounded_speed(1.0 / seconds(max_ids)))


def rounded_speed(value: float) -> float:
    """``value`` rounded to a power of the square root of 2: speeds of one machine differ by less from time to time."""
    return float(2.0 ** (round(2 * math.log2(value)) / 2))
