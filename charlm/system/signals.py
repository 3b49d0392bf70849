"""Ctrl-C, SIGTERM and a closed terminal: at once where nothing can be lost, else as a request to save and stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from charlm.errors import InterruptedBySignal

_WATCHED = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
# ``timeout`` and a terminal that closes send each signal twice; nobody presses Ctrl-C twice in so short a time.
_ECHO_SECONDS = 0.1


class StopSignals:
    """While entered, a signal raises ``InterruptedBySignal``; within ``deferred`` it only asks for an end.

    A second one leaves at once, unless it comes so soon that it is the first one's echo. A signal that was ignored
    before (nohup) stays ignored. Outside the main thread nothing is watched.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._received_at = 0.0
        self._before: dict[int, Any] = {}
        self._stop: Callable[[], None] | None = None

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in _WATCHED:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self, stop: Callable[[], None]) -> Iterator[None]:
        """Let the first signal call ``stop`` instead; a second one leaves at once."""
        self._stop = stop
        if self.received is not None:  # whoever was running then took no notice of the exception
            stop()
        try:
            yield
        finally:
            self._stop = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if time.monotonic() - self._received_at > _ECHO_SECONDS:
                os._exit(128 + number)
            return
        self.received, self._received_at = number, time.monotonic()
        if self._stop is None:
            raise InterruptedBySignal("stopped before training began; nothing was saved", number)
        self._stop()
