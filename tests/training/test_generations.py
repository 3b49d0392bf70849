"""Generations: models in one run, one after another, each of which learns from the best one before it."""

import errno
import os
import shutil

import numpy as np
import pytest
import torch
from trainers import digest, resumed, train

import charlm
from charlm.checkpoint.run_folder import SOFT_TARGETS
from charlm.checkpoint.step import ALL_FILES, open_checkpoint
from charlm.config import TrainingConfig
from charlm.corpus.soft_targets import SoftTargetWriter
from charlm.errors import DataError, DivergedError, InputOutputError, MissingInputError, UsageError
from charlm.training.events import Evaluated, GenerationBegan, RolledBack, Stepped
from charlm.training.trainer import Trainer

THREE = {"steps": 24, "generations": 3, "soft_weight": 0.8, "eval_every": 5, "batch": 10, "bptt": 30}


def of_kind(events, kind):
    return [event for event in events if isinstance(event, kind)]


@pytest.mark.parametrize("kind", ["streams", "documents"])
def test_an_interruption_near_a_new_generation_changes_no_weight(make_trainer, corpus, document_corpus, kind):
    of = corpus if kind == "streams" else document_corpus
    options = THREE if kind == "streams" else {**THREE, "state_reset": 0.0, "bptt_jitter": 0.0}
    whole = make_trainer("whole", of=of, **options)
    events = train(whole)
    assert [(event.step, event.generation) for event in of_kind(events, GenerationBegan)] == [(8, 1), (16, 2)]
    for cut in (1, 7, 8, 9, 15, 16, 17, 23) if kind == "streams" else (8, 12, 16):
        first = make_trainer(f"cut{cut}", of=of, **options)
        assert train(first, cut)[-1].reason == "interrupted"
        second = resumed(first)
        rest = train(second)
        assert digest(second) == digest(whole), f"interrupted after step {cut}"
        assert rest[-1].best_nats_per_char == events[-1].best_nats_per_char
        shutil.rmtree(first.run)


def test_the_first_is_a_training_of_its_own_and_the_second_one_with_it_as_teacher(make_trainer):
    """With the rates of a training of its own, too."""
    both, rates, weights = make_trainer("both", steps=16, generations=2, soft_weight=1.0), [], []

    def note(event):
        if isinstance(event, Stepped):
            rates.append(event.lr)
            weights.append(both.model.weights())

    events = train(both, on=note)
    alone = make_trainer("alone", steps=8)
    alone_rates = [event.lr for event in of_kind(train(alone), Stepped)]
    assert rates == alone_rates * 2
    for name, weight in alone.model.weights().items():
        np.testing.assert_array_equal(weight, weights[7][name])
    (began,) = of_kind(events, GenerationBegan)
    assert began.teacher_step == alone.progress.best_step

    # The second begins with the weights of the next seed.
    began_with = _weights_at_the_beginning_of_the_second(make_trainer)
    for name, weight in make_trainer("next", steps=8, seed=both.config.seed + 1).model.weights().items():
        np.testing.assert_array_equal(weight, began_with[name])


def _weights_at_the_beginning_of_the_second(make_trainer):
    again, found = make_trainer("again", steps=16, generations=2, soft_weight=1.0), {}

    def note(event):
        if isinstance(event, GenerationBegan):
            found.update(again.model.weights())

    train(again, on=note)
    return found


def test_the_best_step_is_that_of_all_generations(make_trainer):
    trainer = make_trainer("run", **{**THREE, "eval_every": 4})
    events = train(trainer)
    losses = {event.step: event.valid_nats_per_char for event in of_kind(events, Evaluated)}
    assert min(losses.values()) == trainer.progress.best == losses[trainer.progress.best_step]
    assert open_checkpoint(trainer.run, "best").step == trainer.progress.best_step


def test_without_validation_text_there_is_one_generation(text_file, tmp_path):
    """Nothing would show which of several models is the best."""
    options = {"split": "100/0/0", "size": "tiny", "batch": 4, "bptt": 16, "threads": 1, "device": "cpu", "steps": 6}
    with pytest.raises(UsageError, match="needs validation text"):
        charlm.train(text_file, out=tmp_path / "run", generations=2, **options)
    assert not (tmp_path / "run").exists()


