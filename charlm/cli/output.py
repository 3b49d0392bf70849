"""Words for people: lines on stderr that do not tear a progress bar, and the text on stdout."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_bar: Any = None


class OutputClosedError(Exception):
    """Whoever read our output has gone."""


def say(text: str) -> None:
    """A line on stderr, above the progress bar if there is one. If nobody reads it, that is no reason to stop."""
    with suppress(OSError, ValueError):
        if _bar is not None:
            _bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)  # noqa: T201  # the one place that prints


class LogHandler(logging.Handler):
    """Shows the library's notices as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"charlm: {record.levelname.lower()}: {record.getMessage()}")


_last_written = "\n"


def write_text(text: str) -> None:
    """Text on stdout as UTF-8, whatever the locale, at once; raw bytes come out as they are."""
    global _last_written  # noqa: PLW0603  # end_line() must know it
    _last_written = text[-1:] or _last_written
    try:
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise OutputClosedError from None


def end_line() -> None:
    """A line end on stdout, unless the text has just ended with one."""
    if _last_written != "\n":
        write_text("\n")


def json_line(values: Any) -> str:
    """One JSON object on one line."""
    return json.dumps(values, ensure_ascii=True, allow_nan=False) + "\n"


def write_json(values: Any) -> None:
    """One JSON object on one line of stdout."""
    write_text(json_line(values))


@contextmanager
def progress_bar(bar_format: str, total: float | None, quiet: bool = False) -> Iterator[Any]:
    """A tqdm bar on stderr, or None where stderr is no terminal or ``quiet`` is asked for."""
    global _bar  # noqa: PLW0603  # say() must know the bar that is on the screen
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    _bar = tqdm(
        total=total,
        bar_format=bar_format,
        file=sys.stderr,
        leave=False,
        dynamic_ncols=True,
        unit=" chars",
        unit_scale=True,
    )
    try:
        yield _bar
    finally:
        with suppress(OSError, ValueError):
            _bar.close()
        _bar = None


@contextmanager
def counting(description: str, total: int | None, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of characters done since last time; it moves a bar."""
    bar_format = description + " {percentage:3.0f}%|{bar}| {rate_fmt}" if total else description + " {n_fmt}"
    with progress_bar(bar_format, total, quiet) as bar:
        yield (lambda count: None) if bar is None else bar.update


def duration(seconds: float) -> str:
    """0:42, 12:05, 1:02:03."""
    whole = int(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def bits(nats: float) -> float:
    """Nats in bits."""
    return nats / math.log(2)


def chosen_checkpoint(named: Path | None) -> Path:
    """The checkpoint a person means: named, in CHARLM_CHECKPOINT, or the newest run, which is then said on stderr."""
    from charlm.checkpoint.run_folder import RUNS, RunFolder

    if named is not None:
        return named
    if from_environment := os.environ.get("CHARLM_CHECKPOINT"):
        return Path(from_environment)
    newest = RunFolder.newest(RUNS).path
    say(f"using {newest}")
    return newest
