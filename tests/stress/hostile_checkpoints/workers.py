"""Processes that open mutants, one after another: they may die or stand still, and the stress test goes on."""

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

from stress.hostile_checkpoints.checks import judged
from stress.hostile_checkpoints.mutant import Mutant, lay_out
from stress.hostile_checkpoints.mutations import make_mutant
from stress.hostile_checkpoints.openers import OPENERS, SECONDS, process_bytes, raise_hung
from stress.hostile_checkpoints.templates import Template

_SAID = "said-by-the-worker"
A_WORKER = 250
"""Mutations that one process opens before another takes over."""


def reports(count: int, templates: list[Template], folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """What came of every mutation; a process that dies or stands still is one of the results."""
    number = 0
    while number < count:
        stop = min(count, number + A_WORKER)
        ours, theirs = multiprocessing.Pipe()
        worker = multiprocessing.get_context("fork").Process(
            target=_work, args=(range(number, stop), templates, folder, theirs)
        )
        worker.start()
        theirs.close()
        lost = False
        while number < stop and not lost:
            report = _received(ours, worker, folder)
            yield number, report
            number += 1
            lost = report.get("lost", False)
        worker.kill()
        worker.join()
        ours.close()


def _received(pipe: Any, worker: Any, folder: Path) -> dict[str, Any]:
    lost = {"peak": 0, "lost": True}
    if not pipe.poll(20 + len(OPENERS) * SECONDS):
        return {**lost, "counts": {"hangs": 1}, "problems": ["the process stands still, deaf to its alarm"]}
    try:
        report: dict[str, Any] = pipe.recv()
    except EOFError:
        worker.join()
        said = (folder / _SAID).read_text()[-300:]
        return {**lost, "counts": {"crashes": 1}, "problems": [f"the process died | {worker.exitcode}, {said!r}"]}
    return report


def _work(numbers: range, templates: list[Template], folder: Path, pipe: Any) -> None:
    _become_quiet(folder)
    for opener in OPENERS.values():  # so that imports and caches are no part of what is measured
        opener(lay_out(Mutant(templates[0].files, templates[0].step, False, folder / "m"), folder / "run"), "step-20")
    gc.freeze()  # what is there now is not looked through again whenever memory is measured
    # Far above what is allowed: memory without end must end as an error, not as a dead machine.
    limit = process_bytes("VmSize") + (6 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in numbers:
        mutant = make_mutant(number, templates, folder)
        pipe.send(judged(mutant, lay_out(mutant, folder / "run"), folder))


def _become_quiet(folder: Path) -> None:
    """Nothing to read, nothing shown, and an empty folder to be in."""
    os.chdir(folder / "here")
    nowhere = os.open(os.devnull, os.O_RDWR)
    said = os.open(folder / _SAID, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream, handle in enumerate((nowhere, nowhere, said)):
        os.dup2(handle, stream)
    signal.signal(signal.SIGALRM, raise_hung)
    torch.set_num_threads(1)
