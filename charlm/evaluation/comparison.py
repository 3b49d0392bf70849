"""Comparison of models on one text: the difference of their losses, how much it varies, and their speeds.

Each side has one model, or several runs of one recipe. The comparison is paired along the text: the difference of two
models varies far less than the loss of either, so its standard error is computed from the differences themselves, of
characters for running text, of documents for documents. The vocabularies may differ, because the loss of a character is
the sum over its pieces.

With one model a side, the standard error is that of the text: it tells whether this model is better than that one on
another text of the kind. With several runs a side it also has the spread between the runs: it tells whether one recipe
is better than the other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import NamedTuple

import numpy as np

from charlm.config import SamplingConfig
from charlm.engine import Engine
from charlm.errors import DataError, UsageError
from charlm.evaluation.losses import CHUNK, Losses, ProgressCallback, compute_losses, no_progress
from charlm.evaluation.metrics import DocumentTally, Evaluation, Tally, make_error, make_tally
from charlm.evaluation.seeds import combine, uncertainty_of_difference
from charlm.evaluation.standard_errors import Uncertainty, Units
from charlm.generation.sampling import uniform_generators
from charlm.generation.streams import IdStream
from charlm.tokenizer.protocol import Ids, Tokenizer

_SPEED_ROUNDS, _SPEED_SECONDS = 5, 0.05
"""Rounds in which the models generate in turn to measure their speed, and the time of each model in a round."""
_MAX_IDS_PER_DRAW = 1 << 16


class ComparisonInput(NamedTuple):
    """A model and the ids of the text in its vocabulary, in blocks of any size."""

    engine: Engine
    tokenizer: Tokenizer
    blocks: Iterable[Ids]


@dataclass(frozen=True)
class Side:
    """The runs of one side of a comparison."""

    evaluations: tuple[Evaluation, ...]
    seconds: tuple[float, ...]
    """Time that each engine took to read the text, without the time to encode it."""

    @property
    def losses(self) -> list[float]:
        """The nats per character of each run."""
        return [evaluation.nats_per_char for evaluation in self.evaluations]

    @property
    def nats_per_char(self) -> float:
        """The mean over the runs."""
        return fmean(self.losses)

    @property
    def bits_per_char(self) -> float:
        return self.nats_per_char / math.log(2)

    @property
    def standard_deviation(self) -> float | None:
        """Of the losses of the runs in nats per character; None for a single run."""
        return stdev(self.losses) if len(self.losses) > 1 else None

    @property
    def chars_per_second(self) -> list[float]:
        """Characters of the text that each engine read per second."""
        return [e.characters / seconds for e, seconds in zip(self.evaluations, self.seconds, strict=True)]


@dataclass(frozen=True, repr=False)
class Comparison:
    """Evaluations of one text, and the difference of their means, first side minus second."""

    sides: tuple[Side, Side]
    text: Uncertainty | None
    """Of ``nats_per_char`` for another text of the same kind and the same models; None if this text is too short."""

    def __repr__(self) -> str:
        error = "" if self.bits_standard_error is None else f" ± {self.bits_standard_error:.4f}"
        return f"Comparison({self.bits_per_char:+.4f}{error} bits/char, better={self.better}, {self.sides})"

    @property
    def nats_per_char(self) -> float:
        """The difference in nats per character. Below 0 the first side is better."""
        first, second = self.sides
        return first.nats_per_char - second.nats_per_char

    @property
    def bits_per_char(self) -> float:
        return self.nats_per_char / math.log(2)

    @property
    def runs(self) -> Uncertainty | None:
        """Of ``nats_per_char`` for other runs of the same recipes on this text; None if a side has a single run."""
        first, second = self.sides
        return uncertainty_of_difference(first.losses, second.losses)

    @property
    def uncertainty(self) -> Uncertainty | None:
        """Of ``nats_per_char``: ``text``, and ``runs`` if that is known. None if the text is too short."""
        if self.text is None or self.runs is None:
            return self.text
        return combine([self.text, self.runs])

    @property
    def standard_error(self) -> float | None:
        """Of ``nats_per_char``, from ``uncertainty``."""
        return None if self.uncertainty is None else self.uncertainty.standard_error

    @property
    def bits_standard_error(self) -> float | None:
        """Of ``bits_per_char``."""
        return None if self.standard_error is None else self.standard_error / math.log(2)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of ``nats_per_char``."""
        return None if self.uncertainty is None else self.uncertainty.interval(self.nats_per_char)

    @property
    def standard_errors(self) -> float | None:
        """The absolute difference in standard errors; None if the standard error is 0 or unknown."""
        return abs(self.nats_per_char) / self.standard_error if self.standard_error else None

    @property
    def better(self) -> int | None:
        """0 for the first side, 1 for the second, None if the difference is not significant: its interval has 0."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return None
        return int(self.nats_per_char > 0)


def tokenizer_difference(first: Tokenizer, second: Tokenizer) -> str | None:
    """Why two tokenizers do not split a text into the same characters and documents; None if they do."""
    if first.kind != second.kind:
        return f"one reads {_UNITS[first.kind]}, the other {_UNITS[second.kind]}"
    if first.document_kind != second.document_kind:
        kinds = first.document_kind, second.document_kind
        one, other = (f"documents ({kind})" if kind else "running text" for kind in kinds)
        return f"one reads {one}, the other {other}"
    return None


def check_same_tokenizer(models: Sequence[tuple[Tokenizer, Path]]) -> None:
    """Raise ``DataError`` unless two models, given with the paths of their checkpoints, can be averaged."""
    (first, path), (second, other_path) = models
    if first.description() == second.description():
        return
    reason = tokenizer_difference(first, second) or "their vocabularies differ"
    # The seed shuffles documents before they are split, and the vocabulary is built from the training split.
    documents = first.document_kind or second.document_kind
    settings = "split, tokenizer, documents and seed" if documents else "split and tokenizer"
    raise DataError(
        f"{path} and {other_path} cannot be averaged: {reason}; choose models that were trained on the same text with "
        f"the same {settings}"
    )


_UNITS = {"char": "characters", "byte": "bytes"}


def compare(
    first: ComparisonInput | Sequence[ComparisonInput],
    second: ComparisonInput | Sequence[ComparisonInput],
    progress: ProgressCallback = no_progress,
) -> Comparison:
    """Compare two models, or the runs of two recipes, which read one text in parallel, in constant memory.

    ``progress`` is called for the first model. Raises ``DataError`` if there is no text, or if the models were given
    different texts, ``UsageError`` if a side has no model.
    """
    sides = [[side] if isinstance(side, ComparisonInput) else list(side) for side in (first, second)]
    if not all(sides):
        raise UsageError("a side of the comparison has no model; give one or more for each")
    inputs = [*sides[0], *sides[1]]
    weights = np.repeat([1 / len(sides[0]), -1 / len(sides[1])], [len(side) for side in sides])
    readers = [_ModelReader(model, no_progress if number else progress) for number, model in enumerate(inputs)]
    error = make_error(inputs[0].tokenizer)
    for units in _common_units(readers):
        if any(not np.array_equal(units[0][1], other[1]) for other in units[1:]):
            raise DataError("the models were given different texts; give all the same text")
        error.add(np.stack([weights @ np.stack([nats for nats, _ in units]), units[0][1]]))
    found = _side(readers[: len(sides[0])]), _side(readers[len(sides[0]) :])
    return Comparison(found, error.value(found[0].nats_per_char - found[1].nats_per_char))


def _side(readers: Sequence[_ModelReader]) -> Side:
    return Side(tuple(reader.tally.result() for reader in readers), tuple(reader.seconds for reader in readers))


class _ModelReader:
    """Reads the text with one model: its units as they are completed, and the time that the model took."""

    def __init__(self, inputs: ComparisonInput, progress: ProgressCallback) -> None:
        self.tally = make_tally(inputs.tokenizer)
        self.seconds = 0.0
        self.pending: Units = np.zeros((2, 0))
        """Units that another model has not completed yet."""
        _warm_up(inputs)
        losses = compute_losses(inputs.engine, inputs.tokenizer, self._untimed(inputs.blocks), None, progress)
        self._units = _completed_units(self.tally, losses)

    def _untimed(self, blocks: Iterable[Ids]) -> Iterator[Ids]:
        """``blocks``, without counting the time to read and encode the text."""
        start_time = time.perf_counter()
        for block in blocks:
            self.seconds -= time.perf_counter() - start_time
            yield block
            start_time = time.perf_counter()
        self.seconds -= time.perf_counter() - start_time

    def read(self) -> bool:
        """Add some units to ``pending``. Returns False at the end of the text."""
        start_time = time.perf_counter()
        units = next(self._units, None)
        self.seconds += time.perf_counter() - start_time
        if units is not None:
            self.pending = np.concatenate([self.pending, units], axis=1)
        return units is not None

    def take(self, count: int) -> Units:
        """Remove the first ``count`` units from ``pending``."""
        taken, self.pending = self.pending[:, :count], self.pending[:, count:]
        return taken


def _warm_up(inputs: ComparisonInput) -> None:
    """Compute a few losses, so that one-time preparations are not timed."""
    ids = np.full(CHUNK, inputs.tokenizer.start_id)
    for piece in compute_losses(inputs.engine, inputs.tokenizer, [ids]):
        make_tally(inputs.tokenizer).add(*piece)


def _completed_units(tally: Tally | DocumentTally, losses: Losses) -> Iterator[Units]:
    for ids, nats in losses:
        yield tally.add(ids, nats)
    yield tally.finish()


def _common_units(readers: Sequence[_ModelReader]) -> Iterator[list[Units]]:
    """Units that all models have completed.

    The model that is behind reads next, so that few units are pending, however many ids each needs per character.
    Raises ``DataError`` if one has more text than another.
    """
    behind = readers[0]
    while behind.read():
        if count := min(reader.pending.shape[1] for reader in readers):
            yield [reader.take(count) for reader in readers]
        behind = min(readers, key=lambda reader: reader.pending.shape[1])
    for other in readers:
        while not other.pending.shape[1] and other.read():
            pass
        if other.pending.shape[1]:
            raise DataError("one model was given more text than another; give all the same text")


def generation_speeds(models: Sequence[tuple[Engine, Tokenizer]]) -> list[float]:
    """Characters per second that each model generates in one stream: the median over several rounds."""
    streams = [
        (IdStream(engine, tokenizer, [], SamplingConfig(), uniform_generators(1, [0])), tokenizer)
        for engine, tokenizer in models
    ]
    for stream in streams:
        _measure_speed(*stream)  # without one-time preparations
    rounds = [[_measure_speed(*stream) for stream in streams] for _ in range(_SPEED_ROUNDS)]
    return [median(speeds) for speeds in zip(*rounds, strict=True)]


def _measure_speed(stream: IdStream, tokenizer: Tokenizer) -> float:
    start_time, characters, seconds = time.perf_counter(), 0, 0.0
    while seconds < _SPEED_SECONDS:
        ids = stream.draw(_MAX_IDS_PER_DRAW)[:, 0]
        characters += int(tokenizer.starts_character[ids].sum())
        seconds = time.perf_counter() - start_time
    return characters / seconds
