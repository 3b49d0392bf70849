"""Student's t distribution."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

_STEPS = 5_000
_MAX_DEGREES = 1e6
"""Above this the distribution is the normal one to five digits."""
_MAX_T = 12.0
"""With many degrees, where the density is narrow, nothing that counts is beyond this t."""


@lru_cache(maxsize=256)
def t_quantile(degrees_of_freedom: float, coverage: float = 0.95) -> float:
    """How many standard errors to either side of an estimate an interval of this ``coverage`` reaches.

    ``degrees_of_freedom``, at least 1, need not be whole. With t = sqrt(degrees) tan(x) the density of x is
    proportional to cos(x)^(degrees - 1), which is integrated numerically. Accurate to four digits.
    """
    degrees = min(degrees_of_freedom, _MAX_DEGREES)
    end = math.pi / 2 if degrees < 100 else math.atan(_MAX_T / math.sqrt(degrees))
    x = np.linspace(0.0, end, _STEPS + 1)
    density = np.cos(x) ** (degrees - 1)
    probability = np.append(0.0, np.cumsum(density[1:] + density[:-1]))
    return math.sqrt(degrees) * math.tan(float(np.interp(coverage * probability[-1], probability, x)))
