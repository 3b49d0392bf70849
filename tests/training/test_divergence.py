import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from conftest import BRIEF
from trainers import digest, metrics_of, resumed, train

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.step import MODEL, open_checkpoint
from charlm.checkpoint.weights import weights_from_bytes
from charlm.corpus.preparation import prepare
from charlm.corpus.text import open_source
from charlm.errors import DivergedError
from charlm.training.events import Evaluated, RolledBack, Saved, Stepped
from charlm.training.trainer import MAX_SKIPPED_IN_A_ROW, ROLLBACK_FACTOR


def poison(trainer, steps, monkeypatch, also=lambda step: False):
    """Make the loss NaN in ``steps``, and where ``also`` returns True."""
    from charlm.training import update as module

    genuine = module.cross_entropy

    def poisoned(logits, targets):
        loss = genuine(logits, targets)
        return loss * math.nan if trainer.progress.step in steps or also(trainer.progress.step) else loss

    monkeypatch.setattr(module, "cross_entropy", poisoned)


def test_nan_loss_changes_no_weight(make_trainer, monkeypatch):
    trainer = make_trainer(steps=9, eval_every=100)
    poison(trainer, {4, 5}, monkeypatch)
    before, skipped = {}, []
    for event in trainer.events():
        if isinstance(event, Stepped):
            before[event.step] = digest(trainer)
            if event.skipped:
                skipped.append(event.step)
    assert skipped == [5, 6]
    assert before[4] == before[5] == before[6] != before[7]
    assert np.isfinite(trainer.model.embedding.weight.detach().numpy()).all()


def test_infinite_gradient_changes_no_weight(make_trainer):
    trainer = make_trainer(steps=6, eval_every=100)

    def explode(gradient):
        return gradient * math.inf if trainer.progress.step == 3 else gradient

    trainer.model.layers()[0].weight_hh.register_hook(explode)
    skipped = [e.step for e in train(trainer) if isinstance(e, Stepped) and e.skipped]
    assert skipped == [4]
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_training_stops_if_every_loss_is_nan_and_saves_finite_weights(make_trainer, monkeypatch):
    trainer = make_trainer(steps=100, eval_every=1000)
    poison(trainer, set(range(5, 100)), monkeypatch)
    with pytest.raises(DivergedError, match="--lr") as error:
        train(trainer)
    assert error.value.exit_code == 70
    data = open_checkpoint(trainer.run, "latest").files[MODEL]
    weights_from_bytes(data, "model", trainer.model.config.parameter_shapes())


def test_divergence_rolls_back_once_and_lowers_the_learning_rate(make_trainer, monkeypatch):
    trainer = make_trainer(steps=60, eval_every=10, schedule="constant")
    left = [MAX_SKIPPED_IN_A_ROW]  # later losses are finite again
    poison(
        trainer, set(), monkeypatch, lambda step: step >= 33 and left.append(left.pop() - 1) is None and left[0] >= 0
    )
    events = train(trainer)
    (back,) = [event for event in events if isinstance(event, RolledBack)]
    best = [e for e in events[: events.index(back)] if isinstance(e, Evaluated) and e.is_best][-1]
    assert (back.step, back.factor) == (best.step, ROLLBACK_FACTOR)
    after = [event for event in events[events.index(back) :] if isinstance(event, Stepped)]
    assert [event.step for event in after] == list(range(back.step + 1, 61))
    assert [event.lr for event in after] == pytest.approx([trainer.config.lr * ROLLBACK_FACTOR] * len(after))
    assert not any(event.skipped for event in after)
    assert events[-1].reason == "budget"
    assert sorted({e["step"] for e in metrics_of(trainer) if e["kind"] == "valid"}) == [10, 20, 30, 40, 50, 60]


def test_second_divergence_ends_the_training(make_trainer, monkeypatch):
    trainer = make_trainer(steps=100, eval_every=10)
    poison(trainer, set(range(33, 100)), monkeypatch)
    backs = itertools.count()
    with pytest.raises(DivergedError, match="the last good checkpoint is step") as error:
        train(trainer, on=lambda event: isinstance(event, RolledBack) and next(backs))
    assert error.value.exit_code == 70
    assert next(backs) == 1
    for step in RunFolder(trainer.run).step_numbers():
        opened = open_checkpoint(trainer.run / f"step-{step}")
        weights_from_bytes(opened.files[MODEL], "model", trainer.model.config.parameter_shapes())


