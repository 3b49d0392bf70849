"""The coloured text of ``charlm score --highlight`` and ``--html``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from charlm.cli import highlight
from charlm.cli.output import end_line, say, write_file, write_text
from charlm.errors import UsageError
from charlm.pages.activation import activation_page
from charlm.pages.scales import ACTIVATION, SURPRISAL, Scale, bits
from charlm.pages.surprisal import surprisal_page

if TYPE_CHECKING:
    from charlm.evaluation.scoring import Surprisal
    from charlm.language_model import LanguageModel

Texts = Iterable[tuple[int, str, str | None]]
"""(number, text, condition) of documents."""


def parse_neuron(text: str | None, coloured: bool) -> tuple[int, int] | None:
    """The layer and the cell of --neuron, such as 0:137. Raises ``UsageError``, also unless the text is coloured."""
    if text is None:
        return None
    if not coloured:
        raise UsageError("--neuron colours the text; add --highlight or --html PAGE")
    layer, colon, cell = text.partition(":")
    if not (colon and layer.isdecimal() and cell.isdecimal() and len(text) < 20):
        raise UsageError(f"--neuron must be a layer and a cell, both from 0, such as 0:137, not {text!r:.40}")
    return int(layer), int(cell)


def show_coloured(model: LanguageModel, texts: Texts, html: str | None, cell: tuple[int, int] | None = None) -> None:
    """Show documents in the terminal or as the page ``html``, coloured by surprisal or by a cell of a layer."""
    if cell is not None:
        _show_cell(model, texts, html, cell)
        return
    if html is None:
        surprised = (model.surprisals(text, 0, given) for _, text, given in texts)
        print_coloured((_with_bits(found) for found in surprised), SURPRISAL)
        return
    found = ((number, list(model.surprisals(text, given=given))) for number, text, given in texts)
    headed = ((_heading(number, surprisals), surprisals) for number, surprisals in found)
    write_page(html, surprisal_page(headed, f"{model.checkpoint.name}: surprisal"))


def _show_cell(model: LanguageModel, texts: Texts, html: str | None, cell: tuple[int, int]) -> None:
    activated = ((number, model.activations_of(text, *cell, given)) for number, text, given in texts)
    if html is None:
        print_coloured((found for _, found in activated), ACTIVATION)
        return
    headed = ((f"{number}: layer {cell[0]}, cell {cell[1]}", found) for number, found in activated)
    write_page(html, activation_page(headed, f"{model.checkpoint.name}: layer {cell[0]}, cell {cell[1]}"))


def _with_bits(surprisals: Iterable[Surprisal]) -> highlight.Document:
    return ((surprisal.character, bits(surprisal.nats)) for surprisal in surprisals)


def _heading(number: int, surprisals: list[Surprisal]) -> str:
    mean = bits(sum(surprisal.nats for surprisal in surprisals) / max(1, len(surprisals)))
    return f"{number}: {mean:.3f} bits per character"


def print_coloured(documents: Iterable[highlight.Document], scale: Scale) -> None:
    """Print documents on stdout, coloured if it is a terminal, and the legend on stderr."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    say(highlight.legend(scale, sys.stderr.isatty() and colour), coloured=True)
    if not colour:
        say("no colours, because stdout is not a terminal or NO_COLOR is set; use --html PAGE for a web page")
    for piece in highlight.terminal(documents, scale, colour):
        write_text(piece)
    end_line()


def write_page(name: str, pieces: Iterable[str]) -> None:
    """Write a page to stdout if ``name`` is -, else to a file that is complete once it has this name."""
    if name in ("-", "/dev/stdout"):
        for piece in pieces:
            write_text(piece)
        return
    write_file(Path(name), (piece.encode("utf-8", "replace") for piece in pieces))
