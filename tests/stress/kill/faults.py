"""Faults injected into a training's own process: a kill at a call or an event, or a lost part of its state."""

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.step import save_step
from charlm.training.averaging import Average
from charlm.training.events import Saved
from charlm.training.schedule import Plateau
from charlm.training.trainer import Trainer
from stress.kill.process import Report, observe_events
from stress.recorder import Call, intercept_calls, replace_saves


class Killer:
    """Kills its own process before or after call ``number`` of the calls that ``save_step`` and ``keep_only`` make."""

    def __init__(self, number: int, before: bool) -> None:
        self.number, self.before = number, before
        self._calls, self._within = 0, False

    def watch(self, run: Path, report: Report) -> None:
        """Intercept the calls of this process's saves from now on."""
        self._report = report
        replace_saves(self._entered(save_step), self._entered(RunFolder.keep_only))
        self._watching = intercept_calls(run, self)  # kept, because the interception ends with its last reference
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
        finally:  # also if there was nothing to remove
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)


def kill_when_every_part_matters() -> None:
    """Kill the training after a save in the middle of an epoch, once the learning rate has been lowered."""

    def die(trainer: Trainer, event: Any) -> None:
        carried = trainer.batches.carried_rows(trainer.progress.cursor) > 0
        if isinstance(event, Saved) and carried and trainer.state.schedule.plateau.factor < 1.0:
            os.kill(os.getpid(), signal.SIGKILL)

    observe_events(die)


def _zero(trainer: Trainer, which: int) -> None:
    trainer.state.carried = tuple(
        tuple(torch.zeros_like(tensor) if place == which else tensor for place, tensor in enumerate(pair))
        for pair in trainer.state.carried
    )


def _reset_average(trainer: Trainer) -> None:
    trainer.state.average = Average(trainer.model, trainer.config)


def _reset_cursor(trainer: Trainer) -> None:
    trainer.state.progress = dataclasses.replace(trainer.progress, part=0, chunk=0)


STATE_PARTS: dict[str, Callable[[Trainer], Any]] = {
    "h": lambda trainer: _zero(trainer, 0),
    "c": lambda trainer: _zero(trainer, 1),
    "generator": lambda trainer: trainer.state.generator.manual_seed(trainer.config.seed),
    "optimizer": lambda trainer: trainer.state.optimizer.state.clear(),
    "scheduler": lambda trainer: setattr(trainer.state.schedule, "plateau", Plateau()),
    "cursor": _reset_cursor,
    "average": _reset_average,
}


def drop(part: str | None) -> None:
    """Let every training that this process resumes lose one part of its state."""
    original = Trainer._restore

    def restore(trainer: Trainer, *arguments: Any) -> None:
        original(trainer, *arguments)
        if part is not None:
            STATE_PARTS[part](trainer)

    Trainer._restore = restore
