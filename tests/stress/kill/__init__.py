"""Kill trainings with SIGKILL at random moments, and at every file-system call that a save makes.

Each training is resumed until it ends, and must end with the same bits as an uninterrupted one. Every step that was
reported as saved must exist after each kill. The trainings run the command line in forks of a process that has imported
torch but never computed with it.
"""

import importlib
import tempfile
from pathlib import Path

import torch

from stress.helpers import SCRATCH, without_warnings
from stress.kill.faults import STATE_PARTS
from stress.kill.setups import all_setups
from stress.kill.trials import Trials

LOADED_EARLY = ("charlm.cli.train_view", "sentencepiece", "safetensors.numpy", "torch._dynamo")
"""Modules that every fork would import again, which takes a second."""


def run_trials(kills: int = 200, every: int = 1, kinds: int = 6) -> dict[str, int]:
    """Kill ``kills`` times at random over the first ``kinds`` setups; then at every ``every``-th call of the saves."""
    torch.set_num_threads(1)
    for module in LOADED_EARLY:
        importlib.import_module(module)
    figures = dict.fromkeys(("kills", "runs", "within_a_save", "before_the_first_save", "ends_that_differ"), 0)
    figures["acknowledged_lost"] = 0
    with without_warnings(), tempfile.TemporaryDirectory(dir=SCRATCH) as home:
        trials = Trials(Path(home).resolve(), figures)
        trials.kill_at_random(all_setups(trials.home)[:kinds], kills)
        figures["calls_of_all_saves"], figures["kills_at_calls"] = trials.kill_at_every_call(every)
        figures["dropped_parts_noticed"] = trials.drop_every_part()
    assert figures["ends_that_differ"] == figures["acknowledged_lost"] == 0, figures
    assert figures["dropped_parts_noticed"] == len(STATE_PARTS), figures
    return figures
