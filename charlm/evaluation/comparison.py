"""Comparison of two models on one text: the difference of their losses and its standard error, and their speeds.

The comparison is paired. The difference of two models varies far less along a text than the loss of either, so its
standard error is computed from the differences themselves: from their means over blocks of characters for running text,
from the documents for documents. The vocabularies may differ, because the loss of a character is the sum over its
pieces.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from charlm.config import SamplingConfig
from charlm.engine import Engine
from charlm.errors import DataError
from charlm.evaluation.losses import CHUNK, Losses, ProgressCallback, compute_losses, no_progress
from charlm.evaluation.metrics import DocumentTally, Evaluation, Tally, Units, make_standard_error, make_tally
from charlm.generation.sampling import uniform_generators
from charlm.generation.streams import IdStream
from charlm.tokenizer.protocol import Ids, Tokenizer

SIGNIFICANT_STANDARD_ERRORS = 2.0
"""A difference above this many standard errors is significant. By chance alone one in twenty is as large."""
_SPEED_ROUNDS, _SPEED_SECONDS = 5, 0.05
"""Rounds in which the models generate in turn to measure their speed, and the time of each model in a round."""
_MAX_IDS_PER_DRAW = 1 << 16


class ComparisonInput(NamedTuple):
    """A model and the ids of the text in its vocabulary, in blocks of any size."""

    engine: Engine
    tokenizer: Tokenizer
    blocks: Iterable[Ids]


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two evaluations of one text and their difference, first minus second."""

    evaluations: tuple[Evaluation, Evaluation]
    standard_error: float | None
    """Of ``nats_per_char``, paired; None if the text is too short for one."""
    seconds: tuple[float, float]
    """Time that each engine took to read the text, without the time to encode it."""

    def __repr__(self) -> str:
        error = "" if self.bits_standard_error is None else f" ± {self.bits_standard_error:.4f}"
        return f"Comparison({self.bits_per_char:+.4f}{error} bits/char, better={self.better}, {self.evaluations})"

    @property
    def nats_per_char(self) -> float:
        """The difference in nats per character. Below 0 the first model is better."""
        first, second = self.evaluations
        return (first.nats - second.nats) / first.characters

    @property
    def bits_per_char(self) -> float:
        return self.nats_per_char / math.log(2)

    @property
    def bits_standard_error(self) -> float | None:
        """Of ``bits_per_char``."""
        return None if self.standard_error is None else self.standard_error / math.log(2)

    @property
    def standard_errors(self) -> float | None:
        """The absolute difference in standard errors; None if the standard error is 0 or unknown."""
        return abs(self.nats_per_char) / self.standard_error if self.standard_error else None

    @property
    def better(self) -> int | None:
        """0 for the first model, 1 for the second, None if the difference is not significant."""
        if self.standard_error is None:
            return None
        if abs(self.nats_per_char) <= SIGNIFICANT_STANDARD_ERRORS * self.standard_error:
            return None
        return int(self.nats_per_char > 0)

    @property
    def chars_per_second(self) -> tuple[float, float]:
        """Characters of the text that each model read per second."""
        first, second = (e.characters / s for e, s in zip(self.evaluations, self.seconds, strict=True))
        return first, second


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


def compare(first: ComparisonInput, second: ComparisonInput, progress: ProgressCallback = no_progress) -> Comparison:
    """Compare two models, which read one text in parallel, in constant memory.

    ``progress`` is called for the first model. Raises ``DataError`` if there is no text, or if the models were given
    different texts.
    """
    readers = _ModelReader(first, progress), _ModelReader(second, no_progress)
    error = make_standard_error(first.tokenizer)
    for first_units, second_units in _paired_units(readers):
        if not np.array_equal(first_units[1], second_units[1]):
            raise DataError("the two models were given different texts; give both the same text")
        error.add(np.stack([first_units[0] - second_units[0], first_units[1]]))
    evaluations = readers[0].tally.result(), readers[1].tally.result()
    nats_per_char = (evaluations[0].nats - evaluations[1].nats) / evaluations[0].characters
    return Comparison(evaluations, error.value(nats_per_char), (readers[0].seconds, readers[1].seconds))


class _ModelReader:
    """Reads the text with one model: its units as they are completed, and the time that the model took."""

    def __init__(self, inputs: ComparisonInput, progress: ProgressCallback) -> None:
        self.tally = make_tally(inputs.tokenizer)
        self.seconds = 0.0
        self.pending: Units = np.zeros((2, 0))
        """Units that the other model has not completed yet."""
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


def _paired_units(readers: tuple[_ModelReader, _ModelReader]) -> Iterator[tuple[Units, Units]]:
    """Units that both models have completed.

    The model that is behind reads next, so that few units are pending, however many ids the two need per character.
    Raises ``DataError`` if one has more text than the other.
    """
    behind = readers[0]
    while behind.read():
        count = min(reader.pending.shape[1] for reader in readers)
        yield readers[0].take(count), readers[1].take(count)
        behind = min(readers, key=lambda reader: reader.pending.shape[1])
    other = readers[1] if behind is readers[0] else readers[0]
    while not other.pending.shape[1] and other.read():
        pass
    if other.pending.shape[1]:
        raise DataError("one model was given more text than the other; give both the same text")


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
