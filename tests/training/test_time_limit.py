"""A limit in seconds, on a clock that moves only when something is done that takes time."""

import itertools

import pytest
from conftest import DROPOUTS
from trainers import metrics_of, resumed_with, train

from charlm.checkpoint.step import GRADIENTS, open_checkpoint
from charlm.config import TrainingConfig
from charlm.evaluation.percentiles import MAX_IDS
from charlm.training import saving
from charlm.training.events import Evaluated, Stepped
from charlm.training.state import Progress
from charlm.training.time_limit import TimeLimit
from charlm.training.update import UpdateResult

NO_DROPOUT = dict.fromkeys(DROPOUTS, 0.0)


class Clock:
    """Seconds that pass in a step, an evaluation, a save, and a segment of the gradients."""

    def __init__(self, step, evaluation=0.5, save=0.1, segment=0.01):
        self.now, self.step, self.evaluation, self.save, self.segment = 1000.0, step, evaluation, save, segment
        self.segments = []

    def __call__(self):
        return self.now

    def attach(self, trainer, monkeypatch):
        """Let what ``trainer`` does take time on this clock. Its steps do nothing else."""

        def apply(chunk, state, lr):
            self.now += self.step
            return trainer.model.initial_state(chunk.inputs_TB.shape[1])

        monkeypatch.setattr(trainer._update, "apply", apply)
        monkeypatch.setattr(trainer._update, "results", lambda: [UpdateResult(1.0, 1.0)])
        self._slow(trainer.validator, "evaluate", lambda: self.evaluation, monkeypatch)
        self._slow(trainer.saver, "save", lambda: self.save, monkeypatch)

        def rms(model, corpus, count, stop=lambda: False, compute=saving.compute_gradient_rms):
            self.now += count * self.segment
            self.segments.append(count)
            return compute(model, corpus, 1)

        monkeypatch.setattr(saving, "compute_gradient_rms", rms)

    def _slow(self, owner, name, seconds, monkeypatch):
        work = getattr(owner, name)

        def slow(*arguments, **keywords):
            self.now += seconds()
            return work(*arguments, **keywords)

        monkeypatch.setattr(owner, name, slow)


@pytest.fixture
def timed(make_trainer, monkeypatch):
    """A function that makes a trainer on a ``Clock``."""

    def make(clock, seconds, prepared=0.5, expected_evaluation=0.5, name="run", **options):
        trainer = make_trainer(
            name, clock=clock, seconds=seconds, model=NO_DROPOUT, average="none", validation_ids=500, **options
        )
        trainer.begin(prepared, expected_evaluation)
        clock.attach(trainer, monkeypatch)
        return trainer

    return make


@pytest.mark.parametrize("seconds", [10.0, 100.0])
@pytest.mark.parametrize("step", [0.2, 1.0, 3.9])
@pytest.mark.parametrize("evaluation", [0.02, 1.0])
@pytest.mark.parametrize("segment", [0.0, 0.05, 2.0])
def test_a_training_ends_at_its_limit_whatever_takes_how_long(timed, seconds, step, evaluation, segment):
    clock = Clock(step, evaluation, 0.1, segment)
    trainer = timed(clock, seconds, expected_evaluation=0.7 * evaluation, eval_every=50)
    end = train(trainer)[-1]
    assert end.reason == "budget"
    assert abs(end.seconds - seconds) <= max(2.0, 0.03 * seconds)
    assert trainer.progress.evaluated_step == trainer.progress.step


