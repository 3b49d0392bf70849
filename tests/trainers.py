"""Runs a trainer in a test: whole, interrupted, resumed; and tells two trainings apart."""

import hashlib
import json

from charlm.checkpoint.step import ALL_FILES, open_checkpoint
from charlm.training.events import Stepped
from charlm.training.trainer import Trainer


def digest(trainer) -> str:
    """Of the last weights and of the averaged ones."""
    last = trainer.model.weights()
    with trainer.state.average.applied():
        averaged = trainer.model.weights()
    return hashlib.sha256(b"".join(w[name].tobytes() for w in (last, averaged) for name in sorted(w))).hexdigest()


def train(trainer, interrupt_after=None, on=lambda event: None):
    """Run to the end, or save and stop after a number of steps."""
    events = []
    for event in trainer.events():
        events.append(event)
        on(event)
        if isinstance(event, Stepped) and event.step == interrupt_after:
            trainer.stop()
    return events


def resumed(trainer, names=ALL_FILES):
    checkpoint = open_checkpoint(trainer.run, "latest", names)
    return Trainer.resume(trainer.run, trainer.corpus, checkpoint, trainer.config)


def metrics_of(trainer):
    return [json.loads(line) for line in (trainer.run / "metrics.jsonl").read_text().splitlines()]
