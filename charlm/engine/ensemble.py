"""Several engines as one: the mean of their probabilities (not of their logits).

By Jensen's inequality its loss is at most the mean of the members' losses, on every text. Computed in float64. Shapes:
T characters in time, B streams, V ids.
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
    """See ``Engine`` for the calls. The members, at least one, must read the same ids."""

    def __init__(self, members: Sequence[Engine]) -> None:
        self.members = tuple(members)
        self.name = f"mean of {len(self.members)}: {'; '.join(dict.fromkeys(member.name for member in self.members))}"

    def start(self, batch: int) -> EnsembleState:
        return tuple(member.start(batch) for member in self.members)

    def gather(self, parts: Sequence[tuple[EnsembleState, NDArray[np.int64]]]) -> EnsembleState:
        return tuple(
            member.gather([(state[which], rows) for state, rows in parts]) for which, member in enumerate(self.members)
        )

    def forward(self, ids_TB: NDArray[Any], state: EnsembleState) -> tuple[FloatArray, EnsembleState]:
        """Logits here are log-probabilities."""
        pairs = [member.forward(ids_TB, own) for member, own in zip(self.members, state, strict=True)]
        return _mean_of_softmax([logits for logits, _ in pairs]), tuple(after for _, after in pairs)

    def step(self, ids_B: NDArray[Any], state: EnsembleState) -> tuple[FloatArray, EnsembleState]:
        pairs = [member.step(ids_B, own) for member, own in zip(self.members, state, strict=True)]
        return _mean_of_softmax([logits for logits, _ in pairs]), tuple(after for _, after in pairs)

    def losses(
        self, ids_TB: NDArray[Any], targets_TB: NDArray[Any], state: EnsembleState
    ) -> tuple[FloatArray, EnsembleState]:
        pairs = [member.losses(ids_TB, targets_TB, own) for member, own in zip(self.members, state, strict=True)]
        return mean_losses([nats for nats, _ in pairs]).astype(np.float32), tuple(after for _, after in pairs)


def mean_losses(nats: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """The losses of the mean of probabilities, from the members' losses; all of one shape."""
    return -_log_mean_exp([-each.astype(np.float64) for each in nats])


def _mean_of_softmax(logits: Iterable[FloatArray]) -> FloatArray:
    return _log_mean_exp([_log_softmax(each) for each in logits]).astype(np.float32)


def _log_mean_exp(logs: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = functools.reduce(np.logaddexp, logs)
    return total - math.log(len(logs))


def _log_softmax(logits: FloatArray) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    logs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logs
