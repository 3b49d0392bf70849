"""N processes train as one does. Here they are threads; tests/test_torchrun.py starts real ones."""

import dataclasses
import math
import shutil
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import BRIEF, DROPOUTS, TINY

from charlm.checkpoint.run_folder import SOFT_TARGETS, RunFolder
from charlm.checkpoint.step import ALL_FILES, open_checkpoint
from charlm.config import ModelConfig, TrainingConfig
from charlm.corpus.prepared import open_corpus
from charlm.engine.torch import TorchEngine
from charlm.evaluation.measure import evaluate, evaluate_streams
from charlm.evaluation.teaching import write_soft_targets
from charlm.model.char_lm import CharLM
from charlm.system.processes import ALONE, Group
from charlm.training.events import Evaluated, GenerationBegan, Saved, Stepped
from charlm.training.shared_engine import SharedEngine
from charlm.training.trainer import MAX_SKIPPED_IN_A_ROW, Trainer


class ThreadGroup(Group):
    """One of ``size`` threads that act as processes. They share ``exchange``."""

    def __init__(self, rank, exchange):
        self.rank, self.size, self.exchange = rank, exchange.size, exchange

    def add(self, tensor):
        tensor.copy_(sum(self.exchange.all(self.rank, tensor.clone())))

    def gather_rows(self, rows_BH, total):
        gathered = rows_BH.new_empty(total, *rows_BH.shape[1:])
        for rank, rows in enumerate(self.exchange.all(self.rank, rows_BH)):
            gathered[rank :: self.size] = rows
        return gathered

    def on_first(self, work):
        outcome = None
        if self.is_first:
            try:
                outcome = work()
            except Exception as error:
                outcome = error
        outcome = self.exchange.all(self.rank, outcome)[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def clock(self):
        return self.exchange.now

    def agree(self, stop):
        stops = self.exchange.all(self.rank, stop)
        if self.is_first:
            self.exchange.now += 1.0
        self.exchange.all(self.rank, None)
        return any(stops)


class Exchange:
    """Every thread puts a value in, and gets those of all."""

    def __init__(self, size):
        self.size, self.now = size, 1000.0
        self._values = [None] * size
        self._barrier = threading.Barrier(size, timeout=60)

    def all(self, rank, value):
        self._values[rank] = value
        self._barrier.wait()
        values = list(self._values)
        self._barrier.wait()
        return values

    def abort(self):
        self._barrier.abort()


def on_all(size: int, work: Callable[[Group], object]) -> list:
    """The results of ``work`` on ``size`` threads; raises the first error."""
    if size == 1:
        return [work(ALONE)]
    exchange, results, errors = Exchange(size), [None] * size, []

    def run(rank):
        try:
            results[rank] = work(ThreadGroup(rank, exchange))
        except Exception as error:
            errors.append(error)
            exchange.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    real = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    if errors:
        raise (real or errors)[0]
    return results


REGULARIZED = {"ar": 1.0, "tar": 1.0, "state_reset": 0.2}


@pytest.fixture
def train_on(tmp_path):
    """A function that trains on ``size`` processes and returns, for each, its trainer and its events."""

    def train(size, of, name=None, resume=False, on=lambda trainer, event: None, model=None, **training):
        run = tmp_path / (name or f"run{size}")
        if not (run / "corpus").exists():
            shutil.copytree(of.folder, run / "corpus")
        if training.get("soft_weight") and "generations" not in training and not (run / SOFT_TARGETS).exists():
            teacher = CharLM(ModelConfig(of.tokenizer.vocabulary_size, 1, 16, 16), seed=9)
            write_soft_targets(run / SOFT_TARGETS, TorchEngine(teacher), of, ["one"])
        dropouts = {"dropout_hidden": 0.2, "dropout_output": 0.3, "dropout_embedding": 0.1, "weight_drop": 0.2}
        shape = {**TINY, **DROPOUTS, **dropouts, "dropout_input": 0.1, **(model or {})}
        config = TrainingConfig(**{**BRIEF, "batch": 6, "eval_every": 10, **training})

        def one(group):
            own = open_corpus(run / "corpus")
            if resume:
                trainer = Trainer.resume(run, own, open_checkpoint(run, "latest", ALL_FILES), config, group=group)
            else:
                trainer = Trainer(run, own, ModelConfig(own.tokenizer.vocabulary_size, **shape), config, group=group)
            events = []
            for event in trainer.events():
                events.append(event)
                on(trainer, event)
            return trainer, events

        return on_all(size, one)

    return train


def losses(events):
    return [event.nats_per_char for event in events if isinstance(event, Stepped)]


def validations(events):
    return [event.valid_nats_per_char for event in events if isinstance(event, Evaluated)]


def grad_norms(events):
    return [event.grad_norm for event in events if isinstance(event, Evaluated)]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("kind", ["streams", "documents"])
def test_several_processes_train_as_one(train_on, corpus, document_corpus, size, kind):
    of = corpus if kind == "streams" else document_corpus
    options = {**REGULARIZED, "steps": 50, **({"state_reset": 0.0, "bptt": 8} if kind == "documents" else {})}
    options["soft_weight"] = 0.5 if size == 2 else 0.0
    ((one, expected),) = train_on(1, of, **options)
    outcomes = train_on(size, of, **options)
    for trainer, events in outcomes:
        assert losses(events) == pytest.approx(losses(expected), rel=1e-5)
        assert validations(events) == pytest.approx(validations(expected), rel=1e-5)
        assert grad_norms(events) == pytest.approx(grad_norms(expected), rel=1e-4)
        assert [event.characters for event in events if isinstance(event, Stepped)] == [
            event.characters for event in expected if isinstance(event, Stepped)
        ]
        for name, weight in trainer.model.weights().items():
            np.testing.assert_allclose(weight, one.model.weights()[name], rtol=1e-3, atol=2e-5)
            np.testing.assert_array_equal(weight, outcomes[0][0].model.weights()[name])
    assert len(losses(expected)) == 50


def test_several_processes_train_generations_as_one(train_on, corpus):
    options = {**REGULARIZED, "steps": 20, "generations": 2, "soft_weight": 0.5}
    ((_, expected),) = train_on(1, corpus, **options)
    for _, events in train_on(3, corpus, **options):
        assert [event.step for event in events if isinstance(event, GenerationBegan)] == [10]
        assert losses(events) == pytest.approx(losses(expected), rel=1e-5)
        assert validations(events) == pytest.approx(validations(expected), rel=1e-5)


def test_a_run_goes_on_with_another_number_of_processes(train_on, corpus):
    options = {**REGULARIZED, "steps": 50}
    ((_, expected),) = train_on(1, corpus, **options)
    stops, found = {2: 17, 1: 31}, []

    def stop(trainer, event):
        if isinstance(event, Stepped) and event.step == stops.get(trainer.group.size):
            trainer.stop()

    for size in (2, 1, 3):
        outcomes = train_on(size, corpus, "moving", resume=size != 2, on=stop, **options)
        found += losses(outcomes[0][1])
    assert found == pytest.approx(losses(expected), rel=1e-5)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("kind", ["streams", "documents"])
def test_several_processes_evaluate_as_one(corpus, document_corpus, size, kind):
    of = corpus if kind == "streams" else document_corpus
    ids = of.ids("train").read(0, 4000)
    model = CharLM(ModelConfig(of.tokenizer.vocabulary_size, 2, 24, 16), seed=1)

    def loss(group):
        engine = TorchEngine(model)
        engine = engine if group is ALONE else SharedEngine(engine, group)
        if kind == "streams":
            return evaluate_streams(engine, of.tokenizer, ids, streams=8, warmup=16).nats
        return evaluate(engine, of.tokenizer, [ids]).nats

    (expected,) = on_all(1, loss)
    assert on_all(size, loss) == pytest.approx([expected] * size, rel=1e-9)


@pytest.mark.parametrize("asked", [0, 1, 2])
def test_a_stop_of_any_process_stops_all_and_saves_once(train_on, corpus, asked):
    def stop(trainer, event):
        if isinstance(event, Stepped) and event.step == 7 and trainer.group.rank == asked:
            trainer.stop()

    outcomes = train_on(3, corpus, steps=50, on=stop, eval_every=100)
    for trainer, events in outcomes:
        assert events[-1].reason == "interrupted"
        assert len(losses(events)) == 8  # the step after the one after which it was asked
        assert [event.step for event in events if isinstance(event, Saved)] == [8]
        assert trainer.progress.saved_step == 8
    assert RunFolder(outcomes[0][0].run).step_numbers() == [8]


def test_a_non_finite_share_skips_the_step_on_all(train_on, corpus):
    def poison(trainer, event):
        if isinstance(event, Stepped) and event.step == 5 and trainer.group.rank == 1:
            trainer.state.carried = tuple((h_BH * math.nan, c_BH) for h_BH, c_BH in trainer.state.carried)

    outcomes = train_on(2, corpus, steps=12, on=poison, eval_every=100)
    for trainer, events in outcomes:
        assert trainer.progress.skipped_steps >= 1
        assert [event.skipped for event in events if isinstance(event, Stepped)] == [
            event.skipped for event in outcomes[0][1] if isinstance(event, Stepped)
        ]
        assert all(torch.isfinite(weight).all() for weight in trainer.model.parameters())


def test_all_processes_roll_back_together(train_on, corpus):
    def poison(trainer, event):
        if trainer.progress.rate_factor == 1.0 and trainer.progress.step >= 12:
            with torch.no_grad():
                trainer.model.decoder.bias.fill_(math.nan)

    outcomes = train_on(2, corpus, steps=12 + MAX_SKIPPED_IN_A_ROW + 5, on=poison)
    for trainer, events in outcomes:
        assert trainer.progress.rate_factor < 1.0
        assert losses(events)[-3:] == losses(outcomes[0][1])[-3:]
        assert all(math.isfinite(loss) for loss in losses(events)[-3:])


def test_a_time_limit_follows_the_clock_of_the_first_process(train_on, corpus):
    """The clock of the others does not matter: here all have the same, which moves when they agree."""
    outcomes = train_on(3, corpus, seconds=60.0, eval_every=20)
    steps = {len(losses(events)) for _, events in outcomes}
    assert len(steps) == 1
    assert 20 < steps.pop() < 60


def test_only_the_first_process_writes(train_on, corpus):
    outcomes = train_on(3, corpus, steps=20)
    run = outcomes[0][0].run
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert [dataclasses.asdict(event)["sample"] != "" for event in outcomes[1][1] if isinstance(event, Evaluated)] == [
        False,
        False,
    ]
