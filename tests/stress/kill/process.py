"""Runs one training in a forked process and returns how it ended and what it reported."""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charlm.checkpoint.run_folder import RunFolder
from charlm.cli import app
from charlm.training.events import Saved
from charlm.training.trainer import Trainer
from stress.kill.setups import Setup

TIMEOUT = 120


@dataclass
class Ended:
    """How a process ended, killed or with an exit code, and what it had reported."""

    killed: bool
    code: int
    reports: list[dict[str, int]]
    seconds: float
    log: str

    @property
    def saved(self) -> int:
        """The last step that was reported as saved; 0 if none was."""
        return max((report["saved"] for report in self.reports if "saved" in report), default=0)


Report = Callable[..., None]


def train(
    kind: Setup, run: Path, kill_after: float | None = None, disturb: Callable[[Report], None] = lambda report: None
) -> Ended:
    """Start or resume ``charlm train`` in a forked process, which calls ``disturb`` first."""
    resumable = bool(RunFolder(run).step_numbers())
    arguments = ["--resume", "--quiet"] if resumable else [str(kind.text), *kind.options]
    reader, writer = os.pipe()
    began = time.monotonic()
    process = os.fork()
    if not process:
        os.close(reader)
        _run_charlm(["train", *arguments, "--out", str(run)], kind.engine, writer, run.with_suffix(".log"), disturb)
    os.close(writer)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process, signal.SIGKILL)  # harmless if the process has ended: it is not reaped yet
    with open(reader, encoding="utf-8") as pipe:
        lines = pipe.read().splitlines()
    status = os.waitpid(process, 0)[1]
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    code = os.waitstatus_to_exitcode(status)
    log = run.with_suffix(".log").read_text("utf-8", "replace") if run.with_suffix(".log").exists() else ""
    return Ended(killed, code, [json.loads(line) for line in lines], time.monotonic() - began, log)


def _run_charlm(arguments: list[str], engine: str, writer: int, log: Path, disturb: Callable[[Report], None]) -> None:
    """Run the command and end the process with its exit code."""

    def report(**values: int) -> None:
        os.write(writer, (json.dumps(values) + "\n").encode())

    code = 99
    try:
        signal.alarm(TIMEOUT)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.environ["CHARLM_ENGINE"] = engine
        sys.argv = ["charlm", *arguments]
        _report_saves(report)
        disturb(report)
        app.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 98
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    os._exit(code)


def _report_saves(report: Report) -> None:
    """Report every save of a training when its event is emitted."""

    def tell(trainer: Trainer, event: Any) -> None:
        if isinstance(event, Saved):
            cursor = trainer.progress.cursor
            report(
                saved=event.step, rows=trainer.batches.carried_rows(cursor), epochs=int(trainer.batches.epochs(cursor))
            )

    observe_events(tell)


def observe_events(hear: Callable[[Trainer, Any], None]) -> None:
    """From now on call ``hear`` with every event of a training just before its consumer gets it."""
    original = Trainer.events

    def events(trainer: Trainer) -> Iterator[Any]:
        for event in original(trainer):
            hear(trainer, event)
            yield event

    Trainer.events = events
