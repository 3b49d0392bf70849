"""The ways of opening a run, the outcomes, and the memory that an opening takes."""

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
from charlm.checkpoint.step import CONFIG, GRADIENTS, open_checkpoint
from charlm.cli.info import info
from charlm.cli.texts import corpus_of
from charlm.config import SamplingConfig
from charlm.corpus.prepared import SPLITS
from charlm.errors import CharlmError
from charlm.training.events import Saved, Stepped
from charlm.training.options import TrainingOptions

SECONDS = 2.0


def _generate(run: Path, step: str) -> None:
    "".join(charlm.load(run / step).stream("", 5, SamplingConfig(0.8), seed=1))


def _info(run: Path, step: str) -> None:
    info(run / step)
    info(run / step, json=True)


def _resume(run: Path, step: str) -> None:
    """Train one step and save, as after Ctrl-C."""
    with runs.resumed_run(run, TrainingOptions()) as prepared:
        if prepared.finished:
            return
        for event in prepared.trainer.events():
            if isinstance(event, Stepped):
                prepared.trainer.stop()
            assert not isinstance(event, Saved) or event.path.parent == run


def _measure(run: Path, step: str) -> None:
    """Evaluate on the run's own text, dynamically where the size of the gradients is known."""
    model = charlm.load(run / step, device="cpu", threads=1)
    corpus = corpus_of(model, "charlm eval FILE")
    for split in SPLITS:
        ids = corpus.ids(split)
        model.evaluate_ids([ids.read(0, min(len(ids), 400))])
    if GRADIENTS in open_checkpoint(run / step, names=[CONFIG, GRADIENTS]).files:
        model.evaluate_dynamically([corpus.ids("train").read(0, 64)])


OPENERS: dict[str, Callable[[Path, str], None]] = {
    "generate": _generate, "info": _info, "resume": _resume, "measure": _measure
}  # fmt: skip


# --------------------------------------------------------------------------------------------------------- outcomes


@dataclass(frozen=True)
class Outcome:
    """The outcome of an opening: "opened", "refused" by a ``CharlmError``, "hangs", or "escaped" (another error)."""

    kind: str
    code: int = 0
    text: str = ""


class _TimeoutReached(BaseException):
    pass


def raise_timeout(number: int, frame: Any) -> None:
    """The SIGALRM handler of a process that calls ``attempt``."""
    raise _TimeoutReached


def attempt(opener: Callable[[], None]) -> Outcome:
    """Open, for ``SECONDS`` at most; ``raise_timeout`` must be the handler of SIGALRM."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        opener()
        return Outcome("opened")
    except CharlmError as error:
        return Outcome("refused", error.exit_code, str(error))
    except _TimeoutReached:
        return Outcome("hangs", text=_where())
    except Exception as error:
        return Outcome("escaped", text=f"{type(error).__name__} {_where()} | {str(error)[:100]}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _where() -> str:
    """The innermost line of charlm in the traceback of the current exception."""
    frames = [f for f in traceback.extract_tb(sys.exc_info()[2]) if "/charlm/" in f.filename]
    return f"at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside charlm"


# ----------------------------------------------------------------------------------------------------------- memory


def process_bytes(name: str) -> int:
    """A figure of this process, such as VmHWM, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def reset_peak() -> int:
    """Free unused memory and reset the peak (VmHWM); returns the memory in use."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return process_bytes("VmRSS")
