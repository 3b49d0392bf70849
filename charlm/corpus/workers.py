"""Threads that compute on the blocks of a text while the next blocks are read.

Threads are enough: NumPy and hashlib compute outside of Python's global lock, and decoding, which does not, takes a
small share of the time. They need no pickle, share the tables of the tokenizer, and end with the process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from charlm.system.cores import cores

MAX_THREADS = 4
"""Reading, cutting and writing are done in order, so more than a few can hardly help. Only two were measured."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """A context with ``threads`` threads, by default one for each core, and at most ``MAX_THREADS``.

    With one thread everything is computed by the caller.
    """

    def __init__(self, threads: int | None = None) -> None:
        count = min(cores() if threads is None else threads, MAX_THREADS)
        self._pool = ThreadPoolExecutor(count, "corpus") if count > 1 else None
        self._one = ThreadPoolExecutor(1, "corpus") if count > 1 else None
        self._waiting = count + 1
        self._stopped = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        for pool in filter(None, (self._pool, self._one)):
            pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results of ``function`` for ``items``, in order; an error of ``function`` is raised in its place.

        At most ``threads`` + 2 items are held at a time. ``items`` are made by the caller's thread.
        """
        return self._map(self._pool, function, items)

    def map_in_order(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """``map`` for a ``function`` that must be called in order: one further thread calls it."""
        return self._map(self._one, function, items)

    def _map(
        self, pool: ThreadPoolExecutor | None, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        if pool is None:
            yield from map(function, items)
            return
        waiting = deque[Future[Result]]()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > self._waiting:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def begin(self, function: Callable[[Callable[[], bool]], Result]) -> Callable[[], Result]:
        """Begin ``function``, and return a function that waits for its result. With one thread it begins then.

        It gets a function that says whether it is no longer wanted, for what takes long.
        """
        if self._pool is None:
            return lambda: function(lambda: False)
        return self._pool.submit(function, lambda: self._stopped).result
