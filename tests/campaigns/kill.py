"""Trainings killed by SIGKILL at any moment, and at every call to the file system that a save makes.

Each is resumed until it ends, and must end bit by bit like one that nobody disturbed; what it had said to be saved must
be there after every kill. The trainings are real ones, by the command line, in forks of a process that has loaded torch
once and never computed with it.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from campaigns.power import IN_MEMORY, Call, watched, without_warnings
from charlm import checkpoint as ckpt
from charlm import native, training
from charlm.cli import app
from charlm.errors import CharlmError
from charlm.events import Saved
from charlm.schedule import Plateau
from charlm.training import Trainer

LOADED_EARLY = ("charlm.cli.train_view", "sentencepiece", "safetensors.numpy", "torch._dynamo")
"""What a training would load, and every fork of it again: a second's work."""
MOST_KILLS_IN_A_RUN = 5
CLOCKS = ("seconds", "evaluation_seconds")
HALF_MADE = (".unfinished", ".aside", ".deleted")
TIMEOUT = 120


def campaign(kills: int = 200, every: int = 1, kinds: int = 6) -> dict[str, int]:
    """``kills`` at random times over the first ``kinds`` kinds of training; then at one of ``every`` calls of saves."""
    torch.set_num_threads(1)
    for module in LOADED_EARLY:
        importlib.import_module(module)
    figures = dict.fromkeys(("kills", "runs", "within_a_save", "before_the_first_save", "ends_that_differ"), 0)
    figures["acknowledged_lost"] = 0
    with without_warnings(), tempfile.TemporaryDirectory(dir=IN_MEMORY) as home:
        trials = _Trials(Path(home).resolve(), figures)
        trials.kill_at_random(_kinds(trials.home)[:kinds], kills)
        figures["calls_of_all_saves"], figures["kills_at_calls"] = trials.kill_at_every_call(every)
        figures["dropped_parts_noticed"] = trials.drop_every_part()
    assert figures["ends_that_differ"] == figures["acknowledged_lost"] == 0, figures
    assert figures["dropped_parts_noticed"] == len(_PARTS), figures
    return figures


# ---------------------------------------------------------------------------------------------------- what is trained


@dataclass(frozen=True)
class Kind:
    """A training: a text, options, and what runs it."""

    text: Path
    options: tuple[str, ...]
    engine: str = "native"


_MODEL = (
    "--layers", "2", "--hidden", "24", "--embedding", "16", "--dropout-input", "0.1", "--dropout-hidden", "0.2",
    "--dropout-output", "0.2", "--weight-drop", "0.2", "--lr", "5e-3", "--warmup", "3", "--seed", "3",
    "--device", "cpu", "--threads", "1", "--quiet",
)  # fmt: skip
_STREAMS = ("--batch", "8", "--bptt", "30")
_LINES = ("--documents", "lines", "--split", "80/10/10", "--batch", "30", "--bptt", "25")
_OFTEN = ("--steps", "48", "--eval-every", "7", "--save-every", "3")
_WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "naïve", "dogs", "run"]


def _kinds(home: Path) -> list[Kind]:
    """Running text and lines, on both engines; in bfloat16, too, where the native engine is there."""
    salad, lines = home / "salad.txt", home / "lines.txt"
    draw = random.Random(1)
    salad.write_text(" ".join(draw.choice(_WORDS) for _ in range(1400)), encoding="utf-8")
    lengths = [draw.choice([1, 2, 3, 4, 5, 30]) for _ in range(300)]
    lines.write_text("\n".join(" ".join(draw.choice(_WORDS) for _ in range(length)) for length in lengths), "utf-8")
    texts = [(salad, _STREAMS), (lines, _LINES)]
    there = native.find() is not None
    runs_by = [("native", "fp32"), ("torch", "fp32"), ("native", "bf16")] if there else [("torch", "fp32")]
    return [
        Kind(text, (*_MODEL, *options, *_OFTEN, "--precision", precision), engine)
        for engine, precision in runs_by
        for text, options in texts
    ]


