"""Calibration: one temperature for all probabilities of a model, fitted on held-out text (Guo et al. 2017).

A model that has read its training text many times is too sure of its predictions. Dividing its logits by a temperature
above 1 makes it less sure, and changes nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

_NODES = (0.66, 0.85, 1.05, 1.3)
"""Factors of the logits at which the loss is measured. Most models need one below 1, after a short training above."""
PASSES = len(_NODES)
"""How often the text is read."""
MAX_CALIBRATION_IDS, MIN_CALIBRATION_IDS = 1 << 15, 1 << 13
"""How much of the text is read. From a few hundred ids the temperature of a model of names was 0.13 too low, which cost
0.012 nats per character. An error of 0.02, as is usual from 8,192 ids, costs 0.0003."""


def fit_temperature(loss: Callable[[float], float]) -> float:
    """The temperature with the lowest ``loss``, a function of it; 0.77 to 1.52, to three digits.

    The loss is measured at four temperatures. Between them it is close to a cubic of the logarithm of the temperature.
    NaN if a loss is not finite.
    """
    losses = [loss(1.0 / factor) for factor in _NODES]
    if not np.isfinite(losses).all():
        return math.nan
    cubic = np.polynomial.Polynomial.fit(np.log(_NODES), losses, deg=3)
    logarithms = np.linspace(np.log(_NODES[0]), np.log(_NODES[-1]), 4000)
    return round(float(np.exp(-logarithms[np.argmin(cubic(logarithms))])), 3)
