import math
from statistics import NormalDist

import pytest

from charlm.evaluation.student import t_quantile


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (8, 2.3060), (15, 2.1314), (30, 2.0423), (120, 1.9799)],
)
def test_the_quantiles_of_printed_tables(degrees, quantile):
    assert t_quantile(degrees) == pytest.approx(quantile, abs=1e-4)


def test_other_coverages_and_fractional_degrees():
    assert t_quantile(5, 0.99) == pytest.approx(4.0321, abs=1e-4)
    assert t_quantile(1, 0.5) == pytest.approx(1, abs=1e-6)  # the quartiles of Cauchy's distribution
    # For 2 degrees of freedom the quantile is known in closed form; for 2.5 it is between its neighbours.
    assert t_quantile(2, 0.8) == pytest.approx(0.8 * math.sqrt(2 / (1 - 0.8**2)), abs=1e-4)
    assert t_quantile(3) < t_quantile(2.5) < t_quantile(2)


def test_many_degrees_are_the_normal_distribution():
    normal = NormalDist().inv_cdf(0.975)
    for degrees in (400, 1e4, 1e6, 1e9):
        # Cornish and Fisher's first correction for the degrees of freedom.
        expected = normal + (normal**3 + normal) / (4 * degrees)
        assert t_quantile(degrees) == pytest.approx(expected, abs=2e-5)