def _short(home: Path) -> Kind:
    """A few steps with saves of all sorts: the first, a better one, one of the same step again, the last."""
    steps = ("--steps", "12", "--eval-every", "6", "--save-every", "4", "--precision", "fp32")
    return Kind(home / "salad.txt", (*_MODEL, *_STREAMS, *steps), "auto")


def _noise(home: Path) -> Kind:
    """A text from which nothing can be learnt, so that the rate is lowered soon."""
    path = home / "noise.txt"
    path.write_text("".join(random.Random(1).choices("abcdefghij", k=5000)))
    steps = ("--lr", "0.1", "--steps", "60", "--eval-every", "2", "--save-every", "3", "--precision", "fp32")
    return Kind(path, (*_MODEL, *_STREAMS, *steps), "auto")


# ---------------------------------------------------------------------------------------------------- one process


@dataclass
class Ended:
    """How a process ended: killed, or with an exit code; and what it had reported."""

    killed: bool
    code: int
    reports: list[dict[str, int]]
    seconds: float
    said: str

    @property
    def saved(self) -> int:
        """The last step that was said to be saved; 0 if none was."""
        return max((report["saved"] for report in self.reports if "saved" in report), default=0)


Report = Callable[..., None]


def _run(
    kind: Kind, run: Path, kill_after: float | None = None, disturb: Callable[[Report], None] = lambda report: None
) -> Ended:
    """``charlm train`` in a process of its own, begun or resumed as a person would; ``disturb`` is called first."""
    resumable = bool(ckpt.step_numbers(run))
    arguments = ["--resume", "--quiet"] if resumable else [str(kind.text), *kind.options]
    reader, writer = os.pipe()
    began = time.monotonic()
    process = os.fork()
    if not process:
        os.close(reader)
        _be_charlm(["train", *arguments, "--out", str(run)], kind.engine, writer, run.with_suffix(".log"), disturb)
    os.close(writer)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process, signal.SIGKILL)  # one that has ended by itself waits below to be asked, and takes no notice
    with open(reader, encoding="utf-8") as pipe:
        lines = pipe.read().splitlines()
    status = os.waitpid(process, 0)[1]
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    code = os.waitstatus_to_exitcode(status)
    said = run.with_suffix(".log").read_text("utf-8", "replace") if run.with_suffix(".log").exists() else ""
    return Ended(killed, code, [json.loads(line) for line in lines], time.monotonic() - began, said)


def _be_charlm(arguments: list[str], engine: str, writer: int, log: Path, disturb: Callable[[Report], None]) -> None:
    """Never returns: the process ends as the command does."""

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
    """Let every training report a save at the moment at which whoever listens to it hears of it."""
    genuine = Trainer.events

    def events(trainer: Trainer) -> Iterator[Any]:
        for event in genuine(trainer):
            if isinstance(event, Saved):
                cursor = trainer.progress.cursor
                report(saved=event.step, rows=trainer.batches.rows(cursor), epochs=int(trainer.batches.epochs(cursor)))
            yield event

    Trainer.events = events


# ---------------------------------------------------------------------------------------------------- how it ended


def _end(run: Path) -> dict[str, Any]:
    """All that a run holds at its end, but for what tells the time."""
    opened = ckpt.open_checkpoint(run, "latest", ckpt.ALL_FILES)
    state = json.loads(opened.files[ckpt.STATE])
    config = {name: value for name, value in opened.config.items() if name not in CLOCKS}
    for clock in CLOCKS:
        del state["progress"][clock]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "model": hashlib.sha256(opened.files[ckpt.MODEL]).hexdigest(),
        "tensors": hashlib.sha256(opened.files[ckpt.STATE_TENSORS]).hexdigest(),
        "state": state,
        "config": config,
        "steps": ckpt.step_numbers(run),
        "best": ckpt.open_checkpoint(run).step,
        "metrics": [{name: value for name, value in line.items() if name not in CLOCKS} for line in lines],
        "half_made": [path.name for path in run.iterdir() if path.name.startswith(HALF_MADE)],
    }


