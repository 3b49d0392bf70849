import hashlib
import itertools
import json
import math

import numpy as np
import pytest
import torch
from conftest import DROPOUTS

from charlm import checkpoint as ckpt
from charlm import training_state
from charlm.averaging import Average
from charlm.batches import IGNORED, Cursor
from charlm.engine.torch import TorchEngine
from charlm.errors import DataError, DivergedError, InputOutputError, OutOfMemoryError
from charlm.events import Evaluated, Finished, RolledBack, Saved, SaveFailed, Stepped
from charlm.language_model import checkpoint_parts
from charlm.scoring import evaluate
from charlm.training import MAX_SKIPPED_IN_A_ROW, ROLLBACK_FACTOR, Trainer
from charlm.weights import weights_from_bytes

NO_DROPOUT = dict.fromkeys(DROPOUTS, 0.0)
STEPS = 26  # with four streams and chunks of 20 this is a little more than the first epoch's beginning


def digest(trainer) -> str:
    """Of the last weights and of the averaged ones."""
    last = trainer.model.weights()
    with trainer.average.applied():
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


def resumed(trainer, names=ckpt.ALL_FILES):
    checkpoint = ckpt.open_checkpoint(trainer.run, "latest", names)
    return Trainer.resume(trainer.run, trainer.corpus, checkpoint, trainer.config)


def shorter_epochs(make_trainer, name, **options):
    """A trainer whose epochs are few steps long, so that a tiny run crosses their borders."""
    return make_trainer(name, steps=STEPS, batch=50, bptt=30, **options)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop", "adamw"])
def test_interrupted_at_every_step_it_ends_the_same(make_trainer, optimizer):
    options = {"optimizer": optimizer, "lr": 0.05 if optimizer == "sgd" else 5e-3}
    if optimizer == "adamw":
        options["average"] = "none"
    whole = shorter_epochs(make_trainer, "whole", **options)
    assert whole.batches.chunks_per_epoch < STEPS - 5
    events = train(whole)
    for cut in range(1, STEPS):
        first = shorter_epochs(make_trainer, f"cut{cut}", **options)
        assert train(first, cut)[-1].reason == "interrupted"
        second = resumed(first)
        rest = train(second)
        assert digest(second) == digest(whole), f"interrupted after step {cut}"
        assert rest[-1].best_nats_per_char == events[-1].best_nats_per_char
        if optimizer != "adam" and cut > 3:
            break


def by_documents(make_trainer, name, corpus):
    """A trainer whose epochs are of several batches, some of them cut into chunks."""
    return make_trainer(name, of=corpus, steps=STEPS, batch=40, bptt=25, state_reset=0.0)


def test_documents_interrupted_at_every_step_end_the_same(make_trainer, document_corpus):
    whole = by_documents(make_trainer, "whole", document_corpus)
    events, kept = [], []
    for event in whole.events():
        events.append(event)
        if isinstance(event, Stepped):
            kept.append(whole.batches.rows(whole.progress.cursor))
    assert min(kept) == 0 < max(kept)  # some saves fall between documents, some within
    assert whole.batches.epochs(whole.progress.cursor) > 1
    for cut in range(1, STEPS):
        first = by_documents(make_trainer, f"cut{cut}", document_corpus)
        train(first, cut)
        second = resumed(first)
        rest = train(second)
        assert digest(second) == digest(whole), f"interrupted after step {cut}"
        assert rest[-1].best_nats_per_char == events[-1].best_nats_per_char


def test_the_state_within_documents_cannot_be_left_out(make_trainer, document_corpus):
    whole = by_documents(make_trainer, "whole", document_corpus)
    kept = []
    for event in whole.events():
        if isinstance(event, Stepped):
            kept.append(whole.batches.rows(whole.progress.cursor))
    within = next(step for step, rows in enumerate(kept, start=1) if rows)
    first = by_documents(make_trainer, "first", document_corpus)
    train(first, within)
    second = resumed(first)
    second.state = second.model.initial_state(kept[within - 1])
    train(second)
    assert digest(second) != digest(whole)


