"""Shapes and text of SVG pictures, and the colours of all pictures."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#00795A", "#555555"
"""Of the palette of Okabe and Ito, which colour-blind readers can tell apart; the green is darker."""
SANS, MONO = "Helvetica, Arial, 'DejaVu Sans', sans-serif", "Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def svg(size: tuple[float, float], parts: Iterable[str]) -> str:
    width, height = size
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        + ("\n".join(parts) + "\n</svg>\n")
    )


def rectangle(x: float, y: float, width: float, height: float, colour: str, *, radius: float = 0) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" rx="{radius}" fill="{colour}"/>'


def box(x: float, y: float, width: float, label: str, colour: str, height: float = 36) -> Iterator[str]:
    """A stage whose centre has the height ``y``."""
    yield (
        f'<rect x="{x}" y="{y - height / 2}" width="{width}" height="{height}" rx="6" fill="white" '
        f'stroke="{colour}" stroke-width="2"/>'
    )
    yield caption(x + width / 2, y + 5, label, size=14)


def line(path: str, colour: str, arrow: str = "", width: float = 1.5) -> str:
    end = f' marker-end="url(#{arrow})"' if arrow else ""
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{end}/>'


def caption(
    x: float,
    y: float,
    text: str,
    anchor: str = "middle",
    *,
    size: int = 13,
    bold: bool = False,
    colour: str = "#111111",
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"{weight} '
        f'xml:space="preserve">{html.escape(text)}</text>'
    )
