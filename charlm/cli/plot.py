"""``charlm plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from charlm.cli.options import completing
from charlm.cli.output import chosen_checkpoint, terminal_width, write_file, write_text
from charlm.errors import UsageError

_PICTURES = ("svg", "png", "pdf", "html")
_MAX_WIDTH = 100
"""Columns of a plot in characters; more would not make it clearer."""


def plot(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN", help="Runs. [default: the newest run in ./checkpoints]", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="A .svg, .png, .pdf or .html file. [default: characters on stdout]"
        ),
    ] = None,
    x: Annotated[
        str,
        typer.Option(
            "--x", help="steps, seconds or epochs.", autocompletion=completing(("steps", "seconds", "epochs"))
        ),
    ] = "steps",
) -> None:
    """Draw the losses and the learning rate of trainings. Without -o, in characters. Pictures need matplotlib."""
    form = "" if output is None else output.suffix.lower().removeprefix(".")
    if output is not None and form not in _PICTURES:
        raise UsageError(f"{output} must end with {', '.join(f'.{each}' for each in _PICTURES)}; rename it")
    from charlm.plots.characters import character_plot
    from charlm.plots.curves import read_curves

    curves = read_curves(runs or [chosen_checkpoint(None)], x)
    if output is None:
        write_text(character_plot(curves, x, min(_MAX_WIDTH, terminal_width() - 1)))
        return
    from charlm.plots.figure import picture
    from charlm.plots.page import curve_page

    write_file(output, [curve_page(curves, x) if form == "html" else picture(curves, x, form)])
