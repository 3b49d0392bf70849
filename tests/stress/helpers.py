"""Shared by several stress tests: the command, a scratch folder, random text, signal handlers, leftovers of a save."""

import contextlib
import logging
import os
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

CHARLM = [sys.executable, "-m", "charlm"]
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where stress tests write. They inject the failures themselves, so a real disk would only make them slower."""
LEFTOVER_PREFIXES = (".unfinished", ".aside", ".deleted")
WORDS = ("the", "cat", "sat", "on", "a", "mat")


def restore_signal_handlers() -> None:
    """Handle the signals that this process ignores (under nohup, or in the background of a shell).

    A child process inherits an ignored signal as ignored, but a handled one as its default.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def random_words(draw: random.Random, count: int, words: Sequence[str] = WORDS) -> str:
    """``count`` words in random order."""
    return " ".join(draw.choice(words) for _ in range(count))


def leftovers(run: Path) -> list[str]:
    """Names of files that an interrupted save or removal has left in a run folder."""
    return [path.name for path in run.iterdir() if path.name.startswith(LEFTOVER_PREFIXES)]


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Silence the warnings about damaged steps that are skipped and about metrics that could not be written."""
    logger = logging.getLogger("charlm")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
