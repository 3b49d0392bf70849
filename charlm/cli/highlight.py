"""Text in a terminal, each character coloured by its surprisal or by the activation of a cell.

The text may come from anywhere. No control character in it reaches the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from operator import itemgetter

from charlm.pages.characters import END_SIGN, visible
from charlm.pages.scales import Scale

_RESET = "\x1b[0m"
_MAX_RUN = 1000
"""Maximum number of characters of one colour in one piece."""

Document = Iterable[tuple[str, float | None]]
"""Characters and their values on a scale, None without a colour; "" is the end of the document."""


def terminal(documents: Iterable[Document], scale: Scale, colour: bool) -> Iterator[str]:
    """The documents as pieces to print, separated by line ends; without ``colour`` only their visible text.

    Each piece resets the colours that it sets, so that the terminal is left unchanged after any piece.
    """
    last = ""
    for number, document in enumerate(documents):
        if number and not last.endswith("\n"):
            yield "\n"
        last = ""
        for last in _pieces(document, scale, colour):  # used after the loop
            yield last


def legend(scale: Scale, colour: bool) -> str:
    """One line with the name of each level."""
    names = [level.name for level in scale.levels]
    painted = [_paint(scale, number, f" {name} ") for number, name in enumerate(names)]
    return f"{scale.label}: " + (" ".join(painted) if colour else ", ".join(names))


def _pieces(document: Document, scale: Scale, colour: bool) -> Iterator[str]:
    for level, run in groupby(_shown(document, scale, colour), itemgetter(0)):
        characters = (character for _, character in run)
        while text := "".join(islice(characters, _MAX_RUN)):
            yield text if level is None else _paint(scale, level, text)


def _shown(document: Document, scale: Scale, colour: bool) -> Iterator[tuple[int | None, str]]:
    """Each character with its level; None for a line end, because its background would colour the rest of the line."""
    for text, value in document:
        for character in visible(text) or (END_SIGN if colour else ""):
            yield None if value is None or not colour or character == "\n" else scale.level_of(value), character


def _paint(scale: Scale, level: int, text: str) -> str:
    background, ink = scale.levels[level].terminal
    return f"\x1b[38;5;{ink};48;5;{background}m{text}{_RESET}"
