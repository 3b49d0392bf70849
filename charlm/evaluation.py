"""How well a model predicts a text: exact sums over characters, whatever ids they are spelt in.

    nats per character = summed nats / characters predicted;  bits = nats / ln 2;  perplexity = exp(nats per character)

A character spelt in several byte pieces is one character whose loss is the sum of its pieces'. Every character is
predicted, the first of a text from the tokenizer's start id (a newline). The standard error comes from the means of
blocks of characters, because neighbours are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.config import ModelConfig
from charlm.engine import MOST_COST, Engine, FloatArray, create_engine
from charlm.errors import DataError
from charlm.native import find_library
from charlm.tokenizer import Ids, Tokenizer

CHUNK = 256
_BLOCK = 100
_LONG_BLOCK = 1000
_FEW_LONG_BLOCKS = 20

Progress = Callable[[int], None]
Losses = Iterator[tuple[Ids, FloatArray]]
"""Ids [N] that follow one another and what each cost in nats [N], piece by piece."""
Units = NDArray[np.float64]
"""[2, U] nats and characters of one unit after another: of characters (each one), or of documents."""


def silent(predictions: int) -> None:
    """No progress is wanted."""


@dataclass(frozen=True)
class Evaluation:
    """Sums over a text and the usual ratios of them. Losses are in nats unless a name says bits."""

    characters: int
    predictions: int
    """Ids predicted: more than ``characters`` where some are spelt in bytes."""
    nats: float
    bytes: int
    """UTF-8 bytes of the characters."""
    unknown_characters: int
    """Characters that the training text did not have."""
    unknown_nats: float
    standard_error: float | None
    """Of ``nats_per_char``; None where the text is too short to tell."""
    documents: int = 0
    """0 where text runs on. Their end markers are among the characters and bytes."""
    end_nats: float = 0.0
    """What the end markers cost."""

    @property
    def nats_per_char(self) -> float:
        return self.nats / self.characters

    @property
    def nats_per_known_char(self) -> float | None:
        """The same without unknown characters; None if there are no others."""
        known = self.characters - self.unknown_characters
        return (self.nats - self.unknown_nats) / known if known else None

    @property
    def nats_per_char_without_ends(self) -> float | None:
        """The same without end markers; None where there is nothing else."""
        inside = self.characters - self.documents
        return (self.nats - self.end_nats) / inside if inside else None

    @property
    def nats_per_document(self) -> float | None:
        """None where text runs on."""
        return self.nats / self.documents if self.documents else None

    @property
    def bits_per_char(self) -> float:
        return self.nats_per_char / math.log(2)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / self.bytes / math.log(2)

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.nats_per_char, 700.0))

    def as_dict(self) -> dict[str, Any]:
        """The figures that ``charlm eval --json`` prints."""
        by_document = {
            "documents": self.documents,
            "nats_per_document": self.nats_per_document,
            "bits_per_document": None if self.nats_per_document is None else self.nats_per_document / math.log(2),
            "nats_per_char_without_ends": self.nats_per_char_without_ends,
        }
        return {
            **(by_document if self.documents else {}),
            "characters": self.characters,
            "predictions": self.predictions,
            "nats_per_char": self.nats_per_char,
            "nats_per_known_char": self.nats_per_known_char,
            "bits_per_char": self.bits_per_char,
            "bits_per_byte": self.bits_per_byte,
            "perplexity": self.perplexity,
            "standard_error": self.standard_error,
            "unknown_characters": self.unknown_characters,
        }


class _Moments:
    """Mean and squared deviations of numbers that come in batches (Chan, Golub and LeVeque 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self._mean = self._squares = 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        """Take values [N], N at least 1."""
        mean, total = float(values.mean()), self.count + len(values)
        apart = mean - self._mean
        self._squares += float(((values - mean) ** 2).sum()) + apart**2 * self.count * len(values) / total
        self._mean += apart * len(values) / total
        self.count = total

    def standard_error(self) -> float:
        """Of the mean, were the numbers independent; there must be two."""
        return math.sqrt(self._squares / (self.count - 1) / self.count)


class BlockError:
    """The standard error of a mean over characters, from the means of blocks of them, in constant memory."""

    def __init__(self) -> None:
        self._blocks = {size: _Moments() for size in (_BLOCK, _LONG_BLOCK)}
        self._left = {size: np.zeros(0) for size in self._blocks}

    def add(self, units: Units) -> None:
        """Take the next characters, as ``Tally.add`` returns them."""
        for size, moments in self._blocks.items():
            values = np.concatenate([self._left[size], units[0]])
            whole = len(values) // size * size
            if whole:
                moments.add(values[:whole].reshape(-1, size).mean(axis=1))
            self._left[size] = values[whole:]

    def standard_error(self, nats_per_char: float) -> float | None:
        """In nats per character; None for fewer than five blocks. The mean itself does not matter to it."""
        short, long = self._blocks.values()
        chosen = long if long.count >= _FEW_LONG_BLOCKS else short
        return chosen.standard_error() if chosen.count >= 5 else None


class Tally:
    """Adds up the losses of consecutive ids, character by character, in constant memory."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pending: tuple[Ids, NDArray[np.float64]] = (np.zeros(0, np.int64), np.zeros(0))
        self._error = BlockError()
        self._characters = self._predictions = self._bytes = self._unknown = 0
        self._nats = self._unknown_nats = 0.0

    def add(self, ids: Ids, nats: NDArray[Any]) -> Units:
        """Take the losses [N] of the next N ids and return those of the characters that they complete.

        A character that is not whole yet waits for its end.
        """
        ids = np.concatenate([self._pending[0], ids.astype(np.int64)])
        nats = np.concatenate([self._pending[1], nats.astype(np.float64)])
        starts = np.nonzero(self._tokenizer.starts_character[ids])[0]
        whole = int(starts[-1]) if len(starts) else 0
        self._pending = (ids[whole:], nats[whole:])
        return self._add_whole(ids[:whole], nats[:whole])

    def finish(self) -> Units:
        """Nothing more comes: count the character that waits, and return its loss."""
        units = self._add_whole(*self._pending)
        self._pending = (np.zeros(0, np.int64), np.zeros(0))
        return units

    def _add_whole(self, ids: Ids, nats: NDArray[np.float64]) -> Units:
        if not len(ids):
            return np.zeros((2, 0))
        starts = self._tokenizer.starts_character[ids].copy()
        starts[0] = True  # a crop may begin inside a character; what is left of it counts as one
        unknown = self._tokenizer.unknown(ids)
        per_character = np.add.reduceat(nats, np.nonzero(starts)[0])
        self._characters += len(per_character)
        self._predictions += len(ids)
        self._bytes += int(self._tokenizer.byte_lengths[ids].sum())
        self._nats += float(nats.sum())
        self._unknown += int((unknown & starts).sum())
        self._unknown_nats += float(nats[unknown].sum())
        units = np.stack([per_character, np.ones(len(per_character))])
        self._error.add(units)
        return units

    def result(self) -> Evaluation:
        """The sums so far. Raises ``DataError`` where nothing was added."""
        self.finish()
        if not self._characters:
            raise DataError("there is no character to evaluate; give a longer text")
        return Evaluation(
            self._characters,
            self._predictions,
            self._nats,
            self._bytes,
            self._unknown,
            self._unknown_nats,
            self._error.standard_error(self._nats / self._characters),
        )


def exact_losses(engine: Engine, tokenizer: Tokenizer, blocks: Iterable[Ids]) -> Losses:
    """Ids and their losses in nats, chunk by chunk, in one stream from the first id to the last."""
    state = engine.start(1)
    previous = np.array([tokenizer.start_id], np.int64)
    for block in blocks:
        for start in range(0, len(block), CHUNK):
            targets = block[start : start + CHUNK].astype(np.int64)
            inputs = np.concatenate([previous, targets[:-1]])
            nats_TB, state = engine.losses(inputs[:, None], targets[:, None], state)
            previous = targets[-1:]
            yield targets, nats_TB[:, 0]


def evaluate_streams(
    engine: Engine,
    tokenizer: Tokenizer,
    ids: Ids,
    streams: int = 32,
    warmup: int = 128,
    progress: Progress = silent,
) -> Evaluation:
    """Nearly the exact pass, many times faster: ``ids`` in parallel ``streams``, each warmed on the text before it.

    For steering a training; every id is predicted once. A stream's first predictions know the ``warmup`` ids before
    them instead of everything before them.
    """
    streams = max(1, min(streams, len(ids) // (4 * warmup)))
    length = -(-len(ids) // streams)
    warmup = warmup if streams > 1 else 0
    before = np.full(warmup + 1, tokenizer.start_id, np.int64)
    padded = np.concatenate([before, ids.astype(np.int64), np.zeros(streams * length - len(ids), np.int64)])
    rows_BL = np.stack([padded[b * length : b * length + warmup + 1 + length] for b in range(streams)])
    state = engine.start(streams)
    nats_LB = np.empty((warmup + length, streams), np.float32)
    for start in range(0, warmup + length, CHUNK):
        stop = min(start + CHUNK, warmup + length)
        inputs_TB, targets_TB = rows_BL[:, start:stop].T, rows_BL[:, start + 1 : stop + 1].T
        nats_LB[start:stop], state = engine.losses(inputs_TB, targets_TB, state)
        progress(inputs_TB.size)
    tally = Tally(tokenizer)
    tally.add(ids, nats_LB[warmup:].T.reshape(-1)[: len(ids)])
    return tally.result()


def precision_costs(
    config: ModelConfig, weights: Mapping[str, FloatArray], loss: Callable[[Engine], float], threads: int
) -> dict[str, float]:
    """Nats per character that the native engine's faster precisions lose against its fp32, as ``loss`` measures.

    From the fastest on, up to the first that costs at most ``MOST_COST``. Empty where the engine is missing.
    """
    if find_library() is None:
        return {}
    exact, costs = loss(create_engine(config, weights, "cpu", "fp32", threads)), {}
    for precision in ("int8", "bf16"):
        costs[precision] = loss(create_engine(config, weights, "cpu", precision, threads)) - exact
        if abs(costs[precision]) <= MOST_COST:
            break
    return costs


def crop_losses(engine: Engine, blocks: Iterable[Ids], window: int) -> Losses:
    """The same in windows of ``window`` characters, each read from a cold state, whose mean nanoGPT reports.

    Windows follow one another without a gap, where nanoGPT draws a few at random; the expectation is the same. Its
    protocol knows nothing before a window, so the first id of each is read, not predicted. Raises ``DataError`` where
    the text is shorter than a window.
    """
    batch = max(1, 16384 // window)
    left, read = np.zeros(0, np.int64), False
    for block in blocks:
        left = np.concatenate([left, block.astype(np.int64)])
        while min(batch, (len(left) - 1) // window) == batch:
            yield _crops(engine, left[: batch * window + 1], window)
            left, read = left[batch * window :], True
    count = (len(left) - 1) // window
    if count > 0:
        yield _crops(engine, left[: count * window + 1], window)
    elif not read:
        raise DataError(f"the text is shorter than one window of {window} characters; choose a smaller --window")


def _crops(engine: Engine, ids: Ids, window: int) -> tuple[Ids, FloatArray]:
    inputs_BT, targets_BT = ids[:-1].reshape(-1, window), ids[1:].reshape(-1, window)
    state = engine.start(len(inputs_BT))
    pieces = []
    for start in range(0, window, CHUNK):
        span = slice(start, start + CHUNK)
        nats_TB, state = engine.losses(inputs_BT[:, span].T, targets_BT[:, span].T, state)
        pieces.append(nats_TB)
    return ids[1:], np.concatenate(pieces).T.reshape(-1)
