"""Standard errors of a mean loss per character: of running text, whose losses are correlated, and of documents.

Losses of running text are correlated over thousands of characters: a scene, a chapter, an author is easier than
another. Means of blocks of characters (Flyvbjerg and Petersen 1989) give an error that grows with the length of the
blocks, usually without end. Here the error comes from the slowest changes of the loss along the text:

1.  The losses are projected on cosine waves, wave j with j half periods along the text. The power of a wave estimates
    the squared standard error of the mean, if the losses are not correlated over a large part of the text. The mean
    power of the 8 slowest waves is the estimate, and Student's t with 8 degrees of freedom gives the interval (Mueller
    2007; Lazarus, Lewis, Stock and Watson 2018). It tolerates a correlation several times longer than 16 blocks do.
2.  If the power still grows towards the slowest waves, as j^(-2d), the mean varies more than the waves do. d, the
    memory, is estimated from 64 waves (Robinson 1995), and the error is multiplied by the ratio that fractional
    Gaussian noise of this memory has.
3.  If the power of the 256 slowest waves grows significantly (Lobato and Robinson 1998), or the text is short, the text
    is too short to tell the error: the estimate is marked as rough. More waves than in 2, because those texts in which
    the growth of a few waves is hidden by chance are also those whose slowest waves are too small by chance.

Documents are independent of one another. Their error is the jackknife's: the mean without each document in turn.

Shapes: U units (characters or documents), N sums of blocks, W waves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from charlm.evaluation.student import t_quantile

Units = NDArray[np.float64]
"""[2, U] the nats and the number of characters of consecutive units: characters (1 each) or documents."""

MIN_CHARACTERS = 1_000
"""Fewer characters of running text have no standard error."""
MIN_SETTLED_CHARACTERS = 20_000
"""Below it the standard error of running text is always rough: a text this short does not show its slow changes."""
MIN_DOCUMENTS = 5

_MAX_BLOCKS = 1024
_WAVES, _MEMORY_WAVES, _GROWTH_WAVES = 8, 64, 256
_MEMORIES = np.arange(0.0, 0.305, 0.01)
"""The values of d that are considered. Losses of prose have 0.2 to 0.3."""
_SIGNIFICANT_GROWTH = 1.645
"""Standard deviations; without any growth, one text in twenty has as much."""
_NOISE_LENGTH = 256
_MAX_LARGEST = 256
"""Documents that are kept because they may be a considerable part of the text."""


@dataclass(frozen=True)
class Uncertainty:
    """How much an estimate varies."""

    standard_error: float
    degrees_of_freedom: float
    """Of Student's t distribution."""
    rough: bool = False
    """Whether the text is too short to tell the standard error, so that the interval need not cover 95%."""

    @property
    def margin(self) -> float:
        """Half the length of the 95% interval."""
        return t_quantile(self.degrees_of_freedom) * self.standard_error

    def interval(self, estimate: float) -> tuple[float, float]:
        """The 95% interval around ``estimate``."""
        return estimate - self.margin, estimate + self.margin


class SequenceError:
    """The uncertainty of the mean loss of the characters of a running text, in constant memory.

    The result does not depend, to the last bit, on the pieces in which the characters are added.
    """

    def __init__(self) -> None:
        self._incomplete: list[NDArray[np.float64]] = []
        """For each doubling of the blocks so far: the sum, if any, that waits for the second half of its block."""
        self._blocks = np.zeros(0)
        """[N] the sums of complete blocks of 2 ** len(_incomplete) characters."""

    def add(self, units: Units) -> None:
        """Add the next characters, as ``Tally.add`` returns them."""
        sums = units[0]
        for level, before in enumerate(self._incomplete):
            if not len(sums):
                return
            sums, self._incomplete[level] = _add_neighbours(np.concatenate([before, sums]))
        self._blocks = np.concatenate([self._blocks, sums])
        while len(self._blocks) >= _MAX_BLOCKS:
            self._blocks, incomplete = _add_neighbours(self._blocks)
            self._incomplete.append(incomplete)

    def value(self, nats_per_char: float) -> Uncertainty | None:
        """In nats per character; None for fewer than ``MIN_CHARACTERS``. Does not depend on ``nats_per_char``.

        The incomplete last block, less than 1/500 of the text, does not count.
        """
        size = 2 ** len(self._incomplete)
        characters = size * len(self._blocks)
        if characters < MIN_CHARACTERS:
            return None
        powers_W = _wave_powers(self._blocks / size)
        if not powers_W.any():
            return Uncertainty(0.0, _WAVES, characters < MIN_SETTLED_CHARACTERS)
        error = math.sqrt(powers_W[:_WAVES].mean()) * _error_of_mean_by_waves(_memory(powers_W[:_MEMORY_WAVES]))
        return Uncertainty(error, _WAVES, characters < MIN_SETTLED_CHARACTERS or _grows(powers_W))


