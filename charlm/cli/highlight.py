"""Text coloured by how much each character surprised a model: for a terminal, and as a page for a browser.

The text is anybody's, so nothing in it may act: no control character reaches a terminal, no markup a page.
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
"""The borders in bits between the colours; a character on a border has the stronger colour."""

_COLOURS = (231, 222, 214, 202, 160, 88)
"""Of the terminals' 256, in the page as well: white, yellow, orange, reds. Each is clearly darker than the one before,
so that who sees no red or no yellow can tell them apart."""
_BLACK, _WHITE = 16, 231
_WHITE_TEXT = 4
"""The level from which on black letters would be hard to read."""

_END_SIGN = "⏎"
_RESET = "\x1b[0m"
_RUN = 1000
"""Characters painted in one piece at most, however long the colour stays the same."""

_CONTROL_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
_BIDI_CONTROLS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SURROGATES = range(0xD800, 0xE000)
_VISIBLE = _CONTROL_PICTURES | dict.fromkeys([*range(0x80, 0xA0), *_BIDI_CONTROLS, *_SURROGATES], 0xFFFD)

_WORDS = {" ": "space", "\n": "line end", "\t": "tab"}


def level_of(nats: float) -> int:
    """The colour of a surprise, from 0 (expected) to ``len(LEVELS)``."""
    return bisect_right(LEVELS, _bits(nats))


def visible(text: str) -> str:
    """``text`` with a picture for each control character but newline and tab, so that it can be shown and not obeyed.

    What has no picture, U+0080 to U+009F, what turns the direction of writing, and halves of a character, is U+FFFD.
    """
    return text.translate(_VISIBLE)


def _bits(nats: float) -> float:
    return max(0.0, nats / math.log(2))  # -log(1) is -0.0


def _level_names() -> list[str]:
    return [f"under {LEVELS[0]}", *(f"{low} to {high}" for low, high in pairwise(LEVELS)), f"{LEVELS[-1]} and more"]


# ---------------------------------------------------------------------------------------------------- terminal


def terminal(documents: Iterable[Iterable[Surprisal]], colour: bool) -> Iterator[str]:
    """What to write of documents, a line end between two; without ``colour`` their visible text alone.

    Every piece ends the colours that it begins, so whoever stops reading between two leaves the terminal as it was.
    """
    last = ""
    for number, document in enumerate(documents):
        if number and not last.endswith("\n"):
            yield "\n"
        last = ""
        for last in _pieces(document, colour):  # read after the loop
            yield last


def legend(colour: bool) -> str:
    """One line that says which colour is how many bits."""
    names = [f" {name} " if colour else name for name in _level_names()]
    return "bits: " + (" ".join(map(_paint, range(len(names)), names)) if colour else ", ".join(names))


def _pieces(document: Iterable[Surprisal], colour: bool) -> Iterator[str]:
    for level, run in groupby(_shown(document, colour), itemgetter(0)):
        characters = (character for _, character in run)
        while text := "".join(islice(characters, _RUN)):
            yield text if level is None else _paint(level, text)


def _shown(document: Iterable[Surprisal], colour: bool) -> Iterator[tuple[int | None, str]]:
    """Each character with its level, None where no colour belongs: a background would go on over a line end."""
    for surprisal in document:
        for character in visible(surprisal.character) or (_END_SIGN if colour else ""):
            yield level_of(surprisal.nats) if colour and character != "\n" else None, character


def _paint(level: int, text: str) -> str:
    return f"\x1b[38;5;{_text_colour(level)};48;5;{_COLOURS[level]}m{text}{_RESET}"


def _text_colour(level: int) -> int:
    return _WHITE if level >= _WHITE_TEXT else _BLACK


# -------------------------------------------------------------------------------------------------------- page


def page(documents: Iterable[tuple[str, Iterable[Surprisal]]], title: str) -> Iterator[str]:
    """The pieces of an HTML page that needs nothing else: documents with their headings, each character a span.

    A span's title tells the character, its bits and its probability, and what was likeliest in its place. The signs for
    line end and end are the style sheet's, so that text copied from the page is the (visible) text.
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
<ul>{swatches}<li>bits; rest the pointer on a character to see what the model expected</li></ul>
"""


def _style() -> str:
    # The colours mean something and none has a dark twin: the page is light everywhere, on paper as well.
    rules = [
        ":root { color-scheme: only light; background: #ffffff; color: #000000; print-color-adjust: exact }",
        "body { max-width: 60em; margin: 2em auto; font: 1em/1.6 monospace; forced-color-adjust: none }",
        "h1, h2 { font-size: 1em }",
        "h2 { margin: 1.5em 0 0 }",
        "ul { display: flex; flex-wrap: wrap; padding: 0; list-style: none }",
        "li { padding: 0 0.5em }",
        # break-spaces also shows the spaces at the end of a line; a browser that does not know it keeps pre-wrap.
        "p { margin: 0; white-space: pre-wrap; white-space: break-spaces; overflow-wrap: anywhere }",
        f'.line-end::before, .end::before {{ content: "{_END_SIGN}" }}',
    ]
    rules += [
        f".s{number} {{ background: {_hexadecimal(colour)}; color: {_hexadecimal(_text_colour(number))} }}"
        for number, colour in enumerate(_COLOURS)
    ]
    return "\n".join(rules)


def _hexadecimal(colour: int) -> str:
    """One of the 216 colours in the middle of the terminals' 256, as CSS writes it."""
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
    """The character itself if it can be seen, otherwise words for it."""
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as surrogateescape decodes it
        return f"byte 0x{code - 0xDC00:02X}"
    return _WORDS.get(character) or (character if character.isprintable() else f"U+{code:04X}")
