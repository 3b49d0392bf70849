"""Helpers that run a trainer to the end, interrupt it, resume it, and compare two trainings."""

import hashlib
import json

import charlm
from charlm.checkpoint.step import ALL_FILES, open_checkpoint
from charlm.training.events import Stepped
from charlm.training.trainer import Trainer

BRIEF = {"hidden": 16, "layers": 1, "batch": 4, "bptt": 16, "eval_every": 5, "threads": 1, "device": "cpu",
         "precision": "fp32"}  # fmt: skip


def brief(text_file, out, steps=6, **options):
    """``charlm.train`` with a tiny model and a few steps."""
    return charlm.train(text_file, out=out, steps=steps, **{**BRIEF, **options})


def digest(trainer) -> str:
    """A hash of the last weights and the averaged ones."""
    last = trainer.model.weights()
    with trainer.state.average.applied():
        averaged = trainer.model.weights()
    return hashlib.sha256(b"".join(w[name].tobytes() for w in (last, averaged) for name in sorted(w))).hexdigest()


def train(trainer, interrupt_after=None, on=lambda event: None):
    """Train to the end, or save and stop after ``interrupt_after`` steps; returns all events."""
    events = []
    for event in trainer.events():
        events.append(event)
        on(event)
        if isinstance(event, Stepped) and event.step == interrupt_after:
            trainer.stop()
    return events


def resumed(trainer, names=ALL_FILES):
    """A new trainer that resumes from the latest step of ``trainer``'s run."""
    checkpoint = open_checkpoint(trainer.run, "latest", names)
    return Trainer.resume(trainer.run, trainer.corpus, checkpoint, trainer.config)


def resumed_with(trainer, clock):
    """The same on another clock."""
    checkpoint = open_checkpoint(trainer.run, "latest", ALL_FILES)
    return Trainer.resume(trainer.run, trainer.corpus, checkpoint, trainer.config, clock)


def metrics_of(trainer):
    """The entries of metrics.jsonl."""
    return [json.loads(line) for line in (trainer.run / "metrics.jsonl").read_text().splitlines()]
