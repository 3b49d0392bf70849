import dataclasses
import math

import numpy as np
import pytest
import torch
from conftest import DROPOUTS
from trainers import digest, train

from charlm.checkpoint.model_parts import read_model_parts
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.step import MODEL, open_checkpoint, save_step
from charlm.checkpoint.tensors import tensors_from_bytes
from charlm.corpus.batches import IGNORE_INDEX, Cursor
from charlm.engine.torch import TorchEngine
from charlm.errors import InputOutputError, OutOfMemoryError
from charlm.evaluation.measure import evaluate
from charlm.training.events import Evaluated, Finished, Saved, SaveFailed, Stepped
from charlm.training.update import DeviceUpdate, Update

NO_DROPOUT = dict.fromkeys(DROPOUTS, 0.0)


def test_loss_of_a_step_is_per_character_without_padding(make_trainer, document_corpus):
    trainer = make_trainer(of=document_corpus, steps=1, batch=20, bptt=300, state_reset=0.0, model=NO_DROPOUT)
    stepped = next(event for event in trainer.events() if isinstance(event, Stepped))
    fresh = make_trainer("again", of=document_corpus, steps=1, batch=20, bptt=300, state_reset=0.0, model=NO_DROPOUT)
    chunk = fresh.batches.chunk(Cursor())
    assert chunk.predictions < chunk.inputs_TB.size  # some of it is padding
    losses, _ = TorchEngine(fresh.model).losses(
        chunk.inputs_TB, np.maximum(chunk.targets_TB, 0), fresh.model.initial_state(chunk.inputs_TB.shape[1])
    )
    mean = losses[chunk.targets_TB != IGNORE_INDEX].mean()
    assert stepped.nats_per_char == pytest.approx(mean * fresh._ids_per_character, rel=1e-5)


def test_saved_weights_are_the_validated_ones(make_trainer):
    trainer = make_trainer(steps=14)
    evaluations = [event for event in train(trainer) if isinstance(event, Evaluated)]
    weights = read_model_parts(open_checkpoint(trainer.run, "latest")).weights
    assert not np.array_equal(weights["embedding.weight"], trainer.model.weights()["embedding.weight"])
    trainer.model.load_weights(weights)
    loss = trainer.validator._loss(trainer.state, lambda: False)
    assert loss == pytest.approx(evaluations[-1].valid_nats_per_char, rel=1e-6)


def test_training_lowers_the_loss(make_trainer):
    model = {"layers": 1, "hidden": 64, "embedding": 64}
    trainer = make_trainer(steps=300, lr=2e-2, batch=16, bptt=40, eval_every=50, model=model)
    events = train(trainer)
    first = next(e for e in events if isinstance(e, Stepped))
    assert first.nats_per_char == pytest.approx(math.log(trainer.model.config.vocabulary_size), rel=0.1)
    assert events[-1].best_nats_per_char < 0.6 * float(trainer.corpus.description["unigram_nats"])


def test_runs_are_equal_only_with_the_same_seed(make_trainer):
    digests = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        trainer = make_trainer(name, steps=8, seed=seed)
        train(trainer)
        digests.append(digest(trainer))
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("poisoned", [(), (2, 13)])
@pytest.mark.parametrize("kind", ["streams", "documents"])
def test_reading_the_results_of_several_steps_together_changes_nothing(make_trainer, document_corpus, kind, poisoned):
    """As on a GPU, where the host does not wait for the result of each step."""
    outcomes = []
    of = {"of": document_corpus, "state_reset": 0.0} if kind == "documents" else {}
    for name, update in (("host", Update), ("device", DeviceUpdate)):
        # A rate that is the same number in float32, in which a device keeps it.
        rate = {"lr": 2.0**-7, "warmup": 0, "schedule": "constant"}
        trainer = make_trainer(name, steps=40, eval_every=7, save_every=9.0, save_every_unit="steps", **rate, **of)
        trainer._update = update(trainer.state)
        _poison(trainer, poisoned)
        events = [event for event in train(trainer) if not isinstance(event, (Saved, Finished))]
        outcomes.append(([_timeless(event) for event in events], digest(trainer), _timeless(trainer.progress)))
        assert trainer.progress.skipped_steps == len(poisoned)
    assert outcomes[0] == outcomes[1]


def _poison(trainer, steps):
    apply = trainer._update.apply

    def poisoned(chunk, state, lr):
        if trainer.progress.step in steps:
            zeros = trainer.model.initial_state(chunk.inputs_TB.shape[1])
            state = tuple((h_BH + math.nan, c_BH) for h_BH, c_BH in zeros)
        return apply(chunk, state, lr)

    trainer._update.apply = poisoned


def _timeless(record):
    """The fields of a dataclass that do not depend on the clock, in a form in which NaN equals NaN."""
    fields = dataclasses.asdict(record).items()
    return {name: str(value) for name, value in fields if not name.endswith("seconds")}


def test_only_best_and_latest_steps_are_kept(make_trainer):
    trainer = make_trainer(steps=30, save_every=4.0, save_every_unit="steps")
    saved = [e.step for e in train(trainer) if isinstance(e, Saved)]
    assert {4, 8, 12, 16, 20, 24, 28} <= set(saved)
    assert set(RunFolder(trainer.run).step_numbers()) == {30, trainer.progress.best_step}
    best = open_checkpoint(trainer.run)
    assert best.validation == trainer.progress.best
    assert not [p for p in trainer.run.rglob("*") if p.suffix in (".pt", ".pth", ".pkl", ".bin")]


