"""Student's t distribution."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

_STEPS = 5_000
_MAX_DEGREES = 10_000.0
"""Above this the distribution is the normal one to four digits."""


@lru_cache(maxsize=256)
def t_quantile(degrees_of_freedom: float, coverage: float = 0.95) -> float:
    """How many standard errors to either side of an estimate an interval of this ``coverage`` reaches.

    ``degrees_of_freedom``, at least 1, need not be whole. With t = sqrt(degrees) tan(x) the density of x is
    proportional to cos(x)^(degrees - 1), which is integrated numerically. Accurate to four digits.
    """
    degrees = min(degrees_of_freedom, _MAX_DEGREES)
    x = np.linspace(0.0, math.pi / 2, _STEPS + 1)
    density = np.cos(x) ** (degrees - 1)
    probability = np.append(0.0, np.cumsum(density[1:] + density[:-1]))
    return math.sqrt(degrees) * math.tan(float(np.interp(coverage * probability[-1], probability, x)))
