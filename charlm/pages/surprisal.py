"""Text coloured by the surprisal of each character, as HTML.

``surprisal_page`` writes a page for a file. A server or another page uses ``surprisal_fragment``, with ``style()`` and
``script()`` of ``coloured_text`` once in the page; a notebook shows ``surprisal_widget``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from charlm.pages.characters import character_name
from charlm.pages.coloured_text import Cell, Documents, Html, fragment, page, widget
from charlm.pages.places import Places
from charlm.pages.scales import SURPRISAL, SURPRISING, bits

if TYPE_CHECKING:
    from charlm.evaluation.scoring import Surprisal

_LISTED = 100
_STOP = SURPRISAL.limits[SURPRISING - 1]

Surprised = Iterable[tuple[str, Iterable["Surprisal"]]]
"""Headings and documents, as ``LanguageModel.surprisals`` returns them."""


def surprisal_page(documents: Surprised, title: str) -> Iterator[str]:
    """The pieces of a page with documents, which are read while it is written."""
    return page(_cells(documents), title, SURPRISAL, Places(_LISTED, _STOP))


def surprisal_fragment(documents: Surprised, key: str = "place", listed: int = _LISTED) -> Iterator[str]:
    """The pieces of an element with documents, a legend and the ``listed`` most surprising places.

    ``key`` begins the ids of its elements; two elements of one page need different ones.
    """
    return fragment(_cells(documents), SURPRISAL, key, Places(listed, _STOP))


def surprisal_widget(documents: Surprised, listed: int = _LISTED) -> Html:
    """A fragment with all that it needs, which a notebook shows."""
    return widget(_cells(documents), SURPRISAL, Places(listed, _STOP))


def _cells(documents: Surprised) -> Documents:
    return ((heading, map(_cell, document)) for heading, document in documents)


def _cell(surprisal: Surprisal) -> Cell:
    return Cell(surprisal.character, bits(surprisal.nats), explanation(surprisal))


def explanation(surprisal: Surprisal) -> str:
    """Lines with the character, its bits, its probability and rank, and the most likely characters in its place."""
    name = character_name(surprisal.character)
    first = f"{name}: {bits(surprisal.nats):.2f} bits, probability {math.exp(-surprisal.nats):.3g}"
    if surprisal.rank is not None:
        first += f", rank {surprisal.rank}"
    if surprisal.entropy is not None:
        first += f"; {bits(surprisal.entropy):.2f} bits expected"
    likely = (f"{probability:.1%} {_alternative(character)}" for character, probability in surprisal.alternatives)
    return "\n".join([first, *likely])


def _alternative(character: str) -> str:
    return "a rarer character" if character == "\ufffd" else character_name(character)
