"""The coloured text of ``charlm score --highlight`` and ``--html``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from charlm.cli import highlight
from charlm.cli.output import end_line, say, write_text
from charlm.errors import CannotCreateError
from charlm.pages.scales import SURPRISAL, Scale, bits
from charlm.pages.surprisal import surprisal_page
from charlm.system.disk import replacing

if TYPE_CHECKING:
    from charlm.evaluation.scoring import Surprisal
    from charlm.language_model import LanguageModel

Texts = Iterable[tuple[int, str, str | None]]
"""(number, text, condition) of documents."""


def show_coloured(model: LanguageModel, texts: Texts, html: str | None) -> None:
    """Show documents, coloured by surprisal: in the terminal, or as the page ``html``."""
    if html is None:
        surprised = (model.surprisals(text, 0, given) for _, text, given in texts)
        print_coloured((_with_bits(found) for found in surprised), SURPRISAL)
        return
    found = ((number, list(model.surprisals(text, given=given))) for number, text, given in texts)
    headed = ((_heading(number, surprisals), surprisals) for number, surprisals in found)
    write_page(html, surprisal_page(headed, f"{model.checkpoint.path}: surprisal"))


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
    try:
        with replacing(Path(name)) as file:
            for piece in pieces:
                file.write(piece.encode("utf-8", "replace"))
    except OSError as error:
        raise CannotCreateError(f"{name} cannot be written ({error.strerror}); choose another path") from None
    say(f"wrote {name}")
