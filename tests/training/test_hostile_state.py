import dataclasses
import json

import numpy as np
import pytest
from trainers import resumed, train

from charlm.checkpoint.step import ALL_FILES, CONFIG, STATE, STATE_TENSORS, open_checkpoint, save_step
from charlm.checkpoint.tensors import tensors_from_bytes, tensors_to_bytes
from charlm.errors import DataError
from charlm.training.state import Progress


@pytest.fixture
def stopped(make_trainer):
    """A trainer that has saved step 8."""
    trainer = make_trainer(steps=20)
    train(trainer, interrupt_after=8)
    return trainer


def saved_with(trainer, changes):
    """Save step 8 with other files, and resume."""
    files = open_checkpoint(trainer.run, "latest", ALL_FILES).files
    save_step(trainer.run, 8, {**files, **changes(files)})
    return resumed(trainer)


def with_progress(name, value):
    def changes(files):
        values = json.loads(files[STATE])
        values["progress"][name] = value
        return {STATE: json.dumps(values).encode()}

    return changes


NUMBERS = [field.name for field in dataclasses.fields(Progress) if field.name not in ("int8_cost", "bf16_cost")]


@pytest.mark.parametrize("name", NUMBERS)
def test_negative_progress_is_refused(stopped, name):
    with pytest.raises(DataError):
        saved_with(stopped, with_progress(name, -1))


@pytest.mark.parametrize("name", ["seconds", "loss_sum", "rate", "rate_factor", "best", "evaluation_seconds"])
def test_infinite_progress_is_refused(stopped, name):
    with pytest.raises(DataError):
        saved_with(stopped, with_progress(name, "inf"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("generation", 100), ("generation_step", 9), ("generation_part", 50), ("generation_chunk", 10**6)],
)
def test_a_generation_that_cannot_be_is_refused(stopped, name, value):
    with pytest.raises(DataError, match="generation"):
        saved_with(stopped, with_progress(name, value))


def test_a_loss_that_was_not_finite_may_be_infinite(stopped):
    assert saved_with(stopped, with_progress("last_validation", "inf")).progress.step == 8


@pytest.mark.parametrize("change", [{"bad_evaluations": -1}, {"reductions": -1}, {"best": -1.0}, {"factor": 1.5}])
@pytest.mark.parametrize("part", ["schedule", "average"])
def test_an_impossible_plateau_is_refused(stopped, change, part):
    def changes(files):
        values = json.loads(files[STATE])
        plateau = values[part] if part == "schedule" else values[part]["plateau"]
        plateau.update(change)
        return {STATE: json.dumps(values).encode()}

    with pytest.raises(DataError, match="out of range"):
        saved_with(stopped, changes)


def test_a_negative_mean_square_is_refused(stopped):
    def changes(files):
        tensors = tensors_from_bytes(files[STATE_TENSORS], "")
        name = next(name for name in tensors if name.endswith("exp_avg_sq"))
        return {STATE_TENSORS: tensors_to_bytes({**tensors, name: -np.ones_like(tensors[name])})}

    with pytest.raises(DataError, match="negative"):
        saved_with(stopped, changes)


@pytest.mark.parametrize("name", ["seconds", "ids_seen", "validation", "step"])
def test_a_negative_number_in_the_description_is_refused(stopped, name):
    files = open_checkpoint(stopped.run, "latest", ALL_FILES).files
    forged = {**json.loads(files[CONFIG]), name: -1}
    save_step(stopped.run, 8, {**files, CONFIG: json.dumps(forged).encode()})
    with pytest.raises(DataError, match=f"{name} is -1"):
        open_checkpoint(stopped.run / "step-8")
