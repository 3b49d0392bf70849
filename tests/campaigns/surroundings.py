"""What several campaigns need around their runs: a command, a place, a text, silence, a look at what a save leaves."""

import contextlib
import logging
import os
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

CHARLM = [sys.executable, "-m", "charlm"]
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where campaigns write: what fails, and when, they decide by themselves, so there is no disk to wait for."""
HALF_MADE = (".unfinished", ".aside", ".deleted")
WORDS = ("the", "cat", "sat", "on", "a", "mat")


def let_children_heed_signals() -> None:
    """What is ignored here (under nohup, behind &) a child would ignore, too; what is heeded here it finds unheeded."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def salad(draw: random.Random, count: int, words: Sequence[str] = WORDS) -> str:
    """``count`` words in no order."""
    return " ".join(draw.choice(words) for _ in range(count))


def half_made(run: Path) -> list[str]:
    """What a save or a removal that came to no end has left in a run."""
    return [path.name for path in run.iterdir() if path.name.startswith(HALF_MADE)]


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Keep quiet about each damaged step that is passed over, and each line of metrics that could not be written."""
    logger = logging.getLogger("charlm")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
