"""An ensemble of engines: the mean of their probabilities, not of their logits.

By Jensen's inequality its loss on any text is at most the mean of the members' losses. Computed in float64. Shapes:
T time steps, B streams, V vocabulary.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.engine import Engine, EngineState, FloatArray

EnsembleState = tuple[EngineState, ...]
"""The state of each member."""


class Ensemble:
    """Implements ``Engine``. ``members`` has at least one engine; all must have the same vocabulary."""

    def __init__(self, members: Sequence[Engine]) -> None:
        self.members = tuple(members)
        self.name = f"mean of {len(self.members)}: {'; '.join(dict.fromkeys(member.name for member in self.members))}"

    def initial_state(self, batch: int) -> EnsembleState:
        return tuple(member.initial_state(batch) for member in self.members)

    def gather(self, parts: Sequence[tuple[EnsembleState, NDArray[np.int64]]]) -> EnsembleState:
        return tuple(
            member.gather([(state[index], rows) for state, rows in parts]) for index, member in enumerate(self.members)
        )

    def forward(self, ids_TB: NDArray[Any], state: EnsembleState) -> tuple[FloatArray, EnsembleState]:
        """The logits are log-probabilities."""
        pairs = [member.forward(ids_TB, s) for member, s in zip(self.members, state, strict=True)]
        return _log_mean_softmax([logits for logits, _ in pairs]), tuple(after for _, after in pairs)

    def step(self, ids_B: NDArray[Any], state: EnsembleState) -> tuple[FloatArray, EnsembleState]:
        pairs = [member.step(ids_B, s) for member, s in zip(self.members, state, strict=True)]
        return _log_mean_softmax([logits for logits, _ in pairs]), tuple(after for _, after in pairs)

    def losses(
        self, ids_TB: NDArray[Any], targets_TB: NDArray[Any], state: EnsembleState
    ) -> tuple[FloatArray, EnsembleState]:
        pairs = [
            member.losses(ids_TB, targets_TB, member_state)
            for member, member_state in zip(self.members, state, strict=True)
        ]
        return ensemble_losses([nats for nats, _ in pairs]).astype(np.float32), tuple(after for _, after in pairs)


def ensemble_losses(nats: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """The losses of the mean of the members' probabilities, from the members' losses; all have the same shape."""
    return -_log_mean_exp([-each.astype(np.float64) for each in nats])


def log_softmax(logits: FloatArray) -> NDArray[np.float64]:
    """Log-probabilities over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    log_probabilities: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return log_probabilities


def _log_mean_softmax(logits: Iterable[FloatArray]) -> FloatArray:
    return _log_mean_exp([log_softmax(each) for each in logits]).astype(np.float32)


def _log_mean_exp(logs: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = functools.reduce(np.logaddexp, logs)
    return total - math.log(len(logs))
