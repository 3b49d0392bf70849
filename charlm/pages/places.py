"""The most surprising places of documents, found while these are written: at most one for each word."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from charlm.pages.characters import END_SIGN

if TYPE_CHECKING:
    from charlm.pages.coloured_text import Cell

_BEFORE, _AFTER = 14, 18
"""Characters of the text that are shown around a place."""
_MAX_WORD = 16
"""A longer word, as in a text without spaces, is several places."""


@dataclass(order=True)
class Place:
    """A character that is listed. Places are ordered by value; of equal values the earlier is the larger."""

    value: float
    negative_id: int
    before: str = field(compare=False)
    character: str = field(compare=False)
    after: list[str] = field(compare=False, default_factory=list)

    @property
    def id(self) -> int:
        """The number of the place, in the order of the text."""
        return -self.negative_id

    def context(self) -> tuple[str, str, str]:
        """The text before the character, the character, and the text after it."""
        return self.before, self.character or END_SIGN, "".join(self.after)


class Places:
    """Finds the ``count`` characters with the largest values, and all with values of ``stop`` or more.

    Of each word, with the white space after it, only the character with the largest value is a place.
    """

    def __init__(self, count: int, stop: float) -> None:
        self._count, self._stop = count, stop
        self._heap: list[Place] = []
        self._ids = itertools.count()

    def most(self) -> list[Place]:
        """The places with the largest values, the largest first."""
        return sorted(self._heap, reverse=True)

    def found(self, document: Iterable[Cell]) -> Iterator[tuple[Cell, int | None, bool]]:
        """Each character with the number of its place or None, and whether its value is ``stop`` or more."""
        before: deque[str] = deque(maxlen=_BEFORE)
        unfinished: list[Place] = []
        for word in _words(document):
            for earlier in unfinished:
                earlier.after += [cell.character for cell in word]
                del earlier.after[_AFTER:]
            unfinished = [earlier for earlier in unfinished if len(earlier.after) < _AFTER]
            values = [cell.value for cell in word]
            best = values.index(max(values))
            place = self._offered(word, best, "".join(before))
            if place is not None:
                unfinished.append(place)
            for number, cell in enumerate(word):
                stops = number == best and cell.value >= self._stop
                yield cell, place.id if place is not None and number == best else None, stops
            before.extend(cell.character for cell in word)

    def _offered(self, word: list[Cell], best: int, before: str) -> Place | None:
        """The place of the character ``best``, if it is one."""
        value, characters = word[best].value, [cell.character for cell in word]
        listed = len(self._heap) < self._count or (self._count and value > self._heap[0].value)
        if not listed and value < self._stop:
            return None
        text = (before + "".join(characters[:best]))[-_BEFORE:]
        place = Place(value, -next(self._ids), text, characters[best], characters[best + 1 :])
        if listed and len(self._heap) < self._count:
            heapq.heappush(self._heap, place)
        elif listed:
            heapq.heapreplace(self._heap, place)
        return place


def _words(document: Iterable[Cell]) -> Iterator[list[Cell]]:
    """The characters of each word with the white space after it."""
    word: list[Cell] = []
    spaced = False
    for cell in document:
        is_space = not cell.character or cell.character.isspace()
        if word and ((spaced and not is_space) or len(word) >= _MAX_WORD):
            yield word
            word = []
        word.append(cell)
        spaced = is_space
    if word:
        yield word
