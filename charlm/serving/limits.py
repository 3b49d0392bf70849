"""How much a client may ask for, and how many requests are served at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from charlm.serving.errors import ApiError

MAX_CHOICES = 128
"""Texts in one answer: n times the number of prompts."""
MAX_LOGPROBS = 20
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 1000
MAX_VALUES = 500_000
"""Characters in an answer that is not streamed, each counted once and once more for every alternative."""
BODY_SECONDS = 20.0
"""Time in which a client must have sent its request."""


@dataclass(frozen=True)
class Limits:
    """What the server's options set."""

    max_tokens: int = 10_000
    """New characters of one text."""
    max_input: int = 100_000
    """Characters of all prompts or documents of a request."""
    streams: int = 256
    """Texts that are generated at the same time. Requests beyond wait."""
    queue: int = 256
    """Requests that may wait. One more is answered with 429."""
    seconds: float = 120.0
    """Time for one request, waiting included."""

    @property
    def body_bytes(self) -> int:
        """The size of a request. JSON may take 12 bytes for a character."""
        return 12 * self.max_input + (1 << 16)


class Admission:
    """Places for ``capacity`` texts. Requests that find none wait in order, at most ``queue`` of them."""

    def __init__(self, capacity: int, queue: int) -> None:
        self._capacity, self._queue = capacity, queue
        self.taken = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._waiting)

    async def enter(self, count: int) -> Callable[[], None]:
        """Wait for ``count`` places (all, if there are fewer). Returns what gives them back, to be called once.

        Raises ``ApiError`` 429 if the queue is full.
        """
        count = min(count, self._capacity)
        await self._wait(count)

        def leave() -> None:
            self.taken -= count
            self._admit()

        return leave

    async def _wait(self, count: int) -> None:
        if not self._waiting and self.taken + count <= self._capacity:
            self.taken += count
            return
        if len(self._waiting) >= self._queue:
            raise ApiError(429, "too many requests are waiting; try again in a second", code="rate_limit_exceeded")
        entry = count, asyncio.get_running_loop().create_future()
        self._waiting.append(entry)
        try:
            await entry[1]
        except asyncio.CancelledError:
            if entry[1].done() and not entry[1].cancelled():  # admitted in the same moment
                self.taken -= count
            else:
                self._waiting.remove(entry)
            self._admit()
            raise

    def _admit(self) -> None:
        while self._waiting and self.taken + self._waiting[0][0] <= self._capacity:
            count, admitted = self._waiting.popleft()
            if not admitted.done():
                self.taken += count
                admitted.set_result(None)
