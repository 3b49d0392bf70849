"""Non-finite losses and gradients, in single steps and in many steps in a row.

A single bad step must change no weight. Many in a row must roll back once to the last good checkpoint, with a lower
learning rate, and the second time end the training with an error. No checkpoint may ever hold a non-finite number.
"""

import math
import random
import tempfile
from pathlib import Path

import torch

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.step import ALL_FILES, MODEL, STATE_TENSORS, open_checkpoint
from charlm.checkpoint.tensors import tensors_from_bytes
from charlm.checkpoint.weights import weights_from_bytes
from charlm.config import ModelConfig, TrainingConfig
from charlm.corpus.preparation import prepare
from charlm.corpus.text import open_source
from charlm.errors import DivergedError
from charlm.training import update
from charlm.training.events import RolledBack, Saved, Stepped
from charlm.training.trainer import MAX_SKIPPED_IN_A_ROW, Trainer

STEPS, POISONED = 200, 50


def run_trials(trials: int = 10) -> dict[str, int]:
    """``trials`` runs of ``STEPS`` steps for each kind of failure."""
    figures = {"poisoned_steps": 0, "weights_changed_by_them": 0, "rollbacks": 0, "clear_stops": 0, "checkpoints": 0}
    with tempfile.TemporaryDirectory() as folder:
        corpus = _corpus(Path(folder))
        for trial in range(trials):
            draw = random.Random(trial)
            for kind in ("loss", "gradient"):
                _single(_trainer(Path(folder) / f"single-{kind}-{trial}", corpus), kind, draw, figures)
                _in_a_row(_trainer(Path(folder) / f"passing-{kind}-{trial}", corpus), kind, draw, True, figures)
                _in_a_row(_trainer(Path(folder) / f"lasting-{kind}-{trial}", corpus), kind, draw, False, figures)
    assert figures["weights_changed_by_them"] == 0
    return {"trials": trials * 6, **figures, "checkpoints_not_finite": 0}


def _corpus(folder: Path):
    draw = random.Random(1)
    path = folder / "text.txt"
    path.write_text(" ".join(draw.choice(["the", "cat", "sat", "on", "a", "mat"]) for _ in range(4000)))
    return prepare(folder / "corpus", open_source([str(path)]))


def _trainer(run: Path, corpus) -> Trainer:
    run.mkdir()
    config = TrainingConfig(
        lr=5e-3,
        warmup=3,
        batch=4,
        bptt=16,
        eval_every=20,
        save_every=7,
        save_every_unit="steps",
        steps=STEPS,
        threads=1,
    )
    return Trainer(run, corpus, ModelConfig(corpus.tokenizer.vocabulary_size, 1, 16, 16), config)


class _Poison:
    """Makes the loss, or a gradient, of chosen steps non-finite."""

    def __init__(self, trainer: Trainer, kind: str, is_bad) -> None:
        self._trainer, self._kind, self._is_bad = trainer, kind, is_bad
        self._original = update.cross_entropy

    def __enter__(self):
        if self._kind == "loss":
            update.cross_entropy = lambda logits, targets: self._original(logits, targets) * self._factor()
        else:
            self._hook = self._trainer.model.layers()[0].weight_hh.register_hook(lambda g: g * self._factor())
        return self

    def __exit__(self, *error):
        update.cross_entropy = self._original
        if self._kind == "gradient":
            self._hook.remove()

    def _factor(self) -> float:
        step = self._trainer.progress.step
        return random.Random(step).choice([math.nan, math.inf, -math.inf]) if self._is_bad(step) else 1.0


def _weights(trainer: Trainer) -> bytes:
    return b"".join(parameter.detach().numpy().tobytes() for parameter in trainer.model.parameters())


def _single(trainer: Trainer, kind: str, draw: random.Random, figures: dict[str, int]) -> None:
    bad = set(draw.sample(range(STEPS), POISONED))
    before = _weights(trainer)
    with _Poison(trainer, kind, bad.__contains__):
        for event in trainer.events():
            if isinstance(event, Stepped):
                assert event.skipped == (event.step - 1 in bad)
                figures["poisoned_steps"] += event.skipped
                figures["weights_changed_by_them"] += event.skipped and _weights(trainer) != before
                before = _weights(trainer)
            _check(trainer, event, figures)
    assert trainer.progress.step == STEPS


def _in_a_row(trainer: Trainer, kind: str, draw: random.Random, passes: bool, figures: dict[str, int]) -> None:
    first, left = draw.randrange(25, 120), [MAX_SKIPPED_IN_A_ROW if passes else 10**9]

    def is_bad(step: int) -> bool:
        if step < first or not left[0]:
            return False
        left[0] -= 1
        return True

    backs, stopped = 0, False
    with _Poison(trainer, kind, is_bad):
        try:
            for event in trainer.events():
                figures["poisoned_steps"] += isinstance(event, Stepped) and event.skipped
                backs += isinstance(event, RolledBack)
                _check(trainer, event, figures)
        except DivergedError as error:
            assert error.exit_code == 70
            stopped = True
    assert (backs, stopped) == (1, not passes)
    figures["rollbacks"] += backs
    figures["clear_stops"] += stopped
    for step in RunFolder(trainer.run).step_numbers():
        _finite(trainer.run / f"step-{step}", trainer)


def _check(trainer: Trainer, event, figures: dict[str, int]) -> None:
    if isinstance(event, Saved):
        figures["checkpoints"] += 1
        _finite(event.path, trainer)


def _finite(path: Path, trainer: Trainer) -> None:
    """Raises unless all weights and optimizer states of a checkpoint are finite."""
    opened = open_checkpoint(path, names=ALL_FILES)
    weights_from_bytes(opened.files[MODEL], str(path), trainer.model.config.parameter_shapes())
    for name, array in tensors_from_bytes(opened.files[STATE_TENSORS], str(path)).items():
        assert torch.isfinite(torch.from_numpy(array.copy()).float()).all(), (path, name)
