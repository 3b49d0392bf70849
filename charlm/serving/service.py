"""``Service``: what all requests share."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable

from charlm.serving.compute import ComputeThread, Slices
from charlm.serving.limits import Admission, Limits
from charlm.serving.metrics import Metrics
from charlm.serving.models import ServedModels
from charlm.serving.outbox import Outbox


class Service:
    """The models, the limits, the counters, and the thread that computes."""

    def __init__(self, models: ServedModels, limits: Limits) -> None:
        self.models, self.limits = models, limits
        self.admission = Admission(limits.streams, limits.queue)
        self.metrics = Metrics()
        self.cut_off = asyncio.Event()
        """Set when the server is about to end: requests that are not complete by then fail."""

    @functools.cached_property
    def compute(self) -> ComputeThread:
        """Started when it is first needed, in the event loop."""
        return ComputeThread()

    @contextlib.asynccontextmanager
    async def computing(self, places: int, eager: bool, slices: Callable[[Outbox], Slices]) -> AsyncIterator[Outbox]:
        """Wait for ``places``, and let the work be done: its results come to the outbox. At the end it is cancelled.

        The places are given back when nothing is left to compute, even if the client has not read all of it. Raises
        ``ApiError`` if too many wait.
        """
        outbox = Outbox(eager, await self.admission.enter(places))
        self.compute.submit(outbox, slices(outbox))
        try:
            yield outbox
        finally:
            outbox.cancel()

    def close(self) -> None:
        """End the thread."""
        if "compute" in self.__dict__:
            self.compute.stop()
