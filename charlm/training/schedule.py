"""How the learning rate moves: warm-up, plateau, cosine, and the cool-down of a run that has a budget.

Nothing here knows torch. A ``Schedule`` is asked for a factor on the learning rate before each step and told every
validation loss; its whole state is a small dictionary of numbers.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from charlm.config import from_dict

PLATEAU_FACTOR = 0.3
PLATEAU_PATIENCE = 3
PLATEAU_THRESHOLD = 1e-3
"""An evaluation counts as better only if it lowers the best loss by this share of it, as torch's scheduler has it."""
MAX_REDUCTIONS = 3
FINAL_SHARE = 0.01
"""The rate that a budget ends with, as a share of the rate it began with."""
COOLDOWN = 0.5
"""The last part of a budget, over which the rate falls linearly."""


@dataclass
class Plateau:
    """Lowers the rate when the validation loss has not improved for ``PLATEAU_PATIENCE`` evaluations in a row.

    ``ReduceLROnPlateau`` of torch, whose numbers it reproduces, as plain data that can be saved.
    """

    factor: float = 1.0
    best: float = math.inf
    bad_evaluations: int = 0
    reductions: int = 0

    def observe(self, loss: float) -> None:
        """Take note of a validation loss."""
        if loss < self.best * (1.0 - PLATEAU_THRESHOLD):
            self.best, self.bad_evaluations = loss, 0
            return
        self.bad_evaluations += 1
        if self.bad_evaluations > PLATEAU_PATIENCE:
            self.factor *= PLATEAU_FACTOR
            self.bad_evaluations = 0
            self.reductions += 1

    def state(self) -> dict[str, Any]:
        """All that changes, as JSON values."""
        return {**dataclasses.asdict(self), "best": "inf" if math.isinf(self.best) else self.best}

    @classmethod
    def restored(cls, state: Any, where: str) -> Plateau:
        """What ``state()`` was taken of. Raises ``DataError``."""
        return from_dict(cls, state, where)


@dataclass
class Schedule:
    """The rate of one run: ``kind`` is "plateau", "cosine" or "constant", ``warmup`` a number of steps."""

    kind: str
    warmup: int
    plateau: Plateau = field(default_factory=Plateau)

    def factor(self, step: int, progress: float | None) -> float:
        """What to multiply the learning rate by in ``step`` (from 0), ``progress`` (0 to 1) into the budget, if any."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.kind == "constant":
            return warm
        if self.kind == "cosine":
            assert progress is not None, "TrainingConfig refuses a cosine without a budget"
            return warm * (FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
        return warm * self.plateau.factor * _cooldown(progress)

    def observe(self, loss: float) -> None:
        """Take note of a validation loss."""
        if self.kind == "plateau":
            self.plateau.observe(loss)

    @property
    def exhausted(self) -> bool:
        """Whether lowering the rate no longer helps: the sign to stop a run that has no fixed number of steps."""
        return self.plateau.reductions > MAX_REDUCTIONS

    def state(self) -> dict[str, Any]:
        """All that changes, as JSON values."""
        return self.plateau.state()

    def restore(self, state: Any, where: str) -> None:
        """Go on from ``state()``. Raises ``DataError``."""
        self.plateau = Plateau.restored(state, where)


def _cooldown(progress: float | None) -> float:
    if progress is None or progress <= 1.0 - COOLDOWN:
        return 1.0
    left = max(0.0, (1.0 - progress) / COOLDOWN)
    return FINAL_SHARE + (1.0 - FINAL_SHARE) * left