def test_the_loss_of_a_step_is_per_real_character(make_trainer, document_corpus):
    trainer = make_trainer(of=document_corpus, steps=1, batch=20, bptt=300, state_reset=0.0, model=NO_DROPOUT)
    stepped = next(event for event in trainer.events() if isinstance(event, Stepped))
    fresh = make_trainer("again", of=document_corpus, steps=1, batch=20, bptt=300, state_reset=0.0, model=NO_DROPOUT)
    chunk = fresh.batches.chunk(Cursor())
    assert chunk.predictions < chunk.inputs_TB.size  # some of it is padding
    losses, _ = TorchEngine(fresh.model).losses(
        chunk.inputs_TB, np.maximum(chunk.targets_TB, 0), fresh.model.initial_state(chunk.inputs_TB.shape[1])
    )
    mean = losses[chunk.targets_TB != IGNORED].mean()
    assert stepped.nats_per_char == pytest.approx(mean * fresh._ids_per_character, rel=1e-5)


def test_interrupted_again_and_again_it_ends_the_same(make_trainer):
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
def test_nothing_of_the_state_can_be_left_out(make_trainer, lost):
    """The proof that the law above can fail: each part, left out, changes the end."""
    whole = shorter_epochs(make_trainer, "whole", schedule="plateau")
    train(whole)
    first = shorter_epochs(make_trainer, "first", schedule="plateau")
    train(first, 17)
    second = resumed(first)
    if lost == "state":
        second.state = second.model.initial_state(second.config.batch)
    elif lost == "generator":
        second.generator.manual_seed(second.config.seed)
    elif lost == "optimizer":
        second.optimizer.state.clear()
    elif lost == "cursor":
        second.progress.step -= 1
    elif lost == "schedule":
        second.schedule.plateau.factor = 0.3
    elif lost == "average":
        second.average = Average(second.model, second.config)
    elif lost == "last":
        with second.average.applied():
            averaged = second.model.weights()
        second.model.load_weights(averaged)
    train(second)
    assert digest(second) != digest(whole)


def test_a_triggered_average_begun_and_not_yet_begun_goes_on_the_same(make_trainer):
    # At so low a rate nothing improves enough to count.
    options = {"average": "triggered", "schedule": "constant", "lr": 1e-6, "eval_every": 3}
    whole = shorter_epochs(make_trainer, "whole", **options)
    train(whole)
    begun = STEPS - whole.average.steps
    assert 4 < begun < STEPS - 4
    for cut in range(1, STEPS, 3):
        first = shorter_epochs(make_trainer, f"cut{cut}", **options)
        train(first, cut)
        assert (first.average.steps > 0) == (cut > begun)
        second = resumed(first)
        train(second)
        assert digest(second) == digest(whole), f"interrupted after step {cut}"


def test_what_is_kept_is_what_was_measured(make_trainer):
    trainer = make_trainer(steps=14)
    evaluations = [event for event in train(trainer) if isinstance(event, Evaluated)]
    weights = checkpoint_parts(ckpt.open_checkpoint(trainer.run, "latest"))[2]
    assert not np.array_equal(weights["embedding.weight"], trainer.model.weights()["embedding.weight"])
    trainer.model.load_weights(weights)
    assert trainer._validation_loss() == pytest.approx(evaluations[-1].valid_nats_per_char, rel=1e-6)


def test_an_interrupted_evaluation_is_made_again(make_trainer):
    whole = make_trainer("whole", steps=15)
    reference = [e for e in train(whole) if isinstance(e, Evaluated)]
    first = make_trainer("first", steps=15)
    validation_loss = first._validation_loss

    def interrupted():
        first.stop()
        return validation_loss()

    first._validation_loss = interrupted
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
        lambda trainer: setattr(trainer.schedule.plateau, "factor", -1.0),
    ],
)
def test_a_rate_that_no_training_has_is_refused(make_trainer, spoil):
    trainer = make_trainer(steps=2)
    spoil(trainer)
    ckpt.save_step(trainer.run, 0, training_state.snapshot(trainer, finished=False))
    with pytest.raises(DataError, match="multiplies the rate"):
        resumed(trainer)


def test_it_learns(make_trainer):
    model = {"layers": 1, "hidden": 64, "embedding": 64}
    trainer = make_trainer(steps=300, lr=2e-2, batch=16, bptt=40, eval_every=50, model=model)
    events = train(trainer)
    first = next(e for e in events if isinstance(e, Stepped))
    assert first.nats_per_char == pytest.approx(math.log(trainer.model.config.vocabulary_size), rel=0.1)
    assert events[-1].best_nats_per_char < 0.6 * float(trainer.corpus.description["unigram_nats"])


