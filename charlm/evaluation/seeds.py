"""What several runs of one recipe say about it: their spread, and the difference between two recipes.

Runs that differ only in their seed are independent draws of what a recipe gives. Two recipes are compared by Welch's
(1947) t test, which lets each have its own spread. Runs are not paired by seed. A seed sets the initial weights and the
order of the text, but runs of two recipes with one seed have little in common (in benchmarks/results/ablation.jsonl a
correlation of 0.1 to 0.3), and pairs leave too few degrees of freedom for a handful of runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import stdev

from charlm.evaluation.standard_errors import Uncertainty


def uncertainty_of_mean(losses: Sequence[float]) -> Uncertainty:
    """Of the mean loss of a recipe's runs, at least two, for other seeds."""
    return Uncertainty(stdev(losses) / math.sqrt(len(losses)), len(losses) - 1)


def uncertainty_of_difference(first: Sequence[float], second: Sequence[float]) -> Uncertainty | None:
    """Of the difference between the mean losses of two recipes' runs; None if one has a single run."""
    if min(len(first), len(second)) < 2:
        return None
    return combine([uncertainty_of_mean(first), uncertainty_of_mean(second)])


def combine(parts: Sequence[Uncertainty]) -> Uncertainty:
    """The uncertainty of a sum of independent estimates, with the degrees of freedom of Welch and Satterthwaite."""
    squares = [part.standard_error**2 for part in parts]
    fourth = sum(square**2 / part.degrees_of_freedom for square, part in zip(squares, parts, strict=True))
    degrees = sum(squares) ** 2 / fourth if fourth else min(part.degrees_of_freedom for part in parts)
    return Uncertainty(math.sqrt(sum(squares)), degrees, any(part.rough for part in parts))