def test_a_generation_that_diverges_again_and_again_ends_the_training(make_trainer, monkeypatch):
    """After a return to the first model its end comes again; the rate stays low, and the next return is not made."""
    trainer = make_trainer("run", steps=60, generations=2, soft_weight=1.0, eval_every=5)

    def poison(event):
        if isinstance(event, GenerationBegan):
            with torch.no_grad():
                trainer.model.embedding.weight.fill_(torch.nan)

    events = []

    def note(event):
        events.append(event)
        poison(event)

    with pytest.raises(DivergedError):
        train(trainer, on=note)
    assert len(of_kind(events, RolledBack)) == 1


def test_epochs_are_completed(make_trainer):
    trainer = make_trainer("run", epochs=2, generations=3, soft_weight=1.0)
    whole = make_trainer("whole", epochs=2)
    assert train(trainer)[-1].step == train(whole)[-1].step


def test_only_the_soft_targets_that_may_be_needed_are_kept(make_trainer):
    trainer = make_trainer("run", steps=40, generations=5, soft_weight=0.5, eval_every=4)
    train(trainer)
    needed = {trainer.progress.generation + 1, trainer.progress.best_generation + 1} - {1}
    assert {folder.name for folder in trainer.run.glob("soft-targets-*")} == {f"soft-targets-{n}" for n in needed}


def test_a_finished_run_needs_no_soft_targets(text_file, tmp_path):
    options = {"size": "tiny", "batch": 4, "bptt": 16, "threads": 1, "device": "cpu"}
    run = charlm.train(text_file, out=tmp_path / "run", steps=6, generations=2, **options).run
    shutil.rmtree(run / f"{SOFT_TARGETS}-2")
    assert charlm.resume(run).reason == "finished before"
    with pytest.raises(MissingInputError, match="no soft targets"):
        charlm.resume(run, steps=9)


def test_a_longer_limit_gives_the_last_model_more_steps(make_trainer):
    short = make_trainer("run", steps=16, generations=2, soft_weight=1.0)
    train(short)
    config = TrainingConfig(**{**vars(short.config), "steps": 30})
    longer = Trainer.resume(short.run, short.corpus, open_checkpoint(short.run, "latest", ALL_FILES), config)
    events = train(longer)
    assert of_kind(events, GenerationBegan) == []
    assert events[-1].step == 30
    assert all(0 < event.lr <= config.lr for event in of_kind(events, Stepped))


def test_missing_soft_targets_are_told(make_trainer):
    trainer = make_trainer("run", steps=16, generations=2, soft_weight=1.0)
    train(trainer, 12)
    (trainer.run / f"{SOFT_TARGETS}-2" / "probabilities").write_bytes(b"")
    with pytest.raises(DataError, match="soft-targets-2/probabilities"):
        resumed(trainer)


def test_generations_need_a_limit():
    with pytest.raises(UsageError, match="add --time"):
        TrainingConfig(generations=2)


def test_a_new_limit_makes_the_generation_at_hand_the_last_one(text_file, tmp_path):
    """All that is left is for it, also where the new limit ends before the next one would have begun."""
    options = {"size": "tiny", "batch": 4, "bptt": 16, "threads": 1, "device": "cpu"}
    for stop, limit, generations in ((3, 5, 1), (8, 14, 2), (8, 9, 2)):
        out, events = tmp_path / f"{stop}-{limit}", []

        def end(event, stop=stop):
            if isinstance(event, Stepped) and event.step == stop:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            charlm.train(text_file, out=out, steps=18, generations=3, save_every=1, on_event=end, **options)
        assert charlm.resume(out, steps=limit, on_event=events.append).step == limit
        assert of_kind(events, GenerationBegan) == []
        assert open_checkpoint(out, "latest").config["training"]["generations"] == generations


def test_a_full_disk_is_told_and_loses_nothing(make_trainer, monkeypatch):
    trainer = make_trainer("run", steps=16, generations=2, soft_weight=1.0, eval_every=3)

    def full(self, position, ids_NK, probabilities_NK):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "ids")

    with monkeypatch.context() as broken:
        broken.setattr(SoftTargetWriter, "write", full)
        with pytest.raises(InputOutputError, match=r"ids could not be written .*make room"):
            train(trainer)
    assert not list(trainer.run.glob("soft-targets*"))
    second = resumed(trainer)
    assert second.progress.step == 8
    train(second)
    whole = make_trainer("whole", steps=16, generations=2, soft_weight=1.0, eval_every=3)
    train(whole)
    assert digest(second) == digest(whole)