def test_the_same_seed_gives_the_same_run_and_another_seed_another(make_trainer):
    digests = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        trainer = make_trainer(name, steps=8, seed=seed)
        train(trainer)
        digests.append(digest(trainer))
    assert digests[0] == digests[1] != digests[2]


def test_best_and_latest_are_kept(make_trainer):
    trainer = make_trainer(steps=30, save_every=4.0, save_every_unit="steps")
    saved = [e.step for e in train(trainer) if isinstance(e, Saved)]
    assert {4, 8, 12, 16, 20, 24, 28} <= set(saved)
    assert set(ckpt.step_numbers(trainer.run)) == {30, trainer.progress.best_step}
    best = ckpt.open_checkpoint(trainer.run)
    assert best.validation == trainer.progress.best
    assert not [p for p in trainer.run.rglob("*") if p.suffix in (".pt", ".pth", ".pkl", ".bin")]


def test_the_weight_shared_with_the_decoder_is_saved_once(make_trainer):
    trainer = make_trainer(steps=1)
    train(trainer)
    opened = ckpt.open_checkpoint(trainer.run)
    tensors = ckpt.tensors_from_bytes(opened.files[ckpt.MODEL], "model")
    assert {name: t.shape for name, t in tensors.items()} == trainer.model.config.parameter_shapes()


def test_the_reported_loss_is_the_loss_of_the_saved_weights(make_trainer, corpus):
    trainer = make_trainer(steps=14)
    evaluated = [e for e in train(trainer) if isinstance(e, Evaluated)][-1]
    ids = corpus.ids("valid")
    with trainer.average.applied():
        exact = evaluate(TorchEngine(trainer.model), corpus.tokenizer, [ids.read(0, len(ids))])
    assert evaluated.valid_nats_per_char == pytest.approx(exact.nats_per_char, rel=5e-3)


def poison(trainer, steps, monkeypatch, also=lambda step: False):
    """Let the loss be no number in some steps, and where ``also`` says so."""
    import charlm.training as module

    genuine = module.cross_entropy

    def poisoned(logits, targets):
        loss = genuine(logits, targets)
        return loss * math.nan if trainer.progress.step in steps or also(trainer.progress.step) else loss

    monkeypatch.setattr(module, "cross_entropy", poisoned)


def test_a_loss_that_is_no_number_changes_no_weight(make_trainer, monkeypatch):
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


def test_a_gradient_that_is_infinite_changes_no_weight(make_trainer):
    trainer = make_trainer(steps=6, eval_every=100)

    def explode(gradient):
        return gradient * math.inf if trainer.progress.step == 3 else gradient

    trainer.model.layers()[0].weight_hh.register_hook(explode)
    skipped = [e.step for e in train(trainer) if isinstance(e, Stepped) and e.skipped]
    assert skipped == [4]
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_it_gives_up_when_nothing_is_finite_and_saves_good_weights(make_trainer, monkeypatch):
    trainer = make_trainer(steps=100, eval_every=1000)
    poison(trainer, set(range(5, 100)), monkeypatch)
    with pytest.raises(DivergedError, match="--lr") as error:
        train(trainer)
    assert error.value.exit_code == 70
    data = ckpt.open_checkpoint(trainer.run, "latest").files[ckpt.MODEL]
    weights_from_bytes(data, "model", trainer.model.config.parameter_shapes())


def test_a_divergence_goes_back_once_and_on_at_a_lower_rate(make_trainer, monkeypatch):
    trainer = make_trainer(steps=60, eval_every=10, schedule="constant")
    left = [MAX_SKIPPED_IN_A_ROW]  # the trouble passes
    poison(
        trainer, set(), monkeypatch, lambda step: step >= 33 and left.append(left.pop() - 1) is None and left[0] >= 0
    )
    events = train(trainer)
    (back,) = [event for event in events if isinstance(event, RolledBack)]
    best = [e for e in events[: events.index(back)] if isinstance(e, Evaluated) and e.is_best][-1]
    assert (back.step, back.factor) == (best.step, ROLLBACK_FACTOR)
    after = [event for event in events[events.index(back) :] if isinstance(event, Stepped)]
    assert [event.step for event in after] == list(range(back.step + 1, 61))
    assert [event.rate for event in after] == pytest.approx([trainer.config.lr * ROLLBACK_FACTOR] * len(after))
    assert not any(event.skipped for event in after)
    assert events[-1].reason == "budget"
    assert sorted({e["step"] for e in metrics_of(trainer) if e["kind"] == "valid"}) == [10, 20, 30, 40, 50, 60]