class _Trials:
    """Trainings in the folder ``home``; what they find goes to ``figures``."""

    def __init__(self, home: Path, figures: dict[str, int]) -> None:
        self.home = home
        self._figures = figures
        self._number = 0

    def _undisturbed(self, kind: Kind) -> tuple[dict[str, Any], Ended]:
        run = self.home / "whole"
        ended = _run(kind, run)
        assert ended.code == 0, ended
        end = _end(run)
        shutil.rmtree(run)
        return end, ended

    @contextlib.contextmanager
    def _new_run(self) -> Iterator[Path]:
        self._number += 1
        run = self.home / f"run-{self._number}"
        yield run
        shutil.rmtree(run)
        run.with_suffix(".log").unlink()

    def _check_end(self, run: Path, whole: dict[str, Any]) -> None:
        self._figures["runs"] += 1
        self._figures["ends_that_differ"] += _end(run) != whole

    def _check_kept(self, run: Path, acknowledged: int) -> None:
        """After a kill: the newest step is whole, and no older than what was said to be saved."""
        steps = ckpt.step_numbers(run)
        try:
            newest = ckpt.open_checkpoint(run, "latest", ckpt.ALL_FILES).step if steps else 0
        except CharlmError:
            newest = -1
        self._figures["acknowledged_lost"] += newest < acknowledged or newest != max(steps, default=0)
        if run.exists():
            self._figures["within_a_save"] += any(path.name.startswith(HALF_MADE) for path in run.iterdir())
        self._figures["before_the_first_save"] += not steps

    # ------------------------------------------------------------------------------------------------ at random

    def kill_at_random(self, kinds: list[Kind], kills: int) -> None:
        """Kill trainings of all kinds in turn, each a few times."""
        draw, wholes = random.Random(1), []
        for kind in kinds:
            end, ended = self._undisturbed(kind)
            self._check_crossings(ended, "lines" in kind.options)
            wholes.append((end, ended.seconds))
        while self._figures["kills"] < kills:
            for kind, (end, seconds) in zip(kinds, wholes, strict=True):
                self._kill_some(kind, end, seconds, draw, kills)

    def _check_crossings(self, ended: Ended, lines: bool) -> None:
        """A training is worth killing if it goes over the ends of epochs, and saves within documents and between."""
        saves = [report for report in ended.reports if "saved" in report]
        assert saves[-1]["epochs"] >= 1, saves
        rows = {report["rows"] for report in saves}
        assert max(rows) > 0, rows
        assert not lines or len(rows) > 2, rows

    def _kill_some(self, kind: Kind, whole: dict[str, Any], seconds: float, draw: random.Random, kills: int) -> None:
        left, acknowledged = draw.randint(1, MOST_KILLS_IN_A_RUN), 0
        with self._new_run() as run:
            while True:
                wanted = left > 0 and self._figures["kills"] < kills
                ended = _run(kind, run, draw.uniform(0, seconds) if wanted else None)
                acknowledged, left = max(acknowledged, ended.saved), left - 1
                if not ended.killed:
                    assert ended.code == 0, ended
                    break
                self._figures["kills"] += 1
                self._check_kept(run, acknowledged)
            self._check_end(run, whole)

    # ------------------------------------------------------------------------------------------------ at every call

    def kill_at_every_call(self, every: int) -> tuple[int, int]:
        """Kill right before and right after each call of all saves of a short training; the calls, and the kills."""
        kind, counter = _short(self.home), _Killer(-1, False)
        whole, _ = self._undisturbed(kind)
        with self._new_run() as run:
            ended = _run(kind, run, disturb=lambda report: counter.watch(run, report))
            self._check_end(run, whole)
        calls = max(report.get("calls", 0) for report in ended.reports)
        places = [(number, before) for number in range(calls) for before in (True, False)][::every]
        for number, before in places:
            self._kill_at(kind, whole, _Killer(number, before))
        return calls, len(places)

    def _kill_at(self, kind: Kind, whole: dict[str, Any], killer: "_Killer") -> None:
        with self._new_run() as run:
            ended = _run(kind, run, disturb=lambda report: killer.watch(run, report))
            assert ended.killed, ended
            self._check_kept(run, ended.saved)
            ended = _run(kind, run)
            assert ended.code == 0, (killer.number, killer.before, ended)
            self._check_end(run, whole)

    # ------------------------------------------------------------------------------------------------ left out

    def drop_every_part(self) -> int:
        """Of how many parts of the state it is noticed at the end that they were left out when it was resumed."""
        kind = _noise(self.home)
        whole, _ = self._undisturbed(kind)
        with self._new_run() as killed:
            ended = _run(kind, killed, disturb=lambda report: _die_once_all_parts_matter())
            assert ended.killed, ended
            assert not self._differs_without(None, kind, killed, whole), "the control must end like the whole"
            return sum(self._differs_without(part, kind, killed, whole) for part in _PARTS)

    def _differs_without(self, part: str | None, kind: Kind, killed: Path, whole: dict[str, Any]) -> bool:
        with self._new_run() as run:
            shutil.copytree(killed, run)
            ended = _run(kind, run, disturb=lambda report: _drop(part))
            assert ended.code == 0, ended
            end = _end(run)
            return end["model"] != whole["model"] and end["tensors"] != whole["tensors"]


