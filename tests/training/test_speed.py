import pytest
import torch
from conftest import DROPOUTS, TINY
from trainers import digest, train

from charlm.config import ModelConfig, TrainingConfig
from charlm.errors import OutOfMemoryError
from charlm.training import speed as module
from charlm.training.speed import MachineSpeed, _training_speed


class FakeTime:
    """A clock that only ``advance`` moves."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds
        return seconds


@pytest.fixture
def clock(monkeypatch):
    clock = FakeTime()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.mark.parametrize("per_step", [0.0, 1e-3, 2e-2])
@pytest.mark.parametrize("per_id", [1e-6, 2e-5, 1e-3])
@pytest.mark.parametrize("bptt", [1, 8, 128])
def test_the_times_of_steps_give_the_speed(clock, per_step, per_id, bptt):
    lengths = []

    def step(length):
        lengths.append(length)
        return clock.advance(per_step + per_id * 32 * length)

    allowed = 0.4
    speed = _training_speed(step, 32, bptt, allowed)
    ids = 32 * bptt
    assert speed.per_step + speed.per_id * ids == pytest.approx(per_step + per_id * ids, rel=0.3)
    # At least three short steps, whatever they take; else about the time that is allowed.
    assert clock.now <= 1.2 * allowed + 4 * (per_step + per_id * 64)
    assert max(lengths) <= max(bptt, 1)


def test_other_work_on_the_machine_does_not_hide_what_ids_cost(clock):
    """Short steps that took far too long would leave nothing for the ids."""
    speed = _training_speed(lambda length: clock.advance(0.1 if length == 1 else 2e-5 * 32 * length), 32, 128, 0.4)
    assert speed.per_id >= 0.3 * 2e-5


def test_a_measurement_leaves_no_trace_in_a_training(make_trainer, corpus):
    ends = []
    for name, measured in (("a", False), ("b", True)):
        state = torch.get_rng_state()
        if measured:
            machine = MachineSpeed(corpus, 2.0)
            model = ModelConfig(corpus.tokenizer.vocabulary_size, **{**TINY, **DROPOUTS})
            config = TrainingConfig(optimizer="adamw", average="ema", batch=4, bptt=20, threads=1)
            speed, evaluation = machine.training(model, config), machine.evaluation(model, config)
            assert speed.per_id > 0
            assert speed.per_step >= 0
            assert evaluation.per_id > 0
            assert evaluation.seconds(1000, 1024) > 1000 * evaluation.per_id
            assert machine.training(model, config) is speed
            assert machine.evaluation(model, config) is evaluation
        assert torch.equal(torch.get_rng_state(), state)
        trainer = make_trainer(name, steps=6)
        train(trainer)
        ends.append(digest(trainer))
    assert ends[0] == ends[1]


def test_documents_are_measured_as_well(document_corpus):
    model = ModelConfig(document_corpus.tokenizer.vocabulary_size, **TINY)
    config = TrainingConfig(optimizer="adamw", batch=400, bptt=100, threads=1)
    assert MachineSpeed(document_corpus, 1.0).training(model, config).per_id > 0


def test_a_model_that_does_not_fit_into_memory_is_refused_before_it_is_measured(corpus, monkeypatch):
    monkeypatch.setattr(module, "memory_bytes", lambda device: 10**6)
    model = ModelConfig(corpus.tokenizer.vocabulary_size, 1, 512, 512)
    with pytest.raises(OutOfMemoryError, match="choose a smaller"):
        MachineSpeed(corpus, 10.0).training(model, TrainingConfig(threads=1))
