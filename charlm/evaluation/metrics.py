"""How well a model predicts a text: exact sums over characters, whatever ids they are spelt in.

    nats per character = summed nats / characters predicted;  bits = nats / ln 2;  perplexity = exp(nats per character)

A character spelt in several byte pieces is one character whose loss is the sum of its pieces'. Every character is
predicted, the first of a text from the tokenizer's start id (a newline). The standard error comes from the means of
blocks of characters, because neighbours are not independent; where there are documents, from the documents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.errors import DataError
from charlm.tokenizer.documents import DocumentTokenizer
from charlm.tokenizer.protocol import Ids, Tokenizer

_BLOCK = 100
_LONG_BLOCK = 1000
_FEW_LONG_BLOCKS = 20

Units = NDArray[np.float64]
"""[2, U] nats and characters of one unit after another: of characters (each one), or of documents."""


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


def tally_of(tokenizer: Tokenizer) -> Tally | DocumentTally:
    """What adds up ``losses_of``."""
    return DocumentTally(tokenizer) if isinstance(tokenizer, DocumentTokenizer) else Tally(tokenizer)


def error_of(tokenizer: Tokenizer) -> BlockError | DocumentError:
    """What tells the standard error of the units that ``tally_of`` returns."""
    return DocumentError() if isinstance(tokenizer, DocumentTokenizer) else BlockError()


class DocumentTally:
    """Adds up the losses of consecutive ids, document by document, in constant memory. See ``Tally``.

    The standard error comes from the documents, which are independent of one another.
    """

    def __init__(self, tokenizer: DocumentTokenizer) -> None:
        self._tokenizer = tokenizer
        self._tally, self._error = Tally(tokenizer), DocumentError()
        self._begun = np.zeros(2)  # nats and characters of the document that goes on
        self._count = 0
        self._end_nats = 0.0

    def add(self, ids: Ids, nats: NDArray[Any]) -> Units:
        """Take the losses [N] of the next N ids and return the sums of the documents that they complete."""
        self._tally.add(ids, nats)
        is_end = ids == self._tokenizer.end_id
        ends = np.append(0, np.flatnonzero(is_end) + 1)
        both = np.stack([nats.astype(np.float64), self._tokenizer.starts_character[ids].astype(np.float64)])
        cumulative = np.concatenate([np.zeros((2, 1)), both.cumsum(axis=1)], axis=1)
        sums: Units = np.diff(cumulative[:, ends], axis=1)
        left = cumulative[:, -1] - cumulative[:, ends[-1]]
        if sums.size:
            sums[:, 0] += self._begun
        self._begun = left if sums.size else self._begun + left
        self._count += sums.shape[1]
        self._end_nats += float(nats[is_end].sum(dtype=np.float64))
        self._error.add(sums)
        return sums

    def finish(self) -> Units:
        """Nothing more comes. A document without an end marker is none."""
        self._tally.finish()
        return np.zeros((2, 0))

    def result(self) -> Evaluation:
        """The sums so far. Raises ``DataError`` where nothing was added."""
        evaluation = self._tally.result()
        return replace(
            evaluation,
            documents=self._count,
            end_nats=self._end_nats,
            standard_error=self._error.standard_error(evaluation.nats_per_char),
        )


class DocumentError:
    """The standard error of all nats over all characters, from the sums of documents, in constant memory."""

    def __init__(self) -> None:
        self._count = 0
        self._characters = 0.0
        self._squares = np.zeros((2, 2))

    def add(self, units: Units) -> None:
        """Take the next documents, as ``DocumentTally.add`` returns them."""
        self._count += units.shape[1]
        self._characters += float(units[1].sum())
        self._squares += units @ units.T

    def standard_error(self, nats_per_char: float) -> float | None:
        """Of a ratio of sums, which is ``nats_per_char`` (Cochran 1977, 2.11); None for fewer than five documents."""
        if self._count < 5:
            return None
        weights = np.array([1.0, -nats_per_char])
        squares = max(0.0, float(weights @ self._squares @ weights))
        return math.sqrt(squares * self._count / (self._count - 1)) / self._characters
