"""A training's limit in seconds, and how it is kept: the time that the end will take is reserved.

After the last step come an evaluation, two saves, the calibration and, if there is time left for them, the percentiles
of held-out documents and the size of the gradients. How long they take is known from earlier ones, or estimated. Times
are in seconds, counted from the start of the run.
"""

from __future__ import annotations

from dataclasses import dataclass

from charlm.config import TrainingConfig
from charlm.evaluation.calibration import MAX_CALIBRATION_IDS, PASSES
from charlm.evaluation.dynamic import gradient_rms_ids
from charlm.evaluation.percentiles import MAX_IDS
from charlm.training.state import Progress

MEASUREMENT_SHARE = 0.02
"""Of the limit, at most, for the temperature, the size of the gradients and the percentiles."""
_MAX_RESERVED = 0.5
"""Of the limit. The rest is for steps, even if the end then takes longer."""
_CPU_GRADIENT_COST = 5
"""How many times as long as in training an id takes there: the gradients are those of one stream."""
_ACCELERATOR_SECONDS_PER_ID = 1e-4
"""The same on a GPU, which is limited by kernel launches."""
_SMOOTHING = 0.2
"""The weight of the last step in the mean duration of a step, after the first few."""
_EVALUATION_COST = 0.5
"""How many times as long as in training an id takes in an evaluation, where none has been made or measured."""
_SAVE_SECONDS, _SAVED_BYTES_PER_SECOND = 0.1, 3e8
_SAVED_BYTES_PER_PARAMETER = 16
"""Weights, their average, and two tensors of the optimizer."""


@dataclass
class TimeLimit:
    """A limit of ``limit`` seconds. ``step_seconds`` and ``save_seconds`` are what a step and a save usually take.

    A step trains on about ``ids_per_step``, and an evaluation reads ``evaluation_ids``.
    """

    limit: float
    step_seconds: float
    save_seconds: float
    ids_per_step: int
    evaluation_ids: int
    on_cpu: bool
    _steps: int = 0

    @classmethod
    def of(cls, config: TrainingConfig, parameters: int, evaluation_ids: int) -> TimeLimit | None:
        """The limit of ``config`` for a model of so many ``parameters``; None for another or no limit."""
        if config.seconds is None:
            return None
        ids = config.batch * config.bptt
        step = ids / config.ids_per_second if config.ids_per_second is not None else 0.0
        save = _SAVE_SECONDS + _SAVED_BYTES_PER_PARAMETER * parameters / _SAVED_BYTES_PER_SECOND
        return cls(config.seconds, step, save, ids, evaluation_ids, config.device.startswith("cpu"))

    def note_step(self, seconds: float) -> None:
        """Record how long a step took."""
        self._steps += 1
        weight = max(_SMOOTHING, 1 / (self._steps + (self.step_seconds > 0)))
        self.step_seconds += weight * (seconds - self.step_seconds)

    def spent(self, seconds: float, progress: Progress) -> float:
        """The share of the time for steps that is spent: 0 at the first step, 1 when the last one has to end."""
        first = progress.preparation_seconds
        return max(0.0, seconds - first) / max(1e-9, self._last_step_ends(progress) - first)

    def allows_step(self, seconds: float, progress: Progress) -> bool:
        """Whether another step ends nearer to the end of the time for steps than the last one."""
        return seconds + self.step_seconds / 2 < self._last_step_ends(progress)

    def allows_evaluation(self, seconds: float, progress: Progress) -> bool:
        """Whether there is time for an evaluation, and as much after it before the one at the end."""
        return seconds + 2 * self._evaluation_seconds(progress) + self.save_seconds < self._last_step_ends(progress)

    def left_for_gradients(self, seconds: float) -> float:
        """The time left when training has ended, except for the save that follows."""
        return self.limit - seconds - self.save_seconds

    def calibration_ids(self, progress: Progress) -> int:
        """From how many ids the temperature is fitted: all of a short validation text, or 0 if there is no time."""
        ids = min(MAX_CALIBRATION_IDS, self.evaluation_ids)
        seconds = PASSES * self._evaluation_seconds_per_id(progress) * ids
        return ids if seconds <= MEASUREMENT_SHARE * self.limit else 0

    def _calibration_seconds(self, progress: Progress) -> float:
        return PASSES * self._evaluation_seconds_per_id(progress) * self.calibration_ids(progress)

    def percentile_ids(self, seconds: float, progress: Progress) -> int:
        """From how many ids the percentiles can be measured in half of that time."""
        left = max(0.0, self.left_for_gradients(seconds)) / 2
        return int(min(MAX_IDS, left / max(1e-9, self._evaluation_seconds_per_id(progress))))

    def _last_step_ends(self, progress: Progress) -> float:
        measurements = self._calibration_seconds(progress) + self._gradient_seconds(progress.step)
        measurements = min(measurements, MEASUREMENT_SHARE * self.limit)
        reserved = self._evaluation_seconds(progress) + measurements + 2 * self.save_seconds
        return self.limit - min(reserved, _MAX_RESERVED * self.limit)

    def _evaluation_seconds(self, progress: Progress) -> float:
        if progress.evaluation_seconds:
            return progress.evaluation_seconds
        return _EVALUATION_COST * self.evaluation_ids * self._seconds_per_id

    def _evaluation_seconds_per_id(self, progress: Progress) -> float:
        if not self.evaluation_ids:
            return _EVALUATION_COST * self._seconds_per_id
        return self._evaluation_seconds(progress) / self.evaluation_ids

    def _gradient_seconds(self, step: int) -> float:
        on_cpu = _CPU_GRADIENT_COST * self._seconds_per_id
        return gradient_rms_ids(step) * (on_cpu if self.on_cpu else _ACCELERATOR_SECONDS_PER_ID)

    @property
    def _seconds_per_id(self) -> float:
        return self.step_seconds / self.ids_per_step
