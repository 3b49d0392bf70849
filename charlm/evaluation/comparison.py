"""Models beside one another on one text: the difference of two, told from chance, and the mean of several.

Two models are compared on the same characters. What they differ by varies far less from place to place than what each
of them costs, so the standard error of the difference comes from the differences themselves: from their means over
blocks of characters where text runs on, and from the documents where there are any. Vocabularies may differ, since a
character's loss is the sum of its pieces', however it is spelt.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import numpy as np

from charlm.config import SamplingConfig
from charlm.engine import Engine
from charlm.errors import DataError
from charlm.evaluation.losses import CHUNK, Losses, Progress, losses_of, silent
from charlm.evaluation.metrics import DocumentTally, Evaluation, Tally, Units, error_of, tally_of
from charlm.generation.sampling import uniform_sources
from charlm.generation.streams import Stream
from charlm.tokenizer.protocol import Ids, Tokenizer

TELLING = 2.0
"""Standard errors from which on a difference is taken for one: by chance alone one in twenty is as large."""
_TURNS, _TURN = 5, 0.05
"""How often, and for how many seconds, each model writes where speed is measured."""
_MOST_DRAWN = 1 << 16


class Reading(NamedTuple):
    """A model and its own ids of the text, in blocks of any size."""

    engine: Engine
    tokenizer: Tokenizer
    blocks: Iterable[Ids]


@dataclass(frozen=True)
class Comparison:
    """Two evaluations of one text, and what lies between them. Differences are first minus second."""

    evaluations: tuple[Evaluation, Evaluation]
    standard_error: float | None
    """Of ``nats_per_char``, paired; None where the text is too short to tell."""
    seconds: tuple[float, float]
    """What each took to read it, the text at hand."""

    @property
    def nats_per_char(self) -> float:
        """How many more nats per character the first model costs; below 0 it is the better one."""
        first, second = self.evaluations
        return (first.nats - second.nats) / first.characters

    @property
    def bits_per_char(self) -> float:
        return self.nats_per_char / math.log(2)

    @property
    def bits_standard_error(self) -> float | None:
        """Of ``bits_per_char``."""
        return None if self.standard_error is None else self.standard_error / math.log(2)

    @property
    def standard_errors(self) -> float | None:
        """The size of the difference in standard errors; None where there is none to divide by."""
        return abs(self.nats_per_char) / self.standard_error if self.standard_error else None

    @property
    def better(self) -> int | None:
        """0 for the first model, 1 for the second, None where no difference can be told."""
        if self.standard_error is None or abs(self.nats_per_char) <= TELLING * self.standard_error:
            return None
        return int(self.nats_per_char > 0)

    @property
    def chars_per_second(self) -> tuple[float, float]:
        """How fast each model was read with, characters of the text a second."""
        first, second = (e.characters / s for e, s in zip(self.evaluations, self.seconds, strict=True))
        return first, second


def difference(first: Tokenizer, second: Tokenizer) -> str | None:
    """What keeps two tokenizers from reading one text alike, in words; None if nothing does."""
    if first.kind != second.kind:
        return f"one reads {_UNITS[first.kind]}, the other {_UNITS[second.kind]}"
    if first.document_kind != second.document_kind:
        forms = [
            f"documents ({form})" if form else "a text that runs on"
            for form in (first.document_kind, second.document_kind)
        ]
        return f"one reads {forms[0]}, the other {forms[1]}"
    return None


_UNITS = {"char": "characters", "byte": "bytes"}


def compare(first: Reading, second: Reading, progress: Progress = silent) -> Comparison:
    """Read one text with both models side by side, in constant memory.

    ``progress`` is called with the number of ids that the first one has read since its last call. Raises ``DataError``
    where there is no text, or where the two did not read the same.
    """
    sides = _Side(first, progress), _Side(second, silent)
    error = error_of(first.tokenizer)
    for ours, theirs in _paired(sides):
        if not np.array_equal(ours[1], theirs[1]):
            raise DataError("the two models were given different texts; name one: charlm compare A B FILE")
        error.add(np.stack([ours[0] - theirs[0], ours[1]]))
    evaluations = sides[0].tally.result(), sides[1].tally.result()
    apart = (evaluations[0].nats - evaluations[1].nats) / evaluations[0].characters
    return Comparison(evaluations, error.standard_error(apart), (sides[0].seconds, sides[1].seconds))


class _Side:
    """One model reading: units as they are completed, and the clock that ran while it computed."""

    def __init__(self, reading: Reading, progress: Progress) -> None:
        self.tally = tally_of(reading.tokenizer)
        self.seconds = 0.0
        self.waiting: Units = np.zeros((2, 0))
        """Read, but not yet by the other side."""
        _warm_up(reading)
        losses = losses_of(reading.engine, reading.tokenizer, self._unclocked(reading.blocks), None, progress)
        self._units = _units(self.tally, losses)

    def _unclocked(self, blocks: Iterable[Ids]) -> Iterator[Ids]:
        """The same; getting and encoding the text is not the model's affair."""
        began = time.perf_counter()
        for block in blocks:
            self.seconds -= time.perf_counter() - began
            yield block
            began = time.perf_counter()
        self.seconds -= time.perf_counter() - began

    def read(self) -> bool:
        """Let some more units wait; False where there are no more."""
        began = time.perf_counter()
        units = next(self._units, None)
        self.seconds += time.perf_counter() - began
        if units is not None:
            self.waiting = np.concatenate([self.waiting, units], axis=1)
        return units is not None

    def take(self, count: int) -> Units:
        """The next ``count`` of those that wait."""
        taken, self.waiting = self.waiting[:, :count], self.waiting[:, count:]
        return taken