def test_the_second_divergence_ends_it(make_trainer, monkeypatch):
    trainer = make_trainer(steps=100, eval_every=10)
    poison(trainer, set(range(33, 100)), monkeypatch)
    backs = itertools.count()
    with pytest.raises(DivergedError, match="last good one") as error:
        train(trainer, on=lambda event: isinstance(event, RolledBack) and next(backs))
    assert error.value.exit_code == 70
    assert next(backs) == 1
    for step in ckpt.step_numbers(trainer.run):
        opened = ckpt.open_checkpoint(trainer.run / f"step-{step}")
        weights_from_bytes(opened.files[ckpt.MODEL], "model", trainer.model.config.parameter_shapes())


def test_a_rollback_survives_an_interruption(make_trainer, monkeypatch):
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


def metrics_of(trainer):
    return [json.loads(line) for line in (trainer.run / "metrics.jsonl").read_text().splitlines()]


def test_clipping_bounds_the_gradient_and_is_counted(make_trainer):
    trainer = make_trainer(steps=7, clip=0.05)
    evaluated = next(e for e in train(trainer) if isinstance(e, Evaluated))
    assert evaluated.clipped_share == 1.0
    total = math.sqrt(sum(float((p.grad**2).sum()) for p in trainer.model.parameters()))
    assert total <= 0.05 * 1.001


def test_early_stop_without_a_budget(make_trainer, monkeypatch):
    trainer = make_trainer(eval_every=1, lr=1e-9)
    end = train(trainer)[-1]
    assert isinstance(end, Finished)
    assert end.reason == "early stop"


def test_steps_and_epochs_switch_early_stop_off(make_trainer):
    trainer = make_trainer(eval_every=1, lr=1e-9, steps=40)
    assert (train(trainer)[-1].reason, trainer.progress.step) == ("budget", 40)
    trainer = make_trainer("epochs", eval_every=10**6, epochs=2, batch=50, bptt=40)
    train(trainer)
    assert trainer.progress.step == 2 * trainer.batches.chunks_per_epoch


def test_a_time_budget_is_kept(make_trainer):
    trainer = make_trainer(seconds=2.0, eval_every=10, schedule="constant")
    end = train(trainer)[-1]
    assert end.reason == "budget"
    assert trainer.progress.evaluated_step == trainer.progress.step


def test_without_validation_text_it_trains_all_the_same(make_trainer, corpus):
    trainer = make_trainer(steps=15)
    trainer.steering.ids = trainer.steering.ids[:0]
    events = train(trainer)
    assert all(e.valid_nats_per_char is None for e in events if isinstance(e, Evaluated))
    assert ckpt.open_checkpoint(trainer.run).step == 15


def test_a_failed_save_is_tried_again_and_three_end_it(make_trainer, monkeypatch):
    import charlm.training as module

    genuine, failures = ckpt.save_step, [2]

    def full_disk(*arguments):
        if failures[0]:
            failures[0] -= 1
            raise InputOutputError("no room")
        return genuine(*arguments)

    monkeypatch.setattr(module.ckpt, "save_step", full_disk)
    trainer = make_trainer("twice", steps=12, save_every=1.0, save_every_unit="steps", eval_every=100)
    events = train(trainer)
    assert [type(e) for e in events if isinstance(e, (SaveFailed, Saved))][:3] == [SaveFailed, SaveFailed, Saved]
    failures[0] = 3
    trainer = make_trainer("thrice", steps=12, save_every=1.0, save_every_unit="steps", eval_every=100)
    with pytest.raises(InputOutputError):
        train(trainer)


def test_a_best_step_that_could_not_be_saved_is_not_called_best(make_trainer, monkeypatch):
    import charlm.training as module

    genuine = ckpt.save_step
    trainer = make_trainer(steps=30, eval_every=10, lr=1e-2)

    def refuse_the_best(run, step, files):
        if step == 20:
            raise InputOutputError("no room")
        return genuine(run, step, files)

    monkeypatch.setattr(module.ckpt, "save_step", refuse_the_best)
    losses = iter([3.0, 1.0, 2.0])
    trainer._validation_loss = lambda: next(losses)
    events = train(trainer)
    assert [e.step for e in events if isinstance(e, SaveFailed)] == [20]
    assert trainer.progress.best_step == 30
    assert ckpt.open_checkpoint(trainer.run).validation == trainer.progress.best == 2.0