def _add_neighbours(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sums of the first and second, the third and fourth and so on, and the last one if it has no neighbour."""
    even = len(sums) // 2 * 2
    return sums[:even:2] + sums[1:even:2], sums[even:]


def _wave_powers(values_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """The powers [W] of cosine waves with 1 to W half periods, scaled as squared standard errors of the mean."""
    powers_W: NDArray[np.float64] = (values_N @ _waves(len(values_N)) / len(values_N)) ** 2
    return powers_W


@lru_cache(maxsize=4)
def _waves(length: int, count: int = _GROWTH_WAVES) -> NDArray[np.float64]:
    """Cosine waves [N, W], orthogonal to one another and to a constant, with a mean square of 1."""
    half_periods_W = np.arange(1, count + 1)
    positions_N = (np.arange(length) + 0.5) / length
    waves_NW: NDArray[np.float64] = math.sqrt(2) * np.cos(math.pi * np.outer(positions_N, half_periods_W))
    return waves_NW


def _memory(powers_W: NDArray[np.float64]) -> int:
    """The index in ``_MEMORIES`` of the most likely d, for powers proportional to j^(-2d) (Robinson 1995)."""
    log_W = np.log(np.arange(1, len(powers_W) + 1))
    scaled_DW = powers_W * np.exp(2 * np.outer(_MEMORIES, log_W))
    return int(np.argmin(np.log(scaled_DW.mean(axis=1)) - 2 * _MEMORIES * log_W.mean()))


def _grows(powers_W: NDArray[np.float64]) -> bool:
    """Whether the powers grow significantly towards slow waves (Lobato and Robinson 1998)."""
    log_W = np.log(np.arange(1, len(powers_W) + 1))
    centred_W = log_W - log_W.mean()
    slope = -(powers_W @ centred_W) / powers_W.mean()
    # A power is a squared normal variable, whose variance is twice its squared mean.
    return bool(slope > _SIGNIFICANT_GROWTH * math.sqrt(2 * (centred_W**2).sum()))


@lru_cache(maxsize=len(_MEMORIES))
def _error_of_mean_by_waves(memory: int) -> float:
    """The standard deviation of the mean of fractional Gaussian noise, over that of its ``_WAVES`` slowest waves.

    ``memory`` is an index in ``_MEMORIES``; 1 for d = 0, 2.3 for d = 0.3.
    """
    exponent = 2 * _MEMORIES[memory] + 1
    lag = np.abs(np.subtract.outer(np.arange(_NOISE_LENGTH), np.arange(_NOISE_LENGTH))).astype(np.float64)
    covariance = ((lag + 1) ** exponent - 2 * lag**exponent + np.abs(lag - 1) ** exponent) / 2
    waves = _waves(_NOISE_LENGTH, _WAVES)
    return math.sqrt(covariance.sum() / np.einsum("tw,ts,sw->w", waves, covariance, waves).mean())


class DocumentError:
    """The uncertainty of the mean loss of the characters of independent documents, in constant memory.

    The mean is a ratio: total nats / total characters. Its squared standard error is that of the jackknife,

        (U - 1) / U  *  sum over documents of ((nats - mean * characters) / (total characters - characters))^2

    The degrees of freedom are those of Kish's (1965) effective number of documents, (sum of characters)^2 / sum of
    characters^2, minus 1: a few long documents say as little as a few documents.
    """

    def __init__(self) -> None:
        self._count = 0
        self._characters = 0.0
        self._largest: Units = np.zeros((2, 0))
        self._squares = np.zeros((2, 2))
        """Sums of products of the nats and characters of the documents that are not among the largest."""

    def add(self, units: Units) -> None:
        """Add the next documents, as ``DocumentTally.add`` returns them."""
        self._count += units.shape[1]
        self._characters += float(units[1].sum())
        self._largest = np.concatenate([self._largest, units], axis=1)
        if self._largest.shape[1] > _MAX_LARGEST:
            order = np.argsort(-self._largest[1], kind="stable")
            others = self._largest[:, order[_MAX_LARGEST:]]
            self._largest = self._largest[:, order[:_MAX_LARGEST]]
            self._squares += others @ others.T

    def value(self, nats_per_char: float) -> Uncertainty | None:
        """In nats per character; None for fewer than ``MIN_DOCUMENTS``."""
        if self._count < MIN_DOCUMENTS:
            return None
        weights = np.array([1.0, -nats_per_char])
        others = max(0.0, float(weights @ self._squares @ weights))
        # Each of the others has less than 1/256 of the characters: leaving one out changes no denominator noticeably.
        without = self._characters - self._largest[1]
        squares = others / self._characters**2 + float(((weights @ self._largest / without) ** 2).sum())
        sum_of_squares = self._squares[1, 1] + float((self._largest[1] ** 2).sum())
        return Uncertainty(
            math.sqrt(squares * (self._count - 1) / self._count),
            max(1.0, self._characters**2 / sum_of_squares - 1),
        )
