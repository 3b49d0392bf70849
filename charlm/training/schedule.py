"""Learning rate schedules: warm-up, plateau, cosine, constant, and the cool-down of a run that has a budget.

This module does not use torch. A ``Schedule`` gives a factor for the learning rate before each step and is told every
validation loss; its state is a small dictionary of numbers.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from charlm.config import from_dict
from charlm.errors import DataError

PLATEAU_FACTOR = 0.3
PLATEAU_PATIENCE = 3
PLATEAU_THRESHOLD = 1e-3
"""Relative improvement over the best loss that counts as better, as in torch's ``threshold_mode="rel"``."""
MAX_REDUCTIONS = 3
FINAL_FACTOR = 0.01
"""Factor of the learning rate at the end of a budget; also the least during a warm-up that is a share of one."""
COOLDOWN_FRACTION = 0.5
"""The last part of a budget, in which the learning rate falls linearly."""


@dataclass
class Plateau:
    """Lowers the learning rate after more than ``PLATEAU_PATIENCE`` evaluations in a row without improvement.

    The same numbers as torch's ``ReduceLROnPlateau``, as plain data that can be saved.
    """

    factor: float = 1.0
    best: float = math.inf
    bad_evaluations: int = 0
    reductions: int = 0
    cooling: bool = False
    """Whether the cool-down has begun. It lowers the rate anyway; reductions at a plateau as well gained nothing."""

    def observe(self, loss: float) -> None:
        """Update with a validation loss."""
        if self.cooling:
            return
        if loss < self.best * (1.0 - PLATEAU_THRESHOLD):
            self.best, self.bad_evaluations = loss, 0
            return
        self.bad_evaluations += 1
        if self.bad_evaluations > PLATEAU_PATIENCE:
            self.factor *= PLATEAU_FACTOR
            self.bad_evaluations = 0
            self.reductions += 1

    def state(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {**dataclasses.asdict(self), "best": "inf" if math.isinf(self.best) else self.best}

    @classmethod
    def restored(cls, state: Any, where: str) -> Plateau:
        """The plateau whose ``state()`` is given. Raises ``DataError`` that begins with ``where``."""
        plateau = from_dict(cls, state, where)
        if not (
            0 < plateau.factor <= 1 and plateau.best >= 0 and min(plateau.bad_evaluations, plateau.reductions) >= 0
        ):
            raise DataError(f"{where} has a plateau with numbers out of range; use an earlier step")
        return plateau


@dataclass
class Schedule:
    """The schedule of one run: ``kind`` is "plateau", "cosine" or "constant".

    The warm-up takes ``warmup`` steps, or the share ``warmup_share`` of the budget if that is above 0.
    """

    kind: str
    warmup: int
    warmup_share: float = 0.0
    plateau: Plateau = field(default_factory=Plateau)

    def factor(self, step: int, budget_spent: float | None, spent_after: float | None = None) -> float:
        """The factor for the learning rate in ``step`` (from 0). ``budget_spent`` is 0 to 1, None without a budget.

        ``spent_after`` is the same after the step, as expected; by default as before.
        """
        warm = self._warm(step, budget_spent if spent_after is None else spent_after)
        self.plateau.cooling = _cooldown(budget_spent) < 1.0
        if self.kind == "constant":
            return warm
        if self.kind == "cosine":
            assert budget_spent is not None, "TrainingConfig refuses a cosine without a budget"
            return warm * (FINAL_FACTOR + (1 - FINAL_FACTOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, budget_spent))))
        return warm * self.plateau.factor * _cooldown(budget_spent)

    def _warm(self, step: int, spent: float | None) -> float:
        if self.warmup_share and spent is not None:
            # A factor of 0 would waste the step.
            return min(1.0, max(FINAL_FACTOR, spent / self.warmup_share))
        return min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0

    def observe(self, loss: float) -> None:
        """Update with a validation loss."""
        if self.kind == "plateau":
            self.plateau.observe(loss)

    @property
    def exhausted(self) -> bool:
        """Whether lowering the learning rate no longer helps, which stops a run without a budget."""
        return self.plateau.reductions > MAX_REDUCTIONS

    def state(self) -> dict[str, Any]:
        """The state as JSON values."""
        return self.plateau.state()

    def restore(self, state: Any, where: str) -> None:
        """Continue from ``state()``. Raises ``DataError`` that begins with ``where``."""
        self.plateau = Plateau.restored(state, where)


def _cooldown(budget_spent: float | None) -> float:
    if budget_spent is None or budget_spent <= 1.0 - COOLDOWN_FRACTION:
        return 1.0
    left = max(0.0, (1.0 - budget_spent) / COOLDOWN_FRACTION)
    return FINAL_FACTOR + (1.0 - FINAL_FACTOR) * left
