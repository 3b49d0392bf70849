import math

import pytest
import torch

from charlm.training import schedule as module
from charlm.training.schedule import PLATEAU_FACTOR, PLATEAU_PATIENCE, Plateau, Schedule


def test_plateau_agrees_with_torch():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    expected = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=module.PLATEAU_FACTOR, patience=module.PLATEAU_PATIENCE, threshold=module.PLATEAU_THRESHOLD
    )
    ours = Plateau()
    random = torch.Generator().manual_seed(0)
    for evaluation in range(120):
        loss = 3.0 / (1 + evaluation / 10) + 0.3 * torch.rand(1, generator=random).item()
        expected.step(loss)
        ours.observe(loss)
        assert ours.factor == pytest.approx(optimizer.param_groups[0]["lr"])
    assert ours.reductions >= 2


def test_warm_up_rises_to_the_full_learning_rate():
    schedule = Schedule("constant", 10)
    factors = [schedule.factor(step, None) for step in range(12)]
    assert factors[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert factors[10:] == [1.0, 1.0]
    assert Schedule("constant", 0).factor(0, None) == 1.0


def test_warm_up_that_is_a_share_follows_the_budget_and_not_the_steps():
    schedule = Schedule("constant", 0, 0.2)
    factors = [schedule.factor(step, spent, spent + 0.05) for step, spent in ((0, 0.0), (1, 0.05), (9, 0.05), (2, 0.9))]
    assert factors == pytest.approx([0.25, 0.5, 0.5, 1.0])
    assert schedule.factor(0, 0.0) == module.FINAL_FACTOR  # never 0, which would waste the step
    assert schedule.factor(7, None) == 1.0


@pytest.mark.parametrize("kind", ["plateau", "cosine"])
def test_a_budget_ends_near_zero(kind):
    schedule = Schedule(kind, 0)
    factors = [schedule.factor(step, step / 100) for step in range(101)]
    assert factors[0] == 1.0
    assert factors[-1] == pytest.approx(module.FINAL_FACTOR)
    assert factors == sorted(factors, reverse=True)


def test_without_a_budget_only_the_plateau_lowers_the_learning_rate():
    schedule = Schedule("plateau", 0)
    assert schedule.factor(10**6, None) == 1.0
    for _ in range(module.PLATEAU_PATIENCE + 2):
        schedule.observe(1.0)
    assert schedule.factor(10**6, None) == pytest.approx(module.PLATEAU_FACTOR)


def test_exhausted_after_the_last_reduction_without_improvement():
    schedule = Schedule("plateau", 0)
    evaluations = 0
    while not schedule.exhausted:
        schedule.observe(1.0)
        evaluations += 1
    assert evaluations == 1 + (module.PLATEAU_PATIENCE + 1) * (module.MAX_REDUCTIONS + 1)


def test_a_restored_schedule_continues_like_the_original():
    losses = [2.0, 1.5, 1.6, 1.55, 1.7, 1.52, 1.4, 1.41, 1.5]
    whole = Schedule("plateau", 5)
    for loss in losses:
        whole.observe(loss)
    for cut in range(len(losses)):
        first, second = Schedule("plateau", 5), Schedule("plateau", 5)
        for loss in losses[:cut]:
            first.observe(loss)
        second.restore(first.state(), "here")
        for loss in losses[cut:]:
            second.observe(loss)
        assert second.state() == whole.state()


def test_a_new_state_holds_infinity_as_a_string():
    assert Schedule("plateau", 5).state()["best"] == "inf"
    again = Schedule("plateau", 5)
    again.restore(Schedule("plateau", 5).state(), "here")
    assert math.isinf(again.plateau.best)


def test_the_cool_down_is_not_lowered_further_at_a_plateau():
    schedule = Schedule("plateau", 0)
    schedule.factor(0, 0.2)
    for _ in range(2 * (PLATEAU_PATIENCE + 1)):  # the first loss is an improvement
        schedule.observe(1.0)
    assert schedule.plateau.factor == PLATEAU_FACTOR
    schedule.factor(1, 0.6)
    before = schedule.state()
    again = Schedule("plateau", 0)
    again.restore(before, "here")  # also where an evaluation comes first after resuming
    for one in (schedule, again):
        for _ in range(10):
            one.observe(1.0)
        assert one.state() == before
    schedule.factor(2, 0.3)  # a resumed run may have a longer limit
    for _ in range(PLATEAU_PATIENCE + 1):
        schedule.observe(1.0)
    assert schedule.plateau.factor < PLATEAU_FACTOR