def test_resumed_training_after_a_rollback_ends_the_same(make_trainer, monkeypatch):
    digests = []
    for name, cut in (("whole", None), ("cut", 45)):
        trainer = make_trainer(name, steps=60, eval_every=10)
        left = [MAX_SKIPPED_IN_A_ROW]
        with monkeypatch.context() as patch:
            poison(
                trainer,
                set(),
                patch,
                lambda s, left=left: s >= 33 and left.append(left.pop() - 1) is None and left[0] >= 0,
            )
            seen = []
            for event in trainer.events():
                seen.append(event)
                if isinstance(event, Stepped) and event.step == cut and any(isinstance(e, RolledBack) for e in seen):
                    trainer.stop()
        if cut:
            trainer = resumed(trainer)
            assert trainer.progress.rate_factor == ROLLBACK_FACTOR
            train(trainer)
        digests.append(digest(trainer))
    assert digests[0] == digests[1]


@pytest.fixture(scope="module")
def training_only(text_file, tmp_path_factory):
    """A corpus without validation text."""
    return prepare(tmp_path_factory.mktemp("corpus"), open_source([str(text_file)]), split=(1, 0, 0))


class Clock:
    """Seconds that do not pass until ``now`` is set."""

    now = 0.0

    def __call__(self):
        return self.now


def diverges_at(trainer, steps, saved_after, clock, monkeypatch):
    """Train with NaN losses in ``steps``, once, and let the clock ask for a save after the steps ``saved_after``."""
    left = len(steps)

    def once(step):
        nonlocal left
        left -= step in steps
        return step in steps and left >= 0

    poison(trainer, set(), monkeypatch, once)

    def on(event):
        if isinstance(event, Stepped) and event.step in saved_after:
            clock.now += 10 * BRIEF["save_every"]

    return train(trainer, on=on)


@pytest.mark.parametrize("saved_after", [{32}, {12, 31, 40}, set()])
def test_without_validation_text_the_clock_does_not_decide_where_training_goes_back_to(
    make_trainer, monkeypatch, training_only, saved_after
):
    clock = Clock()
    trainer = make_trainer(of=training_only, clock=clock, steps=60, eval_every=10)
    steps = range(34, 34 + MAX_SKIPPED_IN_A_ROW)
    events = diverges_at(trainer, steps, saved_after, clock, monkeypatch)
    before = events[: next(n for n, event in enumerate(events) if isinstance(event, RolledBack))]
    assert {event.step for event in before if isinstance(event, Saved)} == {10, 20, 30, *saved_after}
    assert [event.step for event in events if isinstance(event, RolledBack)] == [30]


@pytest.mark.parametrize("saved_after", [{4}, set()])
def test_a_divergence_before_the_first_evaluation_ends_the_training(make_trainer, monkeypatch, saved_after):
    clock = Clock()
    trainer = make_trainer(clock=clock, steps=60, eval_every=100)
    with pytest.raises(DivergedError, match="not finite"):
        diverges_at(trainer, range(8, 8 + MAX_SKIPPED_IN_A_ROW), saved_after, clock, monkeypatch)


def test_resumed_training_without_validation_text_goes_back_to_the_same_step(make_trainer, monkeypatch, training_only):
    trainer = make_trainer(of=training_only, steps=60, eval_every=10, save_every=1e9)
    train(trainer, interrupt_after=13)
    trainer = resumed(trainer)
    steps = range(14, 14 + MAX_SKIPPED_IN_A_ROW)
    monkeypatch.setattr(trainer.validator, "evaluate", None)  # no evaluation comes before the divergence
    trainer.state.config = dataclasses.replace(trainer.config, eval_every=1000)
    events = trainer.events()
    poison(trainer, set(steps), monkeypatch)
    assert next(event.step for event in events if isinstance(event, RolledBack)) == 10


@pytest.mark.parametrize("loss", [math.inf, math.nan])
def test_non_finite_validation_loss_is_never_the_best(make_trainer, loss):
    trainer = make_trainer(steps=14)
    losses = iter([loss, 2.0])
    trainer.validator._loss = lambda state, stop: next(losses)
    train(trainer)
    assert (trainer.progress.best, trainer.progress.best_step) == (2.0, 14)


def test_non_finite_weights_are_never_saved(make_trainer):
    trainer = make_trainer(steps=40, save_every=5.0, save_every_unit="steps")
    events = trainer.events()
    while trainer.progress.step < 12:
        next(events)
    for _ in range(2):  # the first time it rolls back
        with torch.no_grad():
            trainer.model.decoder.bias[3] = math.inf
        if trainer.progress.rate_factor == 1.0:
            assert any(isinstance(event, RolledBack) for event in itertools.islice(events, 30))
    with pytest.raises(DivergedError, match="the last good checkpoint is step"):
        list(events)
    opened = open_checkpoint(trainer.run, "latest")
    weights_from_bytes(opened.files[MODEL], "model", trainer.model.config.parameter_shapes())
