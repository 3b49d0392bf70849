"""``charlm runs``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.lines import csv_line, escaped
from charlm.cli.options import CsvOption, completing
from charlm.cli.output import write_json, write_text
from charlm.errors import UsageError

if TYPE_CHECKING:
    from charlm.plots.run_summary import RunList, RunSummary

_ORDERS: dict[str, Callable[[Any], Any]] = {
    "run": lambda run: run.name,
    "text": lambda run: run.text,
    "size": lambda run: run.parameters,
    "steps": lambda run: run.step,
    "time": lambda run: run.seconds,
    "best": lambda run: math.inf if run.best_nats_per_char is None else run.best_nats_per_char,
    "test": lambda run: math.inf if run.test_nats_per_char is None else run.test_nats_per_char,
    "finished": lambda run: not run.finished,
}


def runs(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="A folder of runs. [default: checkpoints]", show_default=False)
    ] = None,
    sort: Annotated[
        str,
        typer.Option("--sort", help=f"Order: {', '.join(_ORDERS)}.", autocompletion=completing(_ORDERS)),
    ] = "run",
    csv: CsvOption = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object with all runs and settings.")] = False,
) -> None:
    """List all runs: text, size, steps, time, losses in nats per character, and in which settings they differ.

    The test loss is that of charlm eval, where it has measured the best step of the run.
    """
    if sort not in _ORDERS:
        raise UsageError(f"--sort must be one of {', '.join(_ORDERS)}, not {sort!r:.40}")
    if csv and json:
        raise UsageError("give only one of --csv and --json")
    from charlm.checkpoint.run_folder import RUNS
    from charlm.plots.run_summary import RunList, runs_in

    found = RunList(sorted(runs_in(folder or RUNS), key=_ORDERS[sort]))
    if json:
        write_json({"runs": [run.as_dict() for run in found]})
    elif csv:
        write_text("".join(map(csv_line, _csv_rows(found))))
    else:
        write_text(_aligned(found))


def _csv_rows(found: Sequence[RunSummary]) -> list[list[Any]]:
    """A header and a row for each run, with its settings in columns of their own."""
    facts = [run.as_dict() for run in found]
    settings = [fact.pop("settings") for fact in facts]
    names = [name for name in dict.fromkeys(name for each in settings for name in each) if name not in facts[0]]
    header = [*facts[0], *names]
    return [header, *([*f.values(), *(s.get(name) for name in names)] for f, s in zip(facts, settings, strict=True))]


def _aligned(found: RunList) -> str:
    from charlm.plots.run_summary import TABLE_COLUMNS, table_rows

    rows = [TABLE_COLUMNS, *([escaped(cell) for cell in row] for row in table_rows(found))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(TABLE_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines) + "\n"
