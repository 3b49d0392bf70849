import math

import pytest

from charlm.training.budget import EvaluationSpeed, TrainingSpeed, plan_evaluations, rounded_speed


def test_speeds_are_rounded_to_powers_of_the_square_root_of_2():
    for value in (0.3, 1.0, 17.0, 40_000.0):
        rounded = rounded_speed(value)
        assert math.log2(rounded) * 2 == pytest.approx(round(math.log2(rounded) * 2))
        assert 2**-0.25 <= rounded / value <= 2**0.25
        assert rounded_speed(rounded) == rounded


def test_short_steps_are_slower_per_id():
    speed = TrainingSpeed(per_step=0.03, per_id=2e-5)
    assert speed.ids_per_second(4096) == rounded_speed(4096 / (0.03 + 4096 * 2e-5))
    assert speed.ids_per_second(256) < speed.ids_per_second(4096) / 2


@pytest.mark.parametrize("per_id", [1e-7, 1e-5, 1e-3, 1.0])
@pytest.mark.parametrize("limit", [10.0, 600.0])
def test_an_evaluation_fits_into_a_small_share_of_the_limit_or_is_as_small_as_possible(per_id, limit):
    speed = EvaluationSpeed(per_id, 3 * per_id)
    plan = plan_evaluations(speed, 10**6, limit)
    assert plan.seconds == pytest.approx(speed.seconds(plan.max_ids, plan.max_ids), rel=0.2)
    assert plan.max_ids == 1024 or speed.seconds(plan.max_ids, plan.max_ids) <= 0.05 * limit
    assert plan.max_ids == 1 << 17 or speed.seconds(2 * plan.max_ids, 2 * plan.max_ids) > 0.05 * limit
    assert plan_evaluations(speed, 100, limit).seconds <= plan.seconds


def test_a_short_validation_text_is_read_whole_and_none_costs_nothing():
    slow = EvaluationSpeed(1e-3, 0.0)
    assert plan_evaluations(slow, 1500, 100.0).max_ids == 1 << 17
    assert plan_evaluations(slow, 0, 100.0).seconds < 0.01
