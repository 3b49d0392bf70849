"""``ComputeThread``: one thread that computes for all requests, a few milliseconds for each in turn.

Texts with the same model and settings are generated together, in one batch that they join and leave between pieces.
Prompts and scores are computed in slices in between, so that a long one delays others by a slice only. What a text
becomes depends on its own prompt, seed and settings alone: see ``IdStreams``.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from charlm.config import SamplingConfig
from charlm.generation.assembler import TextAssembler
from charlm.generation.streams import IdStreams, ReadPrompt
from charlm.language_model import LanguageModel
from charlm.serving.outbox import Outbox, Piece
from charlm.serving.tokens import TokenReader
from charlm.tokenizer.protocol import Ids

_SLICES_SECONDS = 0.02
"""Time for prompts and scores between two pieces of the texts."""


class Choice:
    """One text that is generated: its random numbers, its limits, where it goes."""

    def __init__(
        self,
        number: int,
        generator: np.random.Generator,
        assembler: TextAssembler,
        outbox: Outbox,
        reader: TokenReader | None = None,
    ) -> None:
        self.number, self.generator, self.outbox = number, generator, outbox
        self.has_left = False
        """Whether it is complete or given up, for the batch that it was in."""
        self._assembler, self._reader = assembler, reader

    @property
    def remaining(self) -> int:
        """Characters still to come; 0 if nobody waits for them."""
        return 0 if self.outbox.is_cancelled else self._assembler.remaining

    def feed(self, ids: Ids) -> None:
        """Add sampled ids, and put what has become final into the outbox. Does nothing for a complete text."""
        if not self.remaining:
            return
        if self._reader is not None:
            for _ in self._reader.read(ids):
                pass
        self.put(self._assembler.feed(ids))
        if not self._assembler.remaining:
            self.finish()

    def finish(self) -> None:
        """Put the last piece of a text that is complete. ``feed`` does so, but not for a text of no characters."""
        reason = "stop" if self._assembler.is_stopped else "length"
        self.put(self._assembler.finish(), reason)

    def put(self, text: str, finish_reason: str | None = None) -> None:
        """Put a piece of the text, with its tokens, into the outbox."""
        if text or finish_reason:
            tokens = [] if self._reader is None else self._reader.take(text)
            self.outbox.put(Piece(self.number, text, tokens, finish_reason))


class Start(NamedTuple):
    """Texts that begin, all after the same prompt."""

    model: LanguageModel
    config: SamplingConfig
    prompt: ReadPrompt
    choices: Sequence[Choice]


Slices = Iterator[Start | None]
"""Work for one request, done in steps of some milliseconds. The choices that it starts are computed in batches."""


class _Work(NamedTuple):
    outbox: Outbox
    slices: Slices


class ComputeThread:
    """Computes until ``stop``. All methods are called in the event loop."""

    def __init__(self) -> None:
        self._new: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._rounds = _Rounds()
        self._thread.start()

    def submit(self, outbox: Outbox, slices: Slices) -> None:
        """Do the work ``slices`` and generate the texts that it starts; then close ``outbox``."""
        self._new.put(_Work(outbox, slices))

    def stop(self) -> None:
        """End the thread after its current step."""
        self._new.put(None)
        self._thread.join(5)

    def _run(self) -> None:
        while self._take_new(wait=not self._rounds.is_busy):
            try:
                woken = self._rounds.step()
            except Exception as error:  # a bug: these requests fail, and the thread goes on
                woken, self._rounds = self._rounds.abandon(error), _Rounds()
            if woken and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(_wake, woken)

    def _take_new(self, wait: bool) -> bool:
        """Take what was submitted. False to stop."""
        try:
            while True:
                work = self._new.get(block=wait)
                if work is None:
                    return False
                self._rounds.add(work)
                wait = False
        except queue.Empty:
            return True


def _wake(outboxes: list[Outbox]) -> None:
    for outbox in outboxes:
        outbox.wake()


class _Rounds:
    """The work at hand, and one round of it after another: slices, then a piece of every batch."""

    def __init__(self) -> None:
        self._works: deque[_Work] = deque()
        self._batches: dict[tuple[int, SamplingConfig], _Batch] = {}
        self._open: dict[Outbox, int] = {}  # the parts of each request that are not complete: its work, its texts
        self._touched: dict[Outbox, None] = {}

    @property
    def is_busy(self) -> bool:
        return bool(self._works or self._batches)

    def add(self, work: _Work) -> None:
        self._works.append(work)
        self._open[work.outbox] = 1

    def step(self) -> list[Outbox]:
        """One round. Returns the outboxes whose readers are to be woken."""
        self._touched = {}
        end = time.monotonic() + _SLICES_SECONDS
        for _ in range(len(self._works)):  # each once at most, so that texts go on
            self._advance(self._works.popleft())
            if time.monotonic() > end:
                break
        for key, batch in list(self._batches.items()):
            self._draw(batch)
            if batch.is_empty:
                del self._batches[key]
        return [outbox for outbox in self._touched if outbox.eager or outbox.is_closed]

    def abandon(self, error: Exception) -> list[Outbox]:
        """Fail all requests. Returns their outboxes."""
        for outbox in self._open:
            self._fail(outbox, error)
        return list(self._open)

    def _advance(self, work: _Work) -> None:
        if work.outbox.is_cancelled or work.outbox.is_closed:
            self._finish(work.outbox)
            return
        try:
            started = next(work.slices)
        except StopIteration:
            self._finish(work.outbox)
        except Exception as error:
            self._fail(work.outbox, error)
            self._finish(work.outbox)
        else:
            self._touched[work.outbox] = None
            self._works.append(work)
            if started is not None:
                self._start(started)

    def _start(self, started: Start) -> None:
        for choice in started.choices:
            self._open[choice.outbox] += 1
        key = id(started.model), started.config
        batch = self._batches.setdefault(key, _Batch(started.model, started.config))
        batch.joining.append(started)

    def _draw(self, batch: _Batch) -> None:
        try:
            left = batch.draw(self._fail)
        except Exception as error:  # out of memory, or a bug
            left = batch.give_up()
            for choice in left:
                self._fail(choice.outbox, error)
        for choice in batch.choices:
            self._touched[choice.outbox] = None
        for choice in left:
            self._finish(choice.outbox)

    def _finish(self, outbox: Outbox) -> None:
        """One part of the request is complete."""
        self._open[outbox] -= 1
        if not self._open[outbox]:
            del self._open[outbox]
            if not outbox.is_closed:
                outbox.close()
            self._touched[outbox] = None

    def _fail(self, outbox: Outbox, error: Exception) -> None:
        outbox.is_cancelled = True
        if not outbox.is_closed:
            outbox.close(error)


class _Batch:
    """Texts of one model with the same settings."""

    def __init__(self, model: LanguageModel, config: SamplingConfig) -> None:
        self.joining: list[Start] = []
        self.choices: list[Choice] = []
        self._model = model  # also keeps its id() from being given to another
        self._streams = IdStreams(model.generation_engine, model.tokenizer, config)

    @property
    def is_empty(self) -> bool:
        return not self.joining and all(choice.has_left for choice in self.choices)

    def draw(self, fail: Callable[[Outbox, Exception], None]) -> list[Choice]:
        """Generate a piece of every text. Returns those that are complete or given up, which leave."""
        left = self._leaving()
        self._change()
        if not self.choices:
            return left
        ids_NB = self._streams.draw(max(1, *(choice.remaining for choice in self.choices)))
        for choice, ids in zip(self.choices, ids_NB.T, strict=True):
            try:
                choice.feed(ids)
            except Exception as error:
                fail(choice.outbox, error)
        return left + self._leaving()

    def _leaving(self) -> list[Choice]:
        left = [choice for choice in self.choices if not choice.has_left and not choice.remaining]
        for choice in left:
            choice.has_left = True
        return left

    def _change(self) -> None:
        """Drop the rows of texts that have left, and append those of texts that join."""
        kept_rows = [row for row, choice in enumerate(self.choices) if not choice.has_left]
        if len(kept_rows) < len(self.choices) or self.joining:
            joined = [(start.prompt, [choice.generator for choice in start.choices]) for start in self.joining]
            self._streams.join(np.array(kept_rows, np.int64), joined)
            self.choices = [self.choices[row] for row in kept_rows]
            self.choices += [choice for start in self.joining for choice in start.choices]
            self.joining = []

    def give_up(self) -> list[Choice]:
        """All texts that have not left, which leave."""
        left = [*self.choices, *(choice for start in self.joining for choice in start.choices)]
        self.choices, self.joining = [], []
        return [choice for choice in left if not choice.has_left]
