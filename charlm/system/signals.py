"""Ctrl-C, SIGTERM and a closed terminal: they stop charlm at once, or while it trains, ask it to save and stop."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from charlm.errors import InterruptedBySignal
from charlm.system.processes import launched

_HANDLED = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
# ``timeout`` and a closing terminal send each signal twice. A user cannot press Ctrl-C twice within this time.
_DUPLICATE_SECONDS = 0.1


class StopSignals:
    """A context in which a signal raises ``InterruptedBySignal``; inside ``deferred`` it calls a function instead.

    A second signal exits at once, unless it comes so soon that it is a duplicate of the first. Where the process is not
    ours (``exits`` is false), such as a notebook's, a second Ctrl-C raises ``KeyboardInterrupt`` instead. A signal that
    was ignored before (nohup) stays ignored. Outside the main thread no signal is handled.
    """

    def __init__(self, exits: bool = True) -> None:
        self._exits = exits
        self.received: int | None = None
        self._received_at = 0.0
        self._before: dict[int, Any] = {}
        self._stop: Callable[[], None] | None = None
        self._message = "stopped before training began; nothing was saved"
        # torchrun passes on the signal that a terminal has sent to all processes already.
        self._duplicate_seconds = _DUPLICATE_SECONDS if launched() is None else math.inf

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in _HANDLED:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self, stop: Callable[[], None]) -> Iterator[None]:
        """While entered, the first signal calls ``stop`` instead of raising; a second one exits at once."""
        self._stop = stop
        self._message = "stopped after training had ended; the run is saved"
        if self.received is not None:  # the code that ran then has swallowed the exception
            stop()
        try:
            yield
        finally:
            self._stop = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if time.monotonic() - self._received_at > self._duplicate_seconds:
                self._stop_at_once(number)
            return
        self.received, self._received_at = number, time.monotonic()
        if self._stop is None:
            raise InterruptedBySignal(self._message, number)
        self._stop()

    def _stop_at_once(self, number: int) -> None:
        if number == signal.SIGINT and not self._exits:
            raise KeyboardInterrupt
        os._exit(128 + number)
