import json

import numpy as np
import pytest
import torch
from conftest import BRIEF
from trainers import digest, resumed, train

from charlm.checkpoint.step import ALL_FILES, STATE_TENSORS, open_checkpoint, save_step
from charlm.checkpoint.tensors import tensors_from_bytes, tensors_to_bytes
from charlm.errors import DataError
from charlm.training.averaging import Average
from charlm.training.events import Evaluated, Stepped
from charlm.training.saving import checkpoint_files
from charlm.training.trainer import Trainer

STEPS = 26


def shorter_epochs(make_trainer, name, **options):
    """A trainer with epochs of few steps, so that a short run has several epochs."""
    return make_trainer(name, steps=STEPS, batch=50, bptt=30, **options)


def cuts(trainer):
    """Train to the end; returns the events, steps after which to interrupt, and the cursor after each step.

    The steps are one of each kind: the first, the last but one, those about an evaluation and those about the end of an
    epoch. ``test_training_interrupted_at_all_steps_ends_with_the_same_weights`` interrupts after every step.
    """
    cursors, evaluated = [], BRIEF["eval_every"]
    events = train(trainer, on=lambda event: isinstance(event, Stepped) and cursors.append(trainer.progress.cursor))
    epochs = [int(trainer.batches.epochs(cursor)) for cursor in cursors]
    end = epochs.index(1) + 1
    return events, sorted({1, *(n + near for n in (evaluated, end) for near in (-1, 0, 1)), STEPS - 1}), cursors


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop", "adamw", "muon"])
def test_training_interrupted_at_a_step_of_any_kind_ends_with_the_same_weights(make_trainer, optimizer):
    options = {"optimizer": optimizer, "lr": 0.05 if optimizer == "sgd" else 5e-3}
    if optimizer == "adamw":
        options["average"] = "none"
    whole = shorter_epochs(make_trainer, "whole", **options)
    assert whole.batches.chunks_per_epoch < STEPS - 5
    events, steps, _ = cuts(whole)
    for cut in steps if optimizer == "adam" else steps[:4]:
        first = shorter_epochs(make_trainer, f"cut{cut}", **options)
        assert train(first, cut)[-1].reason == "interrupted"
        second = resumed(first)
        rest = train(second)
        assert digest(second) == digest(whole), f"interrupted after step {cut}"
        assert rest[-1].best_nats_per_char == events[-1].best_nats_per_char


def by_documents(make_trainer, name, corpus):
    """A trainer with several batches per epoch, some of them split into chunks."""
    return make_trainer(name, of=corpus, steps=STEPS, batch=40, bptt=25, state_reset=0.0)


def test_document_training_interrupted_at_a_step_of_any_kind_ends_with_the_same_weights(make_trainer, document_corpus):
    whole = by_documents(make_trainer, "whole", document_corpus)
    events, steps, cursors = cuts(whole)
    within = {whole.batches.carried_rows(cursors[cut - 1]) > 0 for cut in steps}
    assert within == {True, False}  # some saves are between documents, some within
    for cut in steps:
        first = by_documents(make_trainer, f"cut{cut}", document_corpus)
        train(first, cut)
        second = resumed(first)
        rest = train(second)
        assert digest(second) == digest(whole), f"interrupted after step {cut}"
        assert rest[-1].best_nats_per_char == events[-1].best_nats_per_char


def test_omitting_the_state_within_documents_changes_the_weights(make_trainer, document_corpus):
    whole = by_documents(make_trainer, "whole", document_corpus)
    kept = []
    for event in whole.events():
        if isinstance(event, Stepped):
            kept.append(whole.batches.carried_rows(whole.progress.cursor))
    within = next(step for step, rows in enumerate(kept, start=1) if rows)
    first = by_documents(make_trainer, "first", document_corpus)
    train(first, within)
    second = resumed(first)
    second.state.carried = second.model.initial_state(kept[within - 1])
    train(second)
    assert digest(second) != digest(whole)


def test_training_interrupted_at_all_steps_ends_with_the_same_weights(make_trainer):
    whole = shorter_epochs(make_trainer, "whole")
    train(whole)
    trainer = shorter_epochs(make_trainer, "often")
    train(trainer, 1)
    for step in range(2, STEPS):
        trainer = resumed(trainer)
        train(trainer, step)
    trainer = resumed(trainer)
    train(trainer)
    assert digest(trainer) == digest(whole)
    logs = [[json.loads(line) for line in (t.run / "metrics.jsonl").read_text().splitlines()] for t in (whole, trainer)]
    for log in logs:
        for entry in log:
            del entry["seconds"]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("lost", ["state", "generator", "optimizer", "cursor", "schedule", "average", "last"])
