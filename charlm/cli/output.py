"""Output: notices on stderr, above the progress bar, and text and JSON on stdout."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import TextWrapper
from typing import Any

from charlm.cli.lines import escaped
from charlm.config import format_duration
from charlm.errors import CannotCreateError, InputOutputError

_SECONDS_BETWEEN_LINES = 30.0
"""Of progress, where stderr is not a terminal."""

_bar: Any = None


class OutputClosedError(Exception):
    """The reader of stdout has exited."""


def say(text: str, coloured: bool = False) -> None:
    """Print lines on stderr, above the progress bar if there is one. Errors of the stream are ignored.

    Characters that act on a terminal are escaped, because file names, generated text and columns may hold some, except
    in a text that is ``coloured``.
    """
    if not coloured:
        text = "\n".join(map(escaped, text.split("\n")))
    with suppress(OSError, ValueError):
        if _bar is not None:
            _bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)  # noqa: T201  # the only place that prints notices


def terminal_width() -> int:
    """Columns of the terminal that stderr is, else 80."""
    with suppress(OSError, ValueError):
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    return 80


def indented(text: str) -> str:
    """``text`` with four spaces before each line; on a terminal, long lines are broken between words."""
    lines = text.split("\n")
    if sys.stderr.isatty():
        width = max(20, terminal_width() - 5)
        wrapper = TextWrapper(width, break_long_words=False, break_on_hyphens=False, replace_whitespace=False)
        lines = [part for line in lines for part in (wrapper.wrap(line) or [""])]
    return "\n".join("    " + line for line in lines)


class LogHandler(logging.Handler):
    """Prints the records of the library's logger on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"charlm: {record.levelname.lower()}: {record.getMessage()}")


_last_written = "\n"


def write_text(text: str) -> None:
    """Write text to stdout as UTF-8, whatever the locale, and flush it. Surrogate escapes become raw bytes."""
    global _last_written  # noqa: PLW0603  # end_line() reads it
    _last_written = text[-1:] or _last_written
    try:
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise OutputClosedError from None
    except OSError as error:
        raise InputOutputError(f"stdout could not be written ({error.strerror}); make room or fix the disk") from None


def write_file(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file that is complete once it has this name, and say so. Raises ``CannotCreateError``."""
    from charlm.system.disk import replacing

    try:
        with replacing(path) as file:
            file.writelines(pieces)
    except OSError as error:
        raise CannotCreateError(f"{path} cannot be written ({error.strerror}); choose another path") from None
    say(f"wrote {path}")


def end_line() -> None:
    """Write a line end to stdout, unless the text ended with one."""
    if _last_written != "\n":
        write_text("\n")


def json_line(values: Any) -> str:
    """One JSON object on one line."""
    return json.dumps(values, ensure_ascii=True, allow_nan=False) + "\n"


def write_json(values: Any) -> None:
    """Write one JSON object on one line to stdout."""
    write_text(json_line(values))


@contextmanager
def progress_bar(bar_format: str, total: float | None, quiet: bool = False) -> Iterator[Any]:
    """A tqdm bar on stderr; None if stderr is not a terminal or ``quiet`` is set."""
    global _bar  # noqa: PLW0603  # say() prints above it
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
    """A function that advances a progress bar; call it with the number of characters done since the last call.

    Where stderr is not a terminal, it prints a line every half minute.
    """
    rest = "{rate_fmt}, {remaining} left" if total else "{rate_fmt}"
    bar_format = description + (" {percentage:3.0f}%|{bar}| " if total else " {n_fmt}, ") + rest
    with progress_bar(bar_format, total, quiet) as bar:
        if bar is not None:
            yield bar.update
        elif quiet:
            yield lambda count: None
        else:
            yield _Lines(description, total).update


class _Lines:
    """Progress as lines on stderr."""

    def __init__(self, description: str, total: int | None) -> None:
        self._description, self._total, self._done = description, total, 0
        self._start = self._last_line = time.monotonic()

    def update(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        if not self._total:
            say(f"{self._description}: {self._done:,} characters")
            return
        share = min(1.0, self._done / self._total)
        left = format_duration((now - self._start) * (1 - share) / share)
        say(f"{self._description}: {share:.0%} of {self._total:,} characters, {left} left")


def bits(nats: float) -> float:
    """Convert nats to bits."""
    return nats / math.log(2)


def chosen_checkpoint(named: Path | None, *, with_text: bool = False) -> Path:
    """The checkpoint that is named, or in CHARLM_CHECKPOINT, or the newest run, whose name is printed on stderr.

    ``with_text``: the newest run that has the text it was trained on.
    """
    from charlm.checkpoint.run_folder import RUNS, RunFolder

    if named is not None:
        return named
    if from_environment := os.environ.get("CHARLM_CHECKPOINT"):
        return Path(from_environment)
    newest = RunFolder.newest(RUNS, with_text=with_text).path
    say(f"using {newest}")
    return newest
