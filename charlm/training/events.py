"""The events that ``Trainer.events`` yields."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Stepped:
    """A step is done. ``nats_per_char`` is the chunk's training loss, ``grad_norm`` the norm before clipping."""

    step: int
    nats_per_char: float
    grad_norm: float
    lr: float
    skipped: bool
    """Whether loss or gradient was not finite, so that no weight has changed."""
    characters: int
    budget_spent: float | None
    """Share of the budget, 0 to 1; None without one."""


@dataclass(frozen=True)
class Evaluated:
    """The validation text was evaluated.

    ``train_nats_per_char`` and ``grad_norm``, before clipping, are means of the steps since the last evaluation.
    """

    step: int
    epoch: int
    seconds: float
    train_nats_per_char: float | None
    valid_nats_per_char: float | None
    is_best: bool
    grad_norm: float | None
    clipped_share: float
    lr: float
    sample: str


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on disk."""

    step: int
    path: Path


@dataclass(frozen=True)
class SaveFailed:
    """Something could not be saved. ``will_retry`` says whether training continues and tries again."""

    step: int
    reason: str
    will_retry: bool = True


@dataclass(frozen=True)
class RolledBack:
    """Training diverged and continues from the saved ``step`` at ``factor`` times the learning rate."""

    step: int
    factor: float
    reason: str


@dataclass(frozen=True)
class GenerationEnded:
    """The next model follows. First the best one so far, that of ``teacher_step``, reads the training text."""

    step: int
    teacher_step: int


@dataclass(frozen=True)
class GenerationBegan:
    """A new model is trained from here on; it learns from what the best one, that of ``teacher_step``, predicts."""

    step: int
    generation: int
    """From 1; the first model has no such event."""
    teacher_step: int


@dataclass(frozen=True)
class Calibrated:
    """Training is over, and the best model, whose logits are divided by ``temperature`` from now on, is saved again."""

    step: int
    temperature: float


@dataclass(frozen=True)
class Finished:
    """Training is over. ``reason``: "budget" spent, "early stop", or "interrupted"; saved in each case."""

    step: int
    seconds: float
    reason: str
    best_step: int | None
    best_nats_per_char: float | None


Event = (
    Stepped | Evaluated | Saved | SaveFailed | RolledBack | GenerationEnded | GenerationBegan | Calibrated | Finished
)