class _Killer:
    """Kills its own process before or after call ``number`` of all that ``save_step`` and ``keep_only`` make."""

    def __init__(self, number: int, before: bool) -> None:
        self.number, self.before = number, before
        self._calls, self._within = 0, False

    def watch(self, run: Path, report: Report) -> None:
        """Watch the saves of this process from now on."""
        self._report = report
        ckpt.save_step, ckpt.keep_only = self._entered(ckpt.save_step), self._entered(ckpt.keep_only)
        self._watching = watched(run, self)  # kept, for it would end with its last reference
        self._watching.__enter__()

    def _entered(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def entered(*arguments: Any) -> Any:
            self._within = True
            try:
                return function(*arguments)
            finally:
                self._within = False
                self._report(calls=self._calls)

        return entered

    def __call__(self, call: Call, perform: Callable[..., Any]) -> Any:
        if not self._within:
            return perform()
        mine = self._calls == self.number
        self._calls += 1
        if mine and self.before:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return perform()
        finally:  # also where there was nothing to remove
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)


def _die_once_all_parts_matter() -> None:
    """Be killed after a save in the middle of an epoch, when the rate has been lowered and some way is left to go."""
    genuine = Trainer.events

    def events(trainer: Trainer) -> Iterator[Any]:
        for event in genuine(trainer):
            carried = trainer.batches.rows(trainer.progress.cursor) > 0
            if isinstance(event, Saved) and carried and trainer.schedule.plateau.factor < 1.0:
                os.kill(os.getpid(), signal.SIGKILL)
            yield event

    Trainer.events = events


def _zero(trainer: Trainer, which: int) -> None:
    trainer.state = tuple(
        tuple(torch.zeros_like(tensor) if place == which else tensor for place, tensor in enumerate(pair))
        for pair in trainer.state
    )


def _to_the_beginning(trainer: Trainer) -> None:
    trainer.progress = dataclasses.replace(trainer.progress, part=0, chunk=0)


_PARTS: dict[str, Callable[[Trainer], Any]] = {
    "h": lambda trainer: _zero(trainer, 0),
    "c": lambda trainer: _zero(trainer, 1),
    "generator": lambda trainer: trainer.generator.manual_seed(trainer.config.seed),
    "optimizer": lambda trainer: trainer.optimizer.state.clear(),
    "scheduler": lambda trainer: setattr(trainer.schedule, "plateau", Plateau()),
    "cursor": _to_the_beginning,
}


def _drop(part: str | None) -> None:
    """Let whatever this process resumes begin anew with one part of its state."""
    genuine = training.restore

    def restore(trainer: Trainer, *arguments: Any) -> None:
        genuine(trainer, *arguments)
        if part is not None:
            _PARTS[part](trainer)

    training.restore = restore
