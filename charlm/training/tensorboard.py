"""Measurements for TensorBoard, written with tensorboardX, which is imported here and nowhere else."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from charlm.errors import MissingInputError
from charlm.training.events import Evaluated, Event, RolledBack, Stepped

logger = logging.getLogger("charlm")

STEPS_PER_POINT = 10
"""A point of the training loss is the mean of so many steps."""


def require_tensorboard() -> None:
    """Raise ``MissingInputError`` unless tensorboardX is installed."""
    try:
        import tensorboardX  # noqa: F401  # only whether it is there
    except ImportError:
        raise MissingInputError(
            "TensorBoard needs tensorboardX; install it with pip install 'charlm-lstm[tensorboard]' (or pip install "
            "tensorboardX)"
        ) from None


class TensorBoard:
    """An ``on_event`` that writes to the folder ``folder``: losses in nats per character, learning rate, norm of the
    gradient before clipping, share of clipped steps, and the samples as text.

    A training that continues after ``step`` hides what was written of later steps. Raises ``MissingInputError`` without
    tensorboardX. If something cannot be written, a warning is logged and training continues.
    """

    def __init__(self, folder: str | Path, step: int = 0) -> None:
        require_tensorboard()
        self._folder = Path(folder)
        self._writer: Any = None
        self._failed = False
        self._purge_step = step + 1 if step else None
        self._losses: list[float] = []
        self._norms: list[float] = []

    def __call__(self, event: Event) -> None:
        """Write what ``event`` says."""
        if self._failed:
            return
        try:
            self._write(event)
        except Exception as error:  # never worth a training
            self._failed = True
            logger.warning("%s could not be written (%s); training continues without it", self._folder, error)

    def close(self) -> None:
        """Write what is still in memory."""
        if self._writer is not None:
            try:
                self._writer.close()
            except Exception as error:
                logger.warning("%s could not be written (%s)", self._folder, error)

    def _write(self, event: Event) -> None:
        if isinstance(event, Stepped):
            self._step(event)
        elif isinstance(event, Evaluated):
            self._evaluation(event)
        elif isinstance(event, RolledBack):
            self.close()
            self._writer, self._purge_step = None, event.step + 1
            self._losses, self._norms = [], []

    def _step(self, event: Stepped) -> None:
        if not event.skipped:
            self._losses.append(event.nats_per_char)
            self._norms.append(event.grad_norm)
        if event.step % STEPS_PER_POINT:
            return
        self._add("learning_rate", event.lr, event.step)
        if self._losses:
            self._add("loss/training", math.fsum(self._losses) / len(self._losses), event.step)
            self._add("gradient_norm", math.fsum(self._norms) / len(self._norms), event.step)
        self._losses, self._norms = [], []

    def _evaluation(self, event: Evaluated) -> None:
        self._add("loss/validation", event.valid_nats_per_char, event.step)
        self._add("clipped_share", event.clipped_share, event.step)
        # Markdown: each line of a code block is shown as it is.
        text = "\n".join(f"    {line}" for line in event.sample.splitlines())
        self._open().add_text("sample", text, event.step)
        self._open().flush()

    def _add(self, name: str, value: float | None, step: int) -> None:
        if value is not None and math.isfinite(value):
            self._open().add_scalar(name, value, step)

    def _open(self) -> Any:
        if self._writer is None:
            from tensorboardX import SummaryWriter

            # Its files are named after the second, and a later one would replace one of the same second.
            suffix = f".{self._purge_step or 1}"
            self._writer = SummaryWriter(str(self._folder), purge_step=self._purge_step, filename_suffix=suffix)
        return self._writer