@pytest.mark.parametrize("loss", [math.inf, math.nan])
def test_a_validation_loss_that_is_no_number_is_never_best(make_trainer, loss):
    trainer = make_trainer(steps=14)
    losses = iter([loss, 2.0])
    trainer._validation_loss = lambda: next(losses)
    train(trainer)
    assert (trainer.progress.best, trainer.progress.best_step) == (2.0, 14)


def test_weights_that_are_no_numbers_are_never_saved(make_trainer):
    trainer = make_trainer(steps=40, save_every=5.0, save_every_unit="steps")
    events = trainer.events()
    while trainer.progress.step < 12:
        next(events)
    for _ in range(2):  # the first time it goes back
        with torch.no_grad():
            trainer.model.decoder.bias[3] = math.inf
        if trainer.progress.rate_factor == 1.0:
            assert any(isinstance(event, RolledBack) for event in itertools.islice(events, 30))
    with pytest.raises(DivergedError, match="last good one"):
        list(events)
    opened = ckpt.open_checkpoint(trainer.run, "latest")
    weights_from_bytes(opened.files[ckpt.MODEL], "model", trainer.model.config.parameter_shapes())


def test_metrics_that_cannot_be_written_do_not_stop_it(make_trainer, caplog):
    trainer = make_trainer(steps=10)
    (trainer.run / "metrics.jsonl").mkdir()
    assert train(trainer)[-1].reason == "budget"
    assert "metrics.jsonl" in caplog.text


@pytest.mark.parametrize("damage", ["missing", "shape", "dtype", "all"])
def test_a_damaged_optimizer_memory_is_refused(make_trainer, damage):
    trainer = make_trainer(steps=3)
    train(trainer)
    files = dict(ckpt.open_checkpoint(trainer.run, "latest", ckpt.ALL_FILES).files)
    tensors = ckpt.tensors_from_bytes(files[ckpt.STATE_TENSORS], "state")
    name = "optimizer.0.exp_avg"
    if damage == "missing":
        del tensors[name]
    elif damage == "shape":
        tensors[name] = tensors[name][:1]
    elif damage == "dtype":
        tensors[name] = tensors[name].astype(np.int32)
    else:
        tensors = {n: t for n, t in tensors.items() if not n.startswith("optimizer.1.")}
    ckpt.save_step(trainer.run, 3, {**files, ckpt.STATE_TENSORS: ckpt.tensors_to_bytes(tensors)})
    with pytest.raises(DataError, match="optimizer"):
        resumed(trainer)


def test_a_resumed_clock_goes_on(make_trainer):
    trainer = make_trainer(seconds=100.0, schedule="constant")
    trainer.progress.seconds = 50.0
    train(trainer, 2)
    before = trainer.budget_progress()
    assert before > 0.4
    assert resumed(trainer).budget_progress() == pytest.approx(before, abs=0.02)


def test_out_of_memory_saves_first_and_says_what_to_lower(make_trainer):
    trainer = make_trainer(steps=20, eval_every=100)
    learn = trainer._learn

    def grow(chunk):
        if trainer.progress.step == 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return learn(chunk)

    trainer._learn = grow
    with pytest.raises(OutOfMemoryError, match=r"--batch 4 and --bptt 20 take at least .* choose a smaller") as error:
        train(trainer)
    assert (error.value.exit_code, ckpt.step_numbers(trainer.run)) == (71, [6])


def test_a_checkpoint_of_another_corpus_is_refused(make_trainer, corpus, monkeypatch):
    trainer = make_trainer(steps=2)
    train(trainer)
    other = make_trainer("other", steps=2, model={"hidden": 32})
    checkpoint = ckpt.open_checkpoint(trainer.run, "latest", ckpt.ALL_FILES)
    with pytest.raises(DataError, match="belong together"):
        training_state.restore(other, checkpoint)


def test_resuming_elsewhere_is_said(make_trainer, caplog):
    trainer = make_trainer(steps=2)
    train(trainer)
    torch.set_num_threads(2)
    try:
        checkpoint = ckpt.open_checkpoint(trainer.run, "latest", ckpt.ALL_FILES)
        from dataclasses import replace

        Trainer.resume(trainer.run, trainer.corpus, checkpoint, replace(trainer.config, threads=2))
    finally:
        torch.set_num_threads(1)
    assert "threads was 1, is 2" in caplog.text
