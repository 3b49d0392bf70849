"""A progress bar for a training that Python code has started: a widget in a notebook, else a line on stderr."""

from __future__ import annotations

import time
import warnings
from typing import Any

from charlm.training.events import Evaluated, Event, Stepped

_SECONDS_BETWEEN_UPDATES = 0.2


class ProgressBar:
    """An ``on_event`` that shows the step, the losses in nats per character and the time that is left."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._last = 0.0
        self._smoothed: float | None = None
        self._validation: float | None = None

    def __call__(self, event: Event) -> None:
        """Show a step or an evaluation."""
        if isinstance(event, Evaluated) and event.valid_nats_per_char is not None:
            self._validation = event.valid_nats_per_char
        elif isinstance(event, Stepped):
            self._step(event)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def _step(self, event: Stepped) -> None:
        if not event.skipped:
            before = event.nats_per_char if self._smoothed is None else self._smoothed
            self._smoothed = 0.95 * before + 0.05 * event.nats_per_char
        spent, now = event.budget_spent, time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_UPDATES and (spent is None or spent < 1.0):
            return
        self._last = now
        bar = self._open(event)
        bar.set_description_str(self._description(event), refresh=False)
        bar.n = event.step if spent is None else min(spent, 1.0)
        bar.refresh()

    def _description(self, event: Stepped) -> str:
        parts = [f"step {event.step:,}"]
        if self._smoothed is not None:
            parts.append(f"training loss {self._smoothed:.3f}")
        if self._validation is not None:
            parts.append(f"validation loss {self._validation:.4f}")
        return ", ".join(parts) + " nats/char"

    def _open(self, event: Stepped) -> Any:
        if self._bar is None:
            with warnings.catch_warnings():  # without ipywidgets the bar is text
                warnings.simplefilter("ignore")
                from tqdm.auto import tqdm
            has_end = event.budget_spent is not None
            form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}" if has_end else "{desc}, {elapsed}"
            self._bar = tqdm(total=1.0 if has_end else None, initial=0, bar_format=form)
        return self._bar
