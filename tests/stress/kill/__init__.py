"""Trainings killed by SIGKILL at any moment, and at every call to the file system that a save makes.

Each is resumed until it ends, and must end bit by bit like one that nobody disturbed; what it had said to be saved must
be there after every kill. The trainings are real ones, by the command line, in forks of a process that has loaded torch
once and never computed with it.
"""

import importlib
import tempfile
from pathlib import Path

import torch

from stress.helpers import SCRATCH, without_warnings
from stress.kill.faults import PARTS
from stress.kill.setups import all_kinds
from stress.kill.trials import Trials

LOADED_EARLY = ("charlm.cli.train_view", "sentencepiece", "safetensors.numpy", "torch._dynamo")
"""What a training would load, and every fork of it again: a second's work."""


def run_trials(kills: int = 200, every: int = 1, kinds: int = 6) -> dict[str, int]:
    """``kills`` at random times over the first ``kinds`` kinds of training; then at one of ``every`` calls of saves."""
    torch.set_num_threads(1)
    for module in LOADED_EARLY:
        importlib.import_module(module)
    figures = dict.fromkeys(("kills", "runs", "within_a_save", "before_the_first_save", "ends_that_differ"), 0)
    figures["acknowledged_lost"] = 0
    with without_warnings(), tempfile.TemporaryDirectory(dir=SCRATCH) as home:
        trials = Trials(Path(home).resolve(), figures)
        trials.kill_at_random(all_kinds(trials.home)[:kinds], kills)
        figures["calls_of_all_saves"], figures["kills_at_calls"] = trials.kill_at_every_call(every)
        figures["dropped_parts_noticed"] = trials.drop_every_part()
    assert figures["ends_that_differ"] == figures["acknowledged_lost"] == 0, figures
    assert figures["dropped_parts_noticed"] == len(PARTS), figures
    return figures
