"""Kills at random times and at every call of a save; and trainings resumed without a part of their state."""

import contextlib
import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.step import ALL_FILES, MODEL, STATE, STATE_TENSORS, open_checkpoint
from charlm.errors import CharlmError
from stress.helpers import leftovers
from stress.kill.faults import STATE_PARTS, Killer, drop, kill_when_every_part_matters
from stress.kill.process import Ended, train
from stress.kill.setups import Setup, noise_setup, short_setup

MAX_KILLS_PER_RUN = 5
CLOCKS = ("seconds", "preparation_seconds", "evaluation_seconds")


class Trials:
    """Trainings in the folder ``home``, which count their results in ``figures``."""

    def __init__(self, home: Path, figures: dict[str, int]) -> None:
        self.home = home
        self._figures = figures
        self._number = 0

    def _train_uninterrupted(self, kind: Setup) -> tuple[dict[str, Any], Ended]:
        run = self.home / "uninterrupted"
        ended = train(kind, run)
        assert ended.code == 0, ended
        end = end_of(run)
        shutil.rmtree(run)
        return end, ended

    @contextlib.contextmanager
    def _new_run(self) -> Iterator[Path]:
        self._number += 1
        run = self.home / f"run-{self._number}"
        yield run
        shutil.rmtree(run)
        run.with_suffix(".log").unlink()

    def _check_end(self, run: Path, uninterrupted: dict[str, Any]) -> None:
        self._figures["runs"] += 1
        self._figures["ends_that_differ"] += end_of(run) != uninterrupted

    def _check_kept(self, run: Path, acknowledged: int) -> None:
        """Check after a kill that the newest step is whole and not older than the last reported one."""
        steps = RunFolder(run).step_numbers()
        try:
            newest = open_checkpoint(run, "latest", ALL_FILES).step if steps else 0
        except CharlmError:
            newest = -1
        self._figures["acknowledged_lost"] += newest < acknowledged or newest != max(steps, default=0)
        if run.exists():
            self._figures["within_a_save"] += bool(leftovers(run))
        self._figures["before_the_first_save"] += not steps

    # ------------------------------------------------------------------------------------------------ at random

    def kill_at_random(self, kinds: list[Setup], kills: int) -> None:
        """Kill trainings of every setup in turn, each a few times."""
        draw, references = random.Random(1), []
        for kind in kinds:
            end, ended = self._train_uninterrupted(kind)
            self._check_epochs_and_documents(ended, "lines" in kind.options)
            references.append((end, ended.seconds))
        while self._figures["kills"] < kills:
            for kind, (end, seconds) in zip(kinds, references, strict=True):
                self._kill_some(kind, end, seconds, draw, kills)

    def _check_epochs_and_documents(self, ended: Ended, lines: bool) -> None:
        """Check that a training crosses the end of an epoch, and saves within documents and between them."""
        saves = [report for report in ended.reports if "saved" in report]
        assert saves[-1]["epochs"] >= 1, saves
        rows = {report["rows"] for report in saves}
        assert max(rows) > 0, rows
        assert not lines or len(rows) > 2, rows

    def _kill_some(
        self, kind: Setup, uninterrupted: dict[str, Any], seconds: float, draw: random.Random, kills: int
    ) -> None:
        left, acknowledged = draw.randint(1, MAX_KILLS_PER_RUN), 0
        with self._new_run() as run:
            while True:
                wanted = left > 0 and self._figures["kills"] < kills
                ended = train(kind, run, draw.uniform(0, seconds) if wanted else None)
                acknowledged, left = max(acknowledged, ended.saved), left - 1
                if not ended.killed:
                    assert ended.code == 0, ended
                    break
                self._figures["kills"] += 1
                self._check_kept(run, acknowledged)
            self._check_end(run, uninterrupted)

    # ------------------------------------------------------------------------------------------------ at every call

    def kill_at_every_call(self, every: int) -> tuple[int, int]:
        """Kill a short training before and after each call of its saves; returns the numbers of calls and kills."""
        kind, counter = short_setup(self.home), Killer(-1, False)
        uninterrupted, _ = self._train_uninterrupted(kind)
        with self._new_run() as run:
            ended = train(kind, run, disturb=lambda report: counter.watch(run, report))
            self._check_end(run, uninterrupted)
        calls = max(report.get("calls", 0) for report in ended.reports)
        places = [(number, before) for number in range(calls) for before in (True, False)][::every]
        for number, before in places:
            self._kill_at(kind, uninterrupted, Killer(number, before))
        return calls, len(places)

    def _kill_at(self, kind: Setup, uninterrupted: dict[str, Any], killer: "Killer") -> None:
        with self._new_run() as run:
            ended = train(kind, run, disturb=lambda report: killer.watch(run, report))
            assert ended.killed, ended
            self._check_kept(run, ended.saved)
            ended = train(kind, run)
            assert ended.code == 0, (killer.number, killer.before, ended)
            self._check_end(run, uninterrupted)

    # ------------------------------------------------------------------------------------------------ lost state

    def drop_every_part(self) -> int:
        """Resume without each part of the state; returns how many of the parts change the final weights."""
        kind = noise_setup(self.home)
        uninterrupted, _ = self._train_uninterrupted(kind)
        with self._new_run() as killed:
            ended = train(kind, killed, disturb=lambda report: kill_when_every_part_matters())
            assert ended.killed, ended
            assert not self._differs_without(None, kind, killed, uninterrupted), "the whole state must end the same"
            return sum(self._differs_without(part, kind, killed, uninterrupted) for part in STATE_PARTS)

    def _differs_without(self, part: str | None, kind: Setup, killed: Path, uninterrupted: dict[str, Any]) -> bool:
        with self._new_run() as run:
            shutil.copytree(killed, run)
            ended = train(kind, run, disturb=lambda report: drop(part))
            assert ended.code == 0, ended
            end = end_of(run)
            return end["model"] != uninterrupted["model"] and end["tensors"] != uninterrupted["tensors"]


def end_of(run: Path) -> dict[str, Any]:
    """Everything that a finished run holds, except for times."""
    opened = open_checkpoint(run, "latest", ALL_FILES)
    state = json.loads(opened.files[STATE])
    config = {name: value for name, value in opened.config.items() if name not in CLOCKS}
    for clock in CLOCKS:
        del state["progress"][clock]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "model": hashlib.sha256(opened.files[MODEL]).hexdigest(),
        "tensors": hashlib.sha256(opened.files[STATE_TENSORS]).hexdigest(),
        "state": state,
        "config": config,
        "steps": RunFolder(run).step_numbers(),
        "best": open_checkpoint(run).step,
        "metrics": [{name: value for name, value in line.items() if name not in CLOCKS} for line in lines],
        "half_made": leftovers(run),
    }
