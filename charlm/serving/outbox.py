"""``Outbox``: how results get from the thread that computes to the event loop, and a cancellation back."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from charlm.serving.errors import ApiError
from charlm.serving.tokens import Token

MAX_UNSENT = 500_000
"""Characters and alternatives that wait for one slow client, at most."""
_MAX_BLOCK = 256
"""Items that are given to the event loop at a time, so that other requests have their turn."""


class Piece(NamedTuple):
    """Some more of one text."""

    choice: int
    text: str
    tokens: list[Token]
    """Of the text; empty if no log-probabilities were asked for."""
    finish_reason: str | None = None
    """"length" or "stop" in the last piece of a text."""

    @property
    def size(self) -> int:
        """Characters and alternatives."""
        return len(self.text) + sum(1 + len(token.alternatives) for token in self.tokens)


class Outbox:
    """Pieces of the texts of one request. The computing thread puts and closes, the event loop takes and cancels."""

    def __init__(self, eager: bool, when_closed: Callable[[], None]) -> None:
        """Without ``eager`` the reader is woken at the end only. ``when_closed`` is called in the event loop, once."""
        self.eager = eager
        self._when_closed: Callable[[], None] | None = when_closed
        self.is_cancelled = False
        self.is_closed = False
        self.error: Exception | None = None
        self._pieces: deque[Piece] = deque()
        self._arrived, self._closed = asyncio.Event(), asyncio.Event()
        self._put = self._taken = 0  # each is changed by one of the two threads only

    # ------------------------------------------------------------------------------------- in the computing thread

    def put(self, piece: Piece) -> None:
        """Add a piece. Raises ``ApiError`` if the client has left too much unread."""
        self._pieces.append(piece)
        self._put += piece.size
        if self.eager and self._put - self._taken > MAX_UNSENT:
            raise ApiError(408, "the answer was read too slowly; ask for fewer choices or logprobs, or read faster")

    def close(self, error: Exception | None = None) -> None:
        """No more pieces will come. After an ``error`` those that nobody has taken are dropped."""
        self.error = error
        if error is not None:
            self._pieces.clear()
        self.is_closed = True

    # ------------------------------------------------------------------------------------------- in the event loop

    def wake(self) -> None:
        """Let the reader look."""
        if self.is_closed and self._when_closed is not None:
            self._when_closed()
            self._when_closed = None
            self._closed.set()
        self._arrived.set()

    def cancel(self) -> None:
        """Tell the computing thread that nobody reads any more."""
        self.is_cancelled = True

    async def collect(self, seconds: float) -> None:
        """Let pieces come in for some time, or until there are no more."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._closed.wait(), seconds)

    async def blocks(self) -> AsyncIterator[list[Piece]]:
        """Pieces as they come, all that have come at a time. Raises the error with which the outbox was closed."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            is_last = self.is_closed  # read before the pieces: after it was set, none is added
            while self._pieces:
                block = list[Piece]()
                with contextlib.suppress(IndexError):  # an error may drop what is left
                    while len(block) < _MAX_BLOCK:
                        block.append(self._pieces.popleft())
                self._taken += sum(piece.size for piece in block)
                yield block
            if is_last:
                break
        if self.error is not None:
            raise self.error
