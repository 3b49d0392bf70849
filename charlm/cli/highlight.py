"""Text coloured by the surprisal of each character: for a terminal, and as an HTML page.

The text may come from anywhere. No control character in it reaches the terminal, and no markup the page.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from html import escape
from itertools import groupby, islice, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from charlm.evaluation.scoring import Surprisal

LEVELS = (1, 2, 4, 6, 9)
"""Limits in bits between the colours. A character exactly at a limit has the stronger colour."""

_COLOURS = (231, 222, 214, 202, 160, 88)
"""Indices into the 256 terminal colours, used in the page as well: white, yellow, orange, reds. Each is clearly darker
than the one before, so that they can be told apart without colour vision."""
_BLACK, _WHITE = 16, 231
_WHITE_TEXT = 4
"""From this level on, the text is white, because black would be hard to read."""

_END_SIGN = "⏎"
_RESET = "\x1b[0m"
_MAX_RUN = 1000
"""Maximum number of characters of one colour in one piece."""

_CONTROL_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
_BIDI_CONTROLS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SURROGATES = range(0xD800, 0xE000)
_VISIBLE = _CONTROL_PICTURES | dict.fromkeys([*range(0x80, 0xA0), *_BIDI_CONTROLS, *_SURROGATES], 0xFFFD)

_WORDS = {" ": "space", "\n": "line end", "\t": "tab"}


def level_of(nats: float) -> int:
    """The colour level for a surprisal in nats, from 0 (expected) to ``len(LEVELS)``."""
    return bisect_right(LEVELS, _bits(nats))


def visible(text: str) -> str:
    """``text`` with a visible symbol for each control character except newline and tab.

    C1 controls (U+0080 to U+009F), bidirectional controls and surrogates have no symbol and become U+FFFD.
    """
    return text.translate(_VISIBLE)


def _bits(nats: float) -> float:
    return max(0.0, nats / math.log(2))  # -log(1) is -0.0


def _level_names() -> list[str]:
    return [f"under {LEVELS[0]}", *(f"{low} to {high}" for low, high in pairwise(LEVELS)), f"{LEVELS[-1]} and more"]


# ---------------------------------------------------------------------------------------------------- terminal


def terminal(documents: Iterable[Iterable[Surprisal]], colour: bool) -> Iterator[str]:
    """The documents as pieces to print, separated by line ends; without ``colour`` only their visible text.

    Each piece resets the colours that it sets, so that the terminal is left unchanged after any piece.
    """
    last = ""
    for number, document in enumerate(documents):
        if number and not last.endswith("\n"):
            yield "\n"
        last = ""
        for last in _pieces(document, colour):  # used after the loop
            yield last


def legend(colour: bool) -> str:
    """One line with the bits of each colour."""
    names = [f" {name} " if colour else name for name in _level_names()]
    return "bits: " + (" ".join(map(_paint, range(len(names)), names)) if colour else ", ".join(names))


def _pieces(document: Iterable[Surprisal], colour: bool) -> Iterator[str]:
    for level, run in groupby(_shown(document, colour), itemgetter(0)):
        characters = (character for _, character in run)
        while text := "".join(islice(characters, _MAX_RUN)):
            yield text if level is None else _paint(level, text)


def _shown(document: Iterable[Surprisal], colour: bool) -> Iterator[tuple[int | None, str]]:
    """Each character with its level; None for a line end, because its background would colour the rest of the line."""
    for surprisal in document:
        for character in visible(surprisal.character) or (_END_SIGN if colour else ""):
            yield level_of(surprisal.nats) if colour and character != "\n" else None, character


def _paint(level: int, text: str) -> str:
    return f"\x1b[38;5;{_text_colour(level)};48;5;{_COLOURS[level]}m{text}{_RESET}"


def _text_colour(level: int) -> int:
    return _WHITE if level >= _WHITE_TEXT else _BLACK


# -------------------------------------------------------------------------------------------------------- page


def page(documents: Iterable[tuple[str, Iterable[Surprisal]]], title: str) -> Iterator[str]:
    """The pieces of a self-contained HTML page: documents with their headings, each character a span.

    The title of a span has the character, its bits, its probability and the most likely characters at this position.
    The style sheet adds the signs for line ends and for the end, so that copied text does not contain them.
    """
    yield _head(escape(visible(title)))
    for heading, document in documents:
        yield f'<section>\n<h2>{escape(visible(heading))}</h2>\n<p lang="" dir="auto">'
        yield from map(_span, document)
        yield "</p>\n</section>\n"
    yield "</body>\n</html>\n"


def _head(title: str) -> str:
    swatches = "".join(f'<li class="s{number}">{name}</li>' for number, name in enumerate(_level_names()))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
{_style()}
</style>
</head>
<body>
<h1>{title}</h1>
<ul>{swatches}<li>bits; point at a character to see what the model expected</li></ul>
"""


def _style() -> str:
    # The colours have a meaning, so there is no dark variant: the page is light everywhere, also in print.
    rules = [
        ":root { color-scheme: only light; background: #ffffff; color: #000000; print-color-adjust: exact }",
        "body { max-width: 60em; margin: 2em auto; font: 1em/1.6 monospace; forced-color-adjust: none }",
        "h1, h2 { font-size: 1em }",
        "h2 { margin: 1.5em 0 0 }",
        "ul { display: flex; flex-wrap: wrap; padding: 0; list-style: none }",
        "li { padding: 0 0.5em }",
        # break-spaces also shows spaces at the end of a line; a browser that does not support it uses pre-wrap.
        "p { margin: 0; white-space: pre-wrap; white-space: break-spaces; overflow-wrap: anywhere }",
        f'.line-end::before, .end::before {{ content: "{_END_SIGN}" }}',
    ]
    rules += [
        f".s{number} {{ background: {_hexadecimal(colour)}; color: {_hexadecimal(_text_colour(number))} }}"
        for number, colour in enumerate(_COLOURS)
    ]
    return "\n".join(rules)


def _hexadecimal(colour: int) -> str:
    """A colour of the 6x6x6 cube (16 to 231) of the 256 terminal colours, as CSS writes it."""
    steps = (0x00, 0x5F, 0x87, 0xAF, 0xD7, 0xFF)
    red, rest = divmod(colour - 16, 36)
    return "#" + "".join(f"{steps[step]:02x}" for step in (red, *divmod(rest, 6)))


def _span(surprisal: Surprisal) -> str:
    kind = {"": " end", "\n": " line-end"}.get(surprisal.character, "")
    title = escape(_explanation(surprisal)).replace("\n", "&#10;")
    text = escape(visible(surprisal.character))
    return f'<span class="s{level_of(surprisal.nats)}{kind}" title="{title}">{text}</span>'


def _explanation(surprisal: Surprisal) -> str:
    lines = [
        f"{_name(surprisal.character)}: {_bits(surprisal.nats):.2f} bits, probability {math.exp(-surprisal.nats):.3g}",
        *(f"{probability:.1%} {_alternative(character)}" for character, probability in surprisal.alternatives),
    ]
    return "\n".join(lines)


def _alternative(character: str) -> str:
    return "a rarer character" if character == "\ufffd" else _name(character)


def _name(character: str) -> str:
    return " ".join(map(_code_name, character)) or "end of the document"


def _code_name(character: str) -> str:
    """The character itself if it is visible, otherwise its name."""
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, decoded with surrogateescape
        return f"byte 0x{code - 0xDC00:02X}"
    return _WORDS.get(character) or (character if character.isprintable() else f"U+{code:04X}")
