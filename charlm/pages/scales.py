"""Scales of colours: levels with a name, and a background and a text colour for a light and for a dark page.

Colours are indices into the 256 terminal colours for a terminal, and hexadecimal for pages.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import pairwise
from typing import NamedTuple

_BLACK, _WHITE = "#000000", "#ffffff"


class Level(NamedTuple):
    """A step of a scale, from ``name`` in the legend to pairs of background and text colour."""

    name: str
    light: tuple[str, str]
    dark: tuple[str, str]
    terminal: tuple[int, int]


class Scale(NamedTuple):
    """Levels in ascending order. ``limits`` are the values between them; a value at a limit has the higher level."""

    name: str
    """The class of its elements in pages."""
    label: str
    """What is coloured, for the legend."""
    advice: str
    """What a page shows before a character is chosen."""
    limits: tuple[float, ...]
    levels: tuple[Level, ...]

    def level_of(self, value: float) -> int:
        """The number of the level of a value, from 0 to ``len(limits)``."""
        return bisect_right(self.limits, value)


_BIT_LIMITS = (1, 2, 4, 6, 9)
_BIT_NAMES = (
    f"under {_BIT_LIMITS[0]}", *(f"{low} to {high}" for low, high in pairwise(_BIT_LIMITS)),
    f"{_BIT_LIMITS[-1]} and more",
)  # fmt: skip
# Each colour is clearly darker than the one before on a light page, and clearly lighter on a dark one, so that they can
# be told apart without colour vision.
_BIT_LIGHT = (
    ("#ffffff", _BLACK), ("#ffd787", _BLACK), ("#ffaf00", _BLACK), ("#ff5f00", _BLACK), ("#d70000", _WHITE),
    ("#870000", _WHITE),
)  # fmt: skip
_BIT_DARK = (
    ("#15171c", "#d8dbe0"), ("#3f2a12", _WHITE), ("#6b4110", _WHITE), ("#a35a0a", _WHITE), ("#ee8a1c", _BLACK),
    ("#ffe08a", _BLACK),
)  # fmt: skip
_BIT_TERMINAL = ((231, 16), (222, 16), (214, 16), (202, 16), (160, 231), (88, 231))

SURPRISAL = Scale(
    "surprisal", "bits", "Choose a character to see what the model expected. Keys N and P: next and previous place.",
    _BIT_LIMITS, tuple(map(Level, _BIT_NAMES, _BIT_LIGHT, _BIT_DARK, _BIT_TERMINAL)),
)  # fmt: skip
"""Of surprisals in bits."""
SURPRISING = 4
"""The level of ``SURPRISAL`` from which on a place is one of those that the keyboard moves to: 6 bits."""

# ColorBrewer's RdBu, which people with the common kinds of colour blindness can read, and the same for a dark page.
_CELL_LIMITS = (-0.75, -0.5, -0.25, 0.25, 0.5, 0.75)
_CELL_NAMES = (
    "under -0.75", "-0.75 to -0.5", "-0.5 to -0.25", "-0.25 to 0.25", "0.25 to 0.5", "0.5 to 0.75", "0.75 and more",
)  # fmt: skip
_CELL_LIGHT = (
    ("#b2182b", _WHITE), ("#ef8a62", _BLACK), ("#fddbc7", _BLACK), ("#ffffff", _BLACK), ("#d1e5f0", _BLACK),
    ("#67a9cf", _BLACK), ("#2166ac", _WHITE),
)  # fmt: skip
_CELL_DARK = (
    ("#ff8066", _BLACK), ("#a8321f", _WHITE), ("#4f1d17", _WHITE), ("#15171c", "#d8dbe0"), ("#12304f", _WHITE),
    ("#1f62a8", _WHITE), ("#63b3ff", _BLACK),
)  # fmt: skip
_CELL_TERMINAL = ((124, 231), (209, 16), (224, 16), (231, 16), (195, 16), (74, 16), (25, 231))

ACTIVATION = Scale(
    "activation", "activation", "Choose a character to see the activation after it.",
    _CELL_LIMITS, tuple(map(Level, _CELL_NAMES, _CELL_LIGHT, _CELL_DARK, _CELL_TERMINAL)),
)  # fmt: skip
"""Of the activation of a cell, from -1 (red) to 1 (blue)."""


def bits(nats: float) -> float:
    """Nats in bits, at least 0, because -log(1) is -0.0."""
    return max(0.0, nats / math.log(2))
