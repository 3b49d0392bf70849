"""Text coloured by the activation of a cell after each character, as HTML; see ``surprisal`` for how to use it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from charlm.pages.characters import character_name
from charlm.pages.coloured_text import Cell, Documents, Html, fragment, page, widget
from charlm.pages.scales import ACTIVATION

Activated = Iterable[tuple[str, Iterable[tuple[str, float]]]]
"""Headings and documents: characters and activations, from -1 to 1."""


def activation_page(documents: Activated, title: str) -> Iterator[str]:
    """The pieces of a page with documents, which are read while it is written."""
    return page(_cells(documents), title, ACTIVATION)


def activation_fragment(documents: Activated, key: str = "cell") -> Iterator[str]:
    """The pieces of an element with documents and a legend. ``key`` begins the ids of its elements."""
    return fragment(_cells(documents), ACTIVATION, key)


def activation_widget(documents: Activated) -> Html:
    """A fragment with all that it needs, which a notebook shows."""
    return widget(_cells(documents), ACTIVATION)


def _cells(documents: Activated) -> Documents:
    return ((heading, (_cell(*each) for each in document)) for heading, document in documents)


def _cell(character: str, activation: float) -> Cell:
    return Cell(character, activation, f"{character_name(character)}: {activation:+.2f}")