def test_omitting_any_part_of_the_state_changes_the_weights(make_trainer, lost):
    """Each part matters: without it the training ends with other weights, so the tests above can fail."""
    whole = shorter_epochs(make_trainer, "whole", schedule="plateau")
    train(whole)
    first = shorter_epochs(make_trainer, "first", schedule="plateau")
    train(first, 17)
    second = resumed(first)
    if lost == "state":
        second.state.carried = second.model.initial_state(second.config.batch)
    elif lost == "generator":
        second.state.generator.manual_seed(second.config.seed)
    elif lost == "optimizer":
        second.state.optimizer.state.clear()
    elif lost == "cursor":
        second.progress.step -= 1
    elif lost == "schedule":
        second.state.schedule.plateau.factor = 0.3
    elif lost == "average":
        second.state.average = Average(second.model, second.config)
    elif lost == "last":
        with second.state.average.applied():
            averaged = second.model.weights()
        second.model.load_weights(averaged)
    train(second)
    assert digest(second) != digest(whole)


def test_triggered_average_resumes_before_and_after_its_start(make_trainer):
    # At this learning rate no improvement is large enough to count.
    options = {"average": "triggered", "schedule": "constant", "lr": 1e-6, "eval_every": 3}
    whole = shorter_epochs(make_trainer, "whole", **options)
    train(whole)
    started = STEPS - whole.state.average.steps
    assert 4 < started < STEPS - 4
    for cut in range(1, STEPS, 3):
        first = shorter_epochs(make_trainer, f"cut{cut}", **options)
        train(first, cut)
        assert (first.state.average.steps > 0) == (cut > started)
        second = resumed(first)
        train(second)
        assert digest(second) == digest(whole), f"interrupted after step {cut}"


def test_interrupted_evaluation_is_repeated(make_trainer):
    whole = make_trainer("whole", steps=15)
    reference = [e for e in train(whole) if isinstance(e, Evaluated)]
    first = make_trainer("first", steps=15)
    loss = first.validator._loss

    def interrupted(state, stop):
        first.stop()
        return loss(state, stop)

    first.validator._loss = interrupted
    events = train(first)
    assert events[-1].reason == "interrupted"
    assert not [e for e in events if isinstance(e, Evaluated)]
    second = resumed(first)
    evaluations = [e for e in train(second) if isinstance(e, Evaluated)]
    assert [e.valid_nats_per_char for e in evaluations] == [e.valid_nats_per_char for e in reference]
    assert digest(second) == digest(whole)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda trainer: setattr(trainer.progress, "rate_factor", 1e308),
        lambda trainer: setattr(trainer.progress, "rate_factor", 0.0),
        lambda trainer: setattr(trainer.state.schedule.plateau, "factor", -1.0),
    ],
)
def test_invalid_learning_rate_factors_are_refused(make_trainer, spoil):
    trainer = make_trainer(steps=2)
    spoil(trainer)
    save_step(trainer.run, 0, checkpoint_files(trainer.state, trainer.corpus, finished=False))
    with pytest.raises(DataError, match=r"learning rate factor|plateau with numbers out of range"):
        resumed(trainer)


@pytest.mark.parametrize("damage", ["missing", "shape", "dtype", "all"])
def test_damaged_optimizer_state_is_refused(make_trainer, damage):
    trainer = make_trainer(steps=3)
    train(trainer)
    files = dict(open_checkpoint(trainer.run, "latest", ALL_FILES).files)
    tensors = tensors_from_bytes(files[STATE_TENSORS], "state")
    name = "optimizer.0.exp_avg"
    if damage == "missing":
        del tensors[name]
    elif damage == "shape":
        tensors[name] = tensors[name][:1]
    elif damage == "dtype":
        tensors[name] = tensors[name].astype(np.int32)
    else:
        tensors = {n: t for n, t in tensors.items() if not n.startswith("optimizer.1.")}
    save_step(trainer.run, 3, {**files, STATE_TENSORS: tensors_to_bytes(tensors)})
    with pytest.raises(DataError, match="optimizer"):
        resumed(trainer)


def test_elapsed_time_continues_after_resuming(make_trainer):
    trainer = make_trainer(seconds=100.0, schedule="constant")
    trainer.progress.seconds = 50.0
    train(trainer, 2)
    before = trainer.budget_progress()
    assert before > 0.4
    assert resumed(trainer).budget_progress() == pytest.approx(before, abs=0.02)


def test_state_of_a_model_of_other_size_is_refused(make_trainer, corpus, monkeypatch):
    trainer = make_trainer(steps=2)
    train(trainer)
    other = make_trainer("other", steps=2, model={"hidden": 32})
    checkpoint = open_checkpoint(trainer.run, "latest", ALL_FILES)
    with pytest.raises(DataError, match="different model shape"):
        other.saver.restore(other.state, checkpoint, other.batches)


def test_resuming_with_other_threads_warns(make_trainer, caplog):
    trainer = make_trainer(steps=2)
    train(trainer)
    torch.set_num_threads(2)
    try:
        checkpoint = open_checkpoint(trainer.run, "latest", ALL_FILES)
        from dataclasses import replace

        Trainer.resume(trainer.run, trainer.corpus, checkpoint, replace(trainer.config, threads=2))
    finally:
        torch.set_num_threads(1)
    assert "threads: 1 -> 2" in caplog.text
