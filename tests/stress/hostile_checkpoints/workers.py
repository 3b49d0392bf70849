"""Processes that open mutants one after another; if one dies or hangs, the stress test continues."""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from stress.hostile_checkpoints.checks import check_mutant
from stress.hostile_checkpoints.mutant import Mutant, lay_out
from stress.hostile_checkpoints.mutations import make_mutant
from stress.hostile_checkpoints.openers import OPENERS, SECONDS, process_bytes, raise_timeout
from stress.hostile_checkpoints.templates import Template

_STDERR = "stderr-of-the-worker"
MUTATIONS_PER_WORKER = 250
"""Mutations that one process opens before the next one replaces it."""


def reports(count: int, templates: list[Template], folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The outcome of every mutation; a process that dies or hangs is one of the outcomes."""
    number = 0
    while number < count:
        stop = min(count, number + MUTATIONS_PER_WORKER)
        ours, theirs = multiprocessing.Pipe()
        worker = multiprocessing.get_context("fork").Process(
            target=_work, args=(range(number, stop), templates, folder, theirs)
        )
        worker.start()
        theirs.close()
        lost = False
        while number < stop and not lost:
            report = _receive(ours, worker, folder)
            yield number, report
            number += 1
            lost = report.get("lost", False)
        worker.kill()
        worker.join()
        ours.close()


def _receive(pipe: Any, worker: Any, folder: Path) -> dict[str, Any]:
    lost = {"peak": 0, "lost": True}
    if not pipe.poll(20 + len(OPENERS) * SECONDS):
        return {**lost, "counts": {"hangs": 1}, "problems": ["the process hangs and ignores its alarm"]}
    try:
        report: dict[str, Any] = pipe.recv()
    except EOFError:
        worker.join()
        stderr = (folder / _STDERR).read_text()[-300:]
        return {**lost, "counts": {"crashes": 1}, "problems": [f"the process died | {worker.exitcode}, {stderr!r}"]}
    return report


def _work(numbers: range, templates: list[Template], folder: Path, pipe: Any) -> None:
    _redirect_streams(folder)
    for opener in OPENERS.values():  # so that imports and caches are not measured
        opener(lay_out(Mutant(templates[0].files, templates[0].step, False, folder / "m"), folder / "run"), "step-20")
    gc.freeze()  # the collections before each measurement skip the current objects
    # Far above the limit: unbounded memory must raise an error, not exhaust the machine.
    limit = process_bytes("VmSize") + (6 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in numbers:
        mutant = make_mutant(number, templates, folder)
        pipe.send(check_mutant(mutant, lay_out(mutant, folder / "run"), folder))


def _redirect_streams(folder: Path) -> None:
    """Redirect the standard streams and change into an empty folder."""
    os.chdir(folder / "here")
    nowhere = os.open(os.devnull, os.O_RDWR)
    stderr = os.open(folder / _STDERR, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream, handle in enumerate((nowhere, nowhere, stderr)):
        os.dup2(handle, stream)
    signal.signal(signal.SIGALRM, raise_timeout)
    torch.set_num_threads(1)
