import numpy as np
import pytest

from charlm.evaluation.seeds import combine, uncertainty_of_difference, uncertainty_of_mean
from charlm.evaluation.standard_errors import Uncertainty

FIRST, SECOND = [27.5, 21.0, 19.0, 23.6, 17.0, 17.9], [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0]


def test_welch():
    """Against the formulas, written out."""
    variances = [np.var(losses, ddof=1) / len(losses) for losses in (FIRST, SECOND)]
    degrees = sum(variances) ** 2 / sum(v**2 / (len(x) - 1) for v, x in zip(variances, (FIRST, SECOND), strict=True))
    found = uncertainty_of_difference(FIRST, SECOND)
    assert found.standard_error == pytest.approx(np.sqrt(sum(variances)))
    assert found.degrees_of_freedom == pytest.approx(degrees)
    assert not found.rough


def test_a_single_run_has_no_spread():
    assert uncertainty_of_difference([1.0], SECOND) is None
    assert uncertainty_of_difference(FIRST, [1.0]) is None


def test_runs_that_are_equal():
    assert uncertainty_of_mean([1.5, 1.5]) == Uncertainty(0.0, 1)
    assert uncertainty_of_difference([1.5, 1.5], [2.0, 2.0, 2.0]) == Uncertainty(0.0, 1)


def test_a_rough_part_makes_the_whole_rough():
    parts = [Uncertainty(3.0, 8), Uncertainty(4.0, 8, rough=True)]
    assert combine(parts).standard_error == pytest.approx(5)
    assert combine(parts).rough
    assert not combine(parts[:1]).rough


@pytest.mark.parametrize("runs", [(2, 2), (3, 3), (3, 8)])
@pytest.mark.parametrize("spreads", [(1.0, 1.0), (1.0, 3.0)])
def test_the_interval_covers_the_difference_of_two_recipes(runs, spreads):
    """With two runs a side, Welch's interval is known to be too long."""
    draw = np.random.default_rng(6)
    pairs = [
        [draw.normal(0.0, spread, count) for count, spread in zip(runs, spreads, strict=True)] for _ in range(2000)
    ]
    found = [uncertainty_of_difference(*pair).interval(pair[0].mean() - pair[1].mean()) for pair in pairs]
    covered = np.mean([low < 0 < high for low, high in found])
    assert 0.93 < covered < (0.97 if min(runs) > 2 else 0.99)


@pytest.mark.parametrize("runs", [2, 3, 10])
def test_the_interval_covers_the_mean_of_a_recipe(runs):
    samples = np.random.default_rng(7).normal(1.5, 0.01, (2000, runs))
    found = [uncertainty_of_mean(losses.tolist()).interval(losses.mean()) for losses in samples]
    assert 0.93 < np.mean([low < 1.5 < high for low, high in found]) < 0.97