def _warm_up(reading: Reading) -> None:
    """Let what is prepared once be prepared before the clock runs."""
    ids = np.full(CHUNK, reading.tokenizer.start_id)
    for read in losses_of(reading.engine, reading.tokenizer, [ids]):
        tally_of(reading.tokenizer).add(*read)


def _units(tally: Tally | DocumentTally, losses: Losses) -> Iterator[Units]:
    for ids, nats in losses:
        yield tally.add(ids, nats)
    yield tally.finish()


def _paired(sides: tuple[_Side, _Side]) -> Iterator[tuple[Units, Units]]:
    """Units that both sides have read. The one behind reads next, so that little waits, however differently they spell.

    Raises ``DataError`` where one has more than the other.
    """
    behind = sides[0]
    while behind.read():
        count = min(side.waiting.shape[1] for side in sides)
        yield sides[0].take(count), sides[1].take(count)
        behind = min(sides, key=lambda side: side.waiting.shape[1])
    other = sides[1] if behind is sides[0] else sides[0]
    while not other.waiting.shape[1] and other.read():
        pass
    if other.waiting.shape[1]:
        raise DataError("one model was given more text than the other; name a text: charlm compare A B FILE")


def writing_speeds(models: Sequence[tuple[Engine, Tokenizer]]) -> list[float]:
    """Characters a second that each model writes in one stream: the median over turns that they take."""
    streams = [
        (Stream(engine, tokenizer, [], SamplingConfig(), uniform_sources(1, [0])), tokenizer)
        for engine, tokenizer in models
    ]
    for stream in streams:
        _pace(*stream)  # whatever is prepared once is prepared now
    turns = [[_pace(*stream) for stream in streams] for _ in range(_TURNS)]
    return [median(of_one) for of_one in zip(*turns, strict=True)]


def _pace(stream: Stream, tokenizer: Tokenizer) -> float:
    began, written, seconds = time.perf_counter(), 0, 0.0
    while seconds < _TURN:
        ids = stream.draw(_MOST_DRAWN)[:, 0]
        written += int(tokenizer.starts_character[ids].sum())
        seconds = time.perf_counter() - began
    return written / seconds
