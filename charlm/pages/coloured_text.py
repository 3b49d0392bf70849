"""Documents as HTML, each character with the colour of its level: as a fragment and as a page without network.

No markup in the text becomes markup of the page, and no control character reaches it. The text alone is what a browser
copies: the style sheet adds the signs for line ends and for the end of a document.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import secrets
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

from charlm.pages.characters import visible
from charlm.pages.places import Places
from charlm.pages.scales import ACTIVATION, SURPRISAL, Scale


class Cell(NamedTuple):
    """A character of a text with its value on a scale, and what is said about it."""

    character: str
    """"" is the end of the document."""
    value: float
    explanation: str


Documents = Iterable[tuple[str, Iterable[Cell]]]
"""Headings and documents."""


class Html(str):
    """HTML that a notebook shows as such."""

    def _repr_html_(self) -> str:
        return str(self)


def fragment(documents: Documents, scale: Scale, key: str = "place", places: Places | None = None) -> Iterator[str]:
    """The pieces of an element with the documents, a legend, and the list of ``places``, which are found on the way.

    It needs ``style()``, and ``script()`` for the keyboard and for fingers, once in the page that it is put in. ``key``
    begins the ids of its elements, so that several can be in one page.
    """
    swatches = "".join(f'<li class="s{number}">{level.name}</li>' for number, level in enumerate(scale.levels))
    if places is not None:
        swatches += f'<li><a class="to-places" href="#{key}s">most surprising places</a></li>'
    yield (
        f'<div class="charlm-text {scale.name}" tabindex="0">\n'
        f'<ul class="legend"><li>{escape(scale.label)}:</li>{swatches}</ul>\n'
        f'<div class="columns{"" if places is None else " with-places"}">\n<div>\n'
    )
    for heading, document in documents:
        yield f'<section>\n<h2>{escape(visible(heading))}</h2>\n<p lang="" dir="auto">'
        if places is None:
            yield from (_span(cell, scale) for cell in document)
        else:
            for cell, id_, stops in places.found(document):
                yield _span(cell, scale, "" if id_ is None else f' id="{key}{id_}"', " stop" if stops else "")
        yield "</p>\n</section>\n"
    yield "</div>\n"
    if places is not None:
        yield from _list(places, scale, key)
    yield "</div>\n"
    yield '<div class="detail">'
    if places is not None:
        yield '<button value="-1" aria-label="previous surprising place" title="previous (P)">◀</button>'
    yield f'<output aria-live="polite">{scale.advice}</output>'
    if places is not None:
        yield '<button value="1" aria-label="next surprising place" title="next (N)">▶</button>'
    yield "</div>\n</div>\n"


def page(documents: Documents, title: str, scale: Scale, places: Places | None = None) -> Iterator[str]:
    """The pieces of a self-contained page, which may be written while the documents are read."""
    title = escape(visible(title))
    yield f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src '{script_hash()}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{_PAGE_STYLE}
{style()}
</style>
</head>
<body class="charlm-page">
<h1>{title}</h1>
"""
    yield from fragment(documents, scale, places=places)
    yield f"<script>{script()}</script>\n</body>\n</html>\n"


_PAGE_STYLE = """html { background: #ffffff; color: #111111 }
body { max-width: 84rem; margin: 0 auto; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif }
h1 { margin: 0 0 0.75rem; font-size: 1.125rem; overflow-wrap: anywhere }
@media (prefers-color-scheme: dark) { html { background: #15171c; color: #d8dbe0 } }"""


@functools.cache
def style() -> str:
    """The style sheet of all fragments."""
    rules = [Path(__file__).with_name("coloured_text.css").read_text("utf-8").strip()]
    for scale in (SURPRISAL, ACTIVATION):
        rules += _colour_rules(scale.name, [level.light for level in scale.levels])
        rules.append("@media (prefers-color-scheme: dark) {")
        rules += [*_colour_rules(scale.name, [level.dark for level in scale.levels]), "}"]
    return "\n".join(rules)


def _colour_rules(name: str, colours: Iterable[tuple[str, str]]) -> list[str]:
    return [
        f".{name} .s{number} {{ background: {background}; color: {ink} }}"
        for number, (background, ink) in enumerate(colours)
    ]


@functools.cache
def script() -> str:
    """The script of all fragments in a page, also of those that are inserted later."""
    return Path(__file__).with_name("coloured_text.js").read_text("utf-8").strip()


@functools.cache
def script_hash() -> str:
    """The source of the script in a Content-Security-Policy: no other script may run in a page."""
    digest = hashlib.sha256(script().encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def widget(documents: Documents, scale: Scale, places: Places | None = None) -> Html:
    """A fragment with its style sheet and script, for the output of a notebook."""
    key = f"charlm-{secrets.token_hex(4)}-"  # a notebook keeps the outputs of earlier processes
    body = "".join(fragment(documents, scale, key, places))
    return Html(f"<style>\n{style()}\n</style>\n{body}<script>{script()}</script>\n")


def _span(cell: Cell, scale: Scale, attributes: str = "", classes: str = "") -> str:
    kind = {"": " end", "\n": " line-end"}.get(cell.character, "")
    title = escape(cell.explanation).replace("\n", "&#10;")
    level = scale.level_of(cell.value)
    return f'<span class="s{level}{kind}{classes}" title="{title}"{attributes}>{escape(visible(cell.character))}</span>'


_FIRST = 20
"""Places that the list shows at once; the others unfold."""


def _list(places: Places, scale: Scale, key: str) -> Iterator[str]:
    found = places.most()
    yield f'<nav class="places" id="{key}s" aria-label="most surprising places">\n<h2>Most surprising places</h2>\n<ol>'
    for number, place in enumerate(found):
        if number == _FIRST:
            yield f"</ol>\n<details><summary>{len(found) - _FIRST} more</summary><ol>"
        level = scale.level_of(place.value)
        before, character, after = (escape(visible(part)).replace("\n", "⏎") for part in place.context())
        yield (
            f'<li><a href="#{key}{place.id}"><strong>{place.value:.1f}</strong>'
            f'<q lang="" dir="auto">{before}<mark class="s{level}">{character}</mark>{after}</q></a></li>\n'
        )
    yield "</ol>\n</details>\n</nav>\n" if len(found) > _FIRST else "</ol>\n</nav>\n"