def test_tied_weight_is_saved_once(make_trainer):
    trainer = make_trainer(steps=1)
    train(trainer)
    opened = open_checkpoint(trainer.run)
    tensors = tensors_from_bytes(opened.files[MODEL], "model")
    assert {name: t.shape for name, t in tensors.items()} == trainer.model.config.parameter_shapes()


def test_reported_loss_agrees_with_an_exact_evaluation(make_trainer, corpus):
    trainer = make_trainer(steps=14)
    evaluated = [e for e in train(trainer) if isinstance(e, Evaluated)][-1]
    ids = corpus.ids("valid")
    with trainer.state.average.applied():
        exact = evaluate(TorchEngine(trainer.model), corpus.tokenizer, [ids.read(0, len(ids))])
    assert evaluated.valid_nats_per_char == pytest.approx(exact.nats_per_char, rel=5e-3)


def test_clipping_bounds_the_gradient_norm_and_is_counted(make_trainer):
    trainer = make_trainer(steps=7, clip=0.05)
    evaluated = next(e for e in train(trainer) if isinstance(e, Evaluated))
    assert evaluated.clipped_share == 1.0
    total = math.sqrt(sum(float((p.grad**2).sum()) for p in trainer.model.parameters()))
    assert total <= 0.05 * 1.001


def test_training_without_a_budget_stops_early(make_trainer, monkeypatch):
    trainer = make_trainer(eval_every=1, lr=1e-9)
    end = train(trainer)[-1]
    assert isinstance(end, Finished)
    assert end.reason == "early stop"


def test_steps_and_epochs_disable_early_stopping(make_trainer):
    trainer = make_trainer(eval_every=1, lr=1e-9, steps=40)
    assert (train(trainer)[-1].reason, trainer.progress.step) == ("budget", 40)
    trainer = make_trainer("epochs", eval_every=10**6, epochs=2, batch=50, bptt=40)
    train(trainer)
    assert trainer.progress.step == 2 * trainer.batches.chunks_per_epoch


def test_time_budget_ends_the_training_with_an_evaluation(make_trainer):
    trainer = make_trainer(seconds=2.0, eval_every=10, schedule="constant")
    end = train(trainer)[-1]
    assert end.reason == "budget"
    assert trainer.progress.evaluated_step == trainer.progress.step


def test_training_works_without_validation_text(make_trainer, corpus):
    trainer = make_trainer(steps=15)
    trainer.validator.text.ids = trainer.validator.text.ids[:0]
    events = train(trainer)
    assert all(e.valid_nats_per_char is None for e in events if isinstance(e, Evaluated))
    assert open_checkpoint(trainer.run).step == 15


def test_failed_save_is_retried_and_three_failures_end_the_training(make_trainer, monkeypatch):
    from charlm.training import saving as module

    genuine, failures = save_step, [2]

    def full_disk(*arguments):
        if failures[0]:
            failures[0] -= 1
            raise InputOutputError("no room")
        return genuine(*arguments)

    monkeypatch.setattr(module, "save_step", full_disk)
    trainer = make_trainer("twice", steps=12, save_every=1.0, save_every_unit="steps", eval_every=100)
    events = train(trainer)
    assert [type(e) for e in events if isinstance(e, (SaveFailed, Saved))][:3] == [SaveFailed, SaveFailed, Saved]
    failures[0] = 3
    trainer = make_trainer("thrice", steps=12, save_every=1.0, save_every_unit="steps", eval_every=100)
    with pytest.raises(InputOutputError):
        train(trainer)


def test_step_that_could_not_be_saved_is_not_the_best(make_trainer, monkeypatch):
    from charlm.training import saving as module

    genuine = save_step
    trainer = make_trainer(steps=30, eval_every=10, lr=1e-2)

    def refuse_the_best(run, step, files):
        if step == 20:
            raise InputOutputError("no room")
        return genuine(run, step, files)

    monkeypatch.setattr(module, "save_step", refuse_the_best)
    losses = iter([3.0, 1.0, 2.0])
    trainer.validator._loss = lambda state, stop: next(losses)
    events = train(trainer)
    assert [e.step for e in events if isinstance(e, SaveFailed)] == [20]
    assert trainer.progress.best_step == 30
    assert open_checkpoint(trainer.run).validation == trainer.progress.best == 2.0


def test_gradients_that_could_not_be_saved_are_reported_and_not_tried_again(make_trainer, monkeypatch):
    trainer = make_trainer(steps=6)

    def refuse(*arguments):
        raise InputOutputError("no room; make some")

    monkeypatch.setattr(trainer.saver, "save_measurements", refuse)
    failed, finished = train(trainer)[-2:]
    assert (type(failed), failed.will_retry, finished.reason) == (SaveFailed, False, "budget")
    assert "no room" in failed.reason
    assert "make some" not in failed.reason


def test_unwritable_metrics_do_not_stop_the_training(make_trainer, caplog):
    trainer = make_trainer(steps=10)
    (trainer.run / "metrics.jsonl").mkdir()
    assert train(trainer)[-1].reason == "budget"
    assert "metrics.jsonl" in caplog.text


def test_out_of_memory_saves_first_and_names_the_options_to_lower(make_trainer):
    trainer = make_trainer(steps=20, eval_every=100)
    apply = trainer._update.apply

    def grow(chunk, state, lr):
        if trainer.progress.step == 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return apply(chunk, state, lr)

    trainer._update.apply = grow
    with pytest.raises(OutOfMemoryError, match=r"--batch 4 and --bptt 20 take at least .* choose a smaller") as error:
        train(trainer)
    assert (error.value.exit_code, RunFolder(trainer.run).step_numbers()) == (71, [6])
