"""What happens in a training, for whoever listens: the trainer yields these and draws nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Stepped:
    """One step is done. ``nats_per_char`` is this chunk's training loss, ``norm`` the gradient's before clipping."""

    step: int
    nats_per_char: float
    norm: float
    rate: float
    skipped: bool
    characters: int
    progress: float | None


@dataclass(frozen=True)
class Evaluated:
    """The validation text was read. ``train_nats_per_char`` is the mean over the steps since the last evaluation."""

    step: int
    epoch: int
    seconds: float
    train_nats_per_char: float | None
    valid_nats_per_char: float | None
    is_best: bool
    clipped_share: float
    rate: float
    sample: str


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on disk."""

    step: int
    path: Path


@dataclass(frozen=True)
class SaveFailed:
    """A checkpoint could not be written; training goes on and tries again."""

    step: int
    reason: str


@dataclass(frozen=True)
class RolledBack:
    """Nothing was finite any more: training goes on from ``step``, saved earlier, at ``factor`` times the rate."""

    step: int
    factor: float
    reason: str


@dataclass(frozen=True)
class Finished:
    """Training is over. ``reason``: "budget" spent, "early stop", or "interrupted"; saved in each case."""

    step: int
    seconds: float
    reason: str
    best_step: int | None
    best_nats_per_char: float | None


Event = Stepped | Evaluated | Saved | SaveFailed | RolledBack | Finished
