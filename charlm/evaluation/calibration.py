"""Calibration: one temperature for all probabilities of a model, fitted on held-out text (Guo et al. 2017).

A model that has read its training text many times is too sure of its predictions. Dividing its logits by a temperature
above 1 makes it less sure, and changes nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_NODES = (0.66, 0.8, 0.98, 1.12)
"""Factors of the logits at which the loss is measured: around 1, and farther below it, where most models belong."""
PASSES = len(_NODES)
"""How often the text is read."""
MAX_CALIBRATION_IDS, MIN_CALIBRATION_IDS = 1 << 15, 1 << 9
"""How much of the text is read. An error of 0.03 in the temperature costs about 0.0002 nats per character."""


def fit_temperature(loss: Callable[[float], float]) -> float:
    """The temperature with the lowest ``loss``, a function of it; at least 0.89 and at most 1.52, to three digits.

    The loss is measured at four temperatures. Between them it is close to a cubic of the inverse temperature.
    """
    cubic = np.polynomial.Polynomial.fit(_NODES, [loss(1.0 / factor) for factor in _NODES], deg=3)
    factors = np.linspace(_NODES[0], _NODES[-1], 2000)
    return round(float(1.0 / factors[np.argmin(cubic(factors))]), 3)
