"""The ways of opening a run, and what comes of one: its outcome, and the memory that it took."""

from __future__ import annotations

import ctypes
import gc
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import charlm
from charlm import runs
from charlm.cli.info import info
from charlm.config import SamplingConfig
from charlm.errors import CharlmError
from charlm.training.events import Saved, Stepped
from charlm.training.recipe import Request

SECONDS = 2.0


def _generate(run: Path, step: str) -> None:
    "".join(charlm.load(run / step).stream("", 5, SamplingConfig(0.8), seed=1))


def _info(run: Path, step: str) -> None:
    info(run / step)
    info(run / step, json=True)


def _resume(run: Path, step: str) -> None:
    """Go on for one step and save, as a person who presses Ctrl-C soon."""
    with runs.resumed_run(run, Request()) as prepared:
        if prepared.finished:
            return
        for event in prepared.trainer.events():
            if isinstance(event, Stepped):
                prepared.trainer.stop()
            assert not isinstance(event, Saved) or event.path.parent == run


OPENERS: dict[str, Callable[[Path, str], None]] = {"generate": _generate, "info": _info, "resume": _resume}


# --------------------------------------------------------------------------------------------------------- outcomes


@dataclass(frozen=True)
class Outcome:
    """What came of an opening: "opened", "refused" by a ``CharlmError``, "hangs" or "escaped"."""

    kind: str
    code: int = 0
    text: str = ""


class _Hung(BaseException):
    pass


def raise_hung(number: int, frame: Any) -> None:
    """What a process that attempts openings does on SIGALRM."""
    raise _Hung


def attempt(opener: Callable[[], None]) -> Outcome:
    """Open, for ``SECONDS`` at most; SIGALRM must lead to ``raise_hung``."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        opener()
        return Outcome("opened")
    except CharlmError as error:
        return Outcome("refused", error.exit_code, str(error))
    except _Hung:
        return Outcome("hangs", text=_where())
    except Exception as error:
        return Outcome("escaped", text=f"{type(error).__name__} {_where()} | {str(error)[:100]}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _where() -> str:
    """The innermost line of charlm's in the traceback of the current exception."""
    frames = [f for f in traceback.extract_tb(sys.exc_info()[2]) if "/charlm/" in f.filename]
    return f"at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside charlm"


# ----------------------------------------------------------------------------------------------------------- memory


def process_bytes(name: str) -> int:
    """A figure of this process, such as VmHWM, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def forget_peak() -> int:
    """Give back what earlier work left and begin to measure the peak (VmHWM) anew; returns what is in use."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return process_bytes("VmRSS")
