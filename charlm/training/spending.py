"""How much of a budget is spent: by the whole run, and by the generation that is trained now.

``seconds`` are those that the run has taken so far.
"""

from __future__ import annotations

from dataclasses import dataclass

from charlm.config import TrainingConfig
from charlm.corpus.batches import Batches, Cursor
from charlm.training.state import TrainingState
from charlm.training.time_limit import TimeLimit


@dataclass(frozen=True)
class Spending:
    """Of the budget in ``config`` by the training with ``state``, which is read at every call.

    ``limit`` is the budget where it is a time.
    """

    config: TrainingConfig
    batches: Batches
    limit: TimeLimit | None
    state: TrainingState

    def share(self, seconds: float) -> float | None:
        """The share of the budget that is spent, 0 to 1; None without a budget."""
        progress = self.state.progress
        return self._share(progress.step, progress.cursor, seconds)

    def is_complete(self, seconds: float) -> bool:
        """Whether the budget is spent, or too little is left for another step."""
        progress = self.state.progress
        if self.limit is not None:
            return progress.step > 0 and not self.limit.allows_step(seconds, progress)
        spent = self.share(seconds)
        return spent is not None and spent >= 1.0

    def share_of_generation(self, seconds: float) -> float | None:
        """The share of this generation's part of the budget that is spent; None without a budget."""
        return self._of_generation(self.share(seconds))

    def share_of_generation_after_step(self, seconds: float) -> float | None:
        """The same after the next step, as expected; None without a time limit."""
        if self.limit is None:
            return None
        return self._of_generation(self.limit.spent(seconds + self.limit.step_seconds, self.state.progress))

    def generation_is_complete(self, seconds: float) -> bool:
        """Whether this generation's part is spent and another generation follows."""
        spent, generations = self.share(seconds), self.config.generations
        follows = self.state.progress.generation + 1 < generations
        return follows and spent is not None and spent * generations >= self.state.progress.generation + 1

    def _share(self, step: int, cursor: Cursor, seconds: float) -> float | None:
        if self.config.steps is not None:
            return step / self.config.steps
        if self.config.epochs is not None:
            return self.batches.epochs(cursor) / self.config.epochs
        return None if self.limit is None else self.limit.spent(seconds, self.state.progress)

    def _of_generation(self, spent: float | None) -> float | None:
        """``spent`` of the whole budget as a share of this generation's part, which begins where the last one ended."""
        progress, generations = self.state.progress, self.config.generations
        if spent is None or generations == 1:
            return spent
        cursor = Cursor(progress.generation_part, progress.generation_chunk)
        begins = self._share(progress.generation_step, cursor, progress.generation_seconds)
        assert begins is not None, "TrainingConfig refuses generations without a budget"
        ends = (progress.generation + 1) / generations
        return min(1.0, max(0.0, spent - begins) / max(1e-9, ends - begins))
