"""Learning rate, weight decay and dropout for a number of steps and epochs.

They were measured on two CPU cores; benchmarks/LOG.md has the tables.
"""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

logger = logging.getLogger("charlm")

LEARNING_RATES = {"muon": 2e-2, "adamw": 1e-2, "adam": 1e-2, "rmsprop": 2e-3, "sgd": 1.0}
"""For layers up to 512 wide and few steps. Wider layers and longer trainings use lower rates."""
_HIGH_LR = 10
"""There is a warning from this multiple of the usual learning rate on."""
_STEPS_AT_FULL_LR, _LR_EXPONENT, _MIN_LR_FACTOR = 2000, 0.6, 0.2
_MUON_STEPS_AT_FULL_LR = 4000
"""Where the text is read often: a high rate prevents overfitting."""
_FULL_REGULARIZATION_EPOCHS = 3.5
"""Muon: with fewer epochs, learning rate and weight decay are lower, in proportion to the square of the epochs."""
_MIN_FEW_EPOCHS_FACTOR, _FEW_EPOCHS_STEPS, _FEW_EPOCHS_EXPONENT = 0.57, 400, 0.75
"""For the learning rate this factor is not below the first number up to the second number of steps. Beyond that the
bound falls with the third number as a power of the steps."""
_WEIGHT_DECAY_PER_EPOCH, _MIN_WEIGHT_DECAY, _MAX_WEIGHT_DECAY = 0.04, 0.02, 0.3
_IDS_OF_A_STEP = 4096
_MAX_DROPOUT = 0.5
_LESS_BETWEEN_LAYERS = 0.1
"""With Muon. Ten minutes with 0.1 between the layers ended at 1.347, without at 1.332."""


class _DropoutRule(NamedTuple):
    """No dropout up to so many ``epochs`` or ``steps``, a step of more than 4,096 ids counted as several.

    Beyond both, ``per_doubling`` for each doubling.
    """

    epochs: float
    steps: float
    per_doubling: float


_DROPOUT, _MUON_DROPOUT = _DropoutRule(2.5, 800, 0.12), _DropoutRule(6.5, 50, 0.17)
"""Later with Muon, because its learning rate and weight decay also prevent overfitting."""


def learning_rate(optimizer: str, hidden: int, steps: float, epochs: float) -> float:
    """By the number of steps. Where a text is read only a few times, the rate of Muon is lower."""
    lr = LEARNING_RATES.get(optimizer, 1e-2) * min(1.0, 512 / hidden)
    is_read_often = optimizer == "muon" and epochs >= _FULL_REGULARIZATION_EPOCHS
    at_full_lr = _MUON_STEPS_AT_FULL_LR if is_read_often else _STEPS_AT_FULL_LR
    factor = (at_full_lr / max(at_full_lr, steps)) ** _LR_EXPONENT
    if optimizer == "muon":
        bound = _MIN_FEW_EPOCHS_FACTOR * (_FEW_EPOCHS_STEPS / max(_FEW_EPOCHS_STEPS, steps)) ** _FEW_EPOCHS_EXPONENT
        factor *= max(bound, _few_epochs_factor(epochs))
    return _rounded(lr * max(factor, _MIN_LR_FACTOR))


def warn_of_high_rate(optimizer: str, rate: float | None) -> None:
    """Log a warning if ``rate``, where one was chosen by hand, is far above the usual ones."""
    usual = LEARNING_RATES[optimizer]
    if rate is not None and rate > _HIGH_LR * usual:
        logger.warning(
            "a learning rate of %g is %.0f times the usual %g; training will probably diverge",
            rate,
            rate / usual,
            usual,
        )


def weight_decay(optimizer: str, epochs: float) -> float:
    """Of matrices, by the number of epochs; 0 for optimizers other than Muon and AdamW."""
    if optimizer not in ("muon", "adamw"):
        return 0.0
    by_epochs = _WEIGHT_DECAY_PER_EPOCH * epochs
    if optimizer == "muon":
        by_epochs = _MAX_WEIGHT_DECAY * _few_epochs_factor(epochs)
    return _rounded(min(max(by_epochs, _MIN_WEIGHT_DECAY), _MAX_WEIGHT_DECAY))


def _few_epochs_factor(epochs: float) -> float:
    return math.pow(min(1.0, epochs / _FULL_REGULARIZATION_EPOCHS), 2)


def dropout_probabilities(optimizer: str, steps: float, ids: float, epochs: float) -> tuple[float, float]:
    """Between layers and on the output, by the number of epochs; lower where there are few steps and few ids."""
    rule = _MUON_DROPOUT if optimizer == "muon" else _DROPOUT
    usual_steps = max(steps, ids / _IDS_OF_A_STEP)
    doublings = math.log2(max(1.0, min(epochs / rule.epochs, usual_steps / rule.steps)))
    output = min(round(20 * rule.per_doubling * doublings) / 20, _MAX_DROPOUT)
    between = max(0.0, round(output - _LESS_BETWEEN_LAYERS, 2)) if optimizer == "muon" else output
    return between, output


def _rounded(value: float) -> float:
    """Round to one significant digit (two if it starts with 1), so that close estimates usually give the same value."""
    return float(f"{value:.{0 if value >= 2 * 10 ** math.floor(math.log10(value)) else 1}e}")