def test_the_learning_rate_rises_in_a_share_of_the_time_and_falls_to_its_end(timed):
    trainer = timed(Clock(0.5), 60.0, warmup=0, warmup_share=0.2, schedule="constant")
    rates = [event.lr / trainer.config.lr for event in train(trainer) if isinstance(event, Stepped)]
    risen = next(number for number, rate in enumerate(rates) if rate == pytest.approx(1.0))
    assert risen / len(rates) == pytest.approx(0.2, abs=0.02)
    assert rates[:risen] == sorted(rates[:risen])
    assert rates[risen // 2] == pytest.approx(0.5, abs=0.1)
    falling = timed(Clock(0.5), 60.0, name="falling", warmup=0, schedule="cosine")
    assert [event.lr for event in train(falling) if isinstance(event, Stepped)][-1] < 0.02 * falling.config.lr


def test_no_evaluation_is_made_shortly_before_the_last_one(timed):
    trainer = timed(Clock(0.5, evaluation=2.0), 40.0, expected_evaluation=2.0, eval_every=5)
    evaluated = [event for event in train(trainer) if isinstance(event, Evaluated)]
    gaps = [b.seconds - a.seconds for a, b in itertools.pairwise(evaluated)]
    assert len(evaluated) > 3
    assert min(gaps) >= 2.0 + 2.0


@pytest.mark.parametrize(("segment", "saved"), [(0.001, True), (1.0, False)])
def test_the_size_of_the_gradients_is_computed_from_what_there_is_time_for(timed, segment, saved):
    clock = Clock(0.05, evaluation=0.1, segment=segment)
    trainer = timed(clock, 20.0, expected_evaluation=0.1, eval_every=100)
    assert train(trainer)[-1].reason == "budget"
    assert (GRADIENTS in open_checkpoint(trainer.run, names=[GRADIENTS]).files) == saved
    assert clock.segments[0] == 1  # one is timed
    assert len(clock.segments) == 1 + saved
    if saved:
        assert clock.segments[1] >= 10


def test_a_resumed_training_ends_at_the_same_time(timed, monkeypatch):
    clock = Clock(0.4)
    first = timed(clock, 30.0, expected_evaluation=0.7, warmup=0, warmup_share=0.1)
    assert first.progress.evaluation_seconds == 0.7
    train(first, 20)
    before = first.budget_progress()
    clock.now += 500.0  # between the sessions
    second = resumed_with(first, clock)
    assert second.budget_progress() == pytest.approx(before, abs=0.02)
    assert (second.progress.preparation_seconds, second.progress.evaluation_seconds) == (0.5, 0.5)
    clock.attach(second, monkeypatch)
    end = train(second)[-1]
    assert abs(end.seconds - 30.0) <= 1.0
    assert [entry["step"] for entry in metrics_of(second) if entry["kind"] == "valid"][-1] == end.step


@pytest.mark.parametrize(("step", "prepared"), [(50.0, 0.5), (0.1, 20.0)])
def test_at_least_one_step_is_made(timed, step, prepared):
    trainer = timed(Clock(step), 10.0, prepared)
    train(trainer)
    assert trainer.progress.step == 1


def test_without_a_measurement_the_first_steps_tell_how_long_an_evaluation_takes():
    config = TrainingConfig(seconds=100.0, batch=10, bptt=10)
    limit = TimeLimit.of(config, 1000, evaluation_ids=5000)
    assert TimeLimit.of(TrainingConfig(steps=3), 1000, 5000) is None
    for seconds in (3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        limit.note_step(seconds)
    assert limit.step_seconds == pytest.approx(1.0, abs=0.4)
    # An id of the validation text takes half as long as in a step. The gradients take their largest share.
    reserved = 5000 * 0.5 * limit.step_seconds / 100 + 0.02 * 100 + 2 * limit.save_seconds
    assert limit.spent(100.0 - reserved, Progress(0, 0)) == pytest.approx(1.0)


def test_what_comes_before_the_first_step_is_no_progress():
    limit = TimeLimit.of(TrainingConfig(seconds=100.0), 1000, 0)
    progress = Progress(0, 0, preparation_seconds=30.0, evaluation_seconds=10.0)
    end = 100.0 - 10.0 - 2 * limit.save_seconds
    assert [limit.spent(seconds, progress) for seconds in (30.0, (30.0 + end) / 2, end)] == pytest.approx([0, 0.5, 1])


def test_the_measured_speed_is_what_a_step_takes_until_steps_are_made():
    config = TrainingConfig(seconds=100.0, batch=10, bptt=10, ids_per_second=50.0)
    limit = TimeLimit.of(config, 1000, 0)
    assert limit.step_seconds == 2.0
    limit.note_step(4.0)
    assert limit.step_seconds == 3.0


def test_percentiles_are_measured_from_what_half_of_the_time_left_allows():
    limit = TimeLimit.of(TrainingConfig(seconds=1000.0), 1000, evaluation_ids=2000)
    progress = Progress(0, 0)
    progress.evaluation_seconds = 2.0
    assert limit.percentile_ids(999.0 - limit.save_seconds, progress) == pytest.approx(500, abs=1)
    assert limit.percentile_ids(0.0, progress) == MAX_IDS
    assert limit.percentile_ids(2000.0, progress) == 0
