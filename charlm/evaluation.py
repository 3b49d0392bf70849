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
from charlm.native import find
from charlm.tokenizer import Ids, Tokenizer

CHUNK = 256
_BLOCK = 100
_LONG_BLOCK = 1000

Progress = Callable[[int], None]


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


class Tally:
    """Adds up the losses of consecutive ids, character by character, in constant memory."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pending: tuple[Ids, NDArray[np.float64]] = (np.zeros(0, np.int64), np.zeros(0))
        self._remainder = np.zeros(0)
        self._block_sums: list[float] = []
        self._characters = self._predictions = self._bytes = self._unknown = 0
        self._nats = self._unknown_nats = 0.0

    def add(self, ids: Ids, nats: NDArray[Any]) -> None:
        """Take the losses [N] of the next N ids; a character that is not whole yet waits for its end."""
        ids = np.concatenate([self._pending[0], ids.astype(np.int64)])
        nats = np.concatenate([self._pending[1], nats.astype(np.float64)])
        starts = np.nonzero(self._tokenizer.starts_character[ids])[0]
        whole = int(starts[-1]) if len(starts) else 0
        self._pending = (ids[whole:], nats[whole:])
        self._add_whole(ids[:whole], nats[:whole])

    def _add_whole(self, ids: Ids, nats: NDArray[np.float64]) -> None:
        if not len(ids):
            return
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
        in_blocks = np.concatenate([self._remainder, per_character])
        whole = len(in_blocks) // _BLOCK * _BLOCK
        self._block_sums.extend(in_blocks[:whole].reshape(-1, _BLOCK).sum(axis=1).tolist())
        self._remainder = in_blocks[whole:]

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added."""
        return self._characters == 0 and not len(self._pending[0])

    def result(self) -> Evaluation:
        """The sums so far. Raises ``DataError`` where nothing was added."""
        self._add_whole(*self._pending)
        self._pending = (np.zeros(0, np.int64), np.zeros(0))
        if not self._characters:
            raise DataError("there is no character to evaluate; give a longer text")
        return Evaluation(
            self._characters,
            self._predictions,
            self._nats,
            self._bytes,
            self._unknown,
            self._unknown_nats,
            self._standard_error(),
        )

    def _standard_error(self) -> float | None:
        means = np.array(self._block_sums) / _BLOCK
        if len(means) >= 20 * (_LONG_BLOCK // _BLOCK):
            group = _LONG_BLOCK // _BLOCK
            means = means[: len(means) // group * group].reshape(-1, group).mean(axis=1)
        if len(means) < 5:
            return None
        return float(means.std(ddof=1) / math.sqrt(len(means)))


def evaluate(engine: Engine, tokenizer: Tokenizer, blocks: Iterable[Ids], progress: Progress = silent) -> Evaluation:
    """One exact pass over a text given as ``blocks`` of ids, the state carried from the first to the last.

    ``progress`` is called with the number of ids predicted since its last call.
    """
    tally = Tally(tokenizer)
    for ids, nats in exact_losses(engine, tokenizer, blocks):
        tally.add(ids, nats)
        progress(len(ids))
    return tally.result()


def exact_losses(
    engine: Engine, tokenizer: Tokenizer, blocks: Iterable[Ids]
) -> Iterator[tuple[Ids, NDArray[np.float32]]]:
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
    if find() is None:
        return {}
    exact, costs = loss(create_engine(config, weights, "cpu", "fp32", threads)), {}
    for precision in ("int8", "bf16"):
        costs[precision] = loss(create_engine(config, weights, "cpu", precision, threads)) - exact
        if abs(costs[precision]) <= MOST_COST:
            break
    return costs


def evaluate_crops(
    engine: Engine, tokenizer: Tokenizer, blocks: Iterable[Ids], window: int, progress: Progress = silent
) -> Evaluation:
    """The mean over windows of ``window`` characters, each read from a cold state: what nanoGPT reports.

    Windows follow one another without a gap, where nanoGPT draws a few at random; the expectation is the same. Its
    protocol knows nothing before a window, so the first id of each is read, not predicted. Raises ``DataError`` where
    the text is shorter than a window.
    """
    tally = Tally(tokenizer)
    batch = max(1, 16384 // window)
    left = np.zeros(0, np.int64)
    for block in blocks:
        left = np.concatenate([left, block.astype(np.int64)])
        while (count := min(batch, (len(left) - 1) // window)) == batch:
            _add_crops(engine, tally, left[: count * window + 1], window, progress)
            left = left[count * window :]
    count = (len(left) - 1) // window
    if count:
        _add_crops(engine, tally, left[: count * window + 1], window, progress)
    if tally.is_empty:
        raise DataError(f"the text is shorter than one window of {window} characters; choose a smaller --window")
    return tally.result()


def _add_crops(engine: Engine, tally: Tally, ids: Ids, window: int, progress: Progress) -> None:
    inputs_BT, targets_BT = ids[:-1].reshape(-1, window), ids[1:].reshape(-1, window)
    state = engine.start(len(inputs_BT))
    pieces = []
    for start in range(0, window, CHUNK):
        span = slice(start, start + CHUNK)
        nats_TB, state = engine.losses(inputs_BT[:, span].T, targets_BT[:, span].T, state)
        pieces.append(nats_TB)
    tally.add(ids[1:], np.concatenate(pieces).T.reshape(-1))
    progress(len(ids) - 1)
