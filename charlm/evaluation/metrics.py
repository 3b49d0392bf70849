"""Metrics of a text: exact sums of losses over characters, even where several ids encode one character.

    nats per character = summed nats / characters predicted;  bits = nats / ln 2;  perplexity = exp(nats per character)

A character encoded as several byte pieces is one character; its loss is the sum over its pieces. Every character is
predicted, the first of a text from the tokenizer's start id (a newline). ``standard_errors`` has how much the mean
varies. Shapes: N ids, U units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.errors import DataError
from charlm.evaluation.standard_errors import DocumentError, SequenceError, Uncertainty, Units
from charlm.notebook import html_table
from charlm.tokenizer.protocol import Ids, Tokenizer


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Sums over a text, and metrics computed from them. Losses are in nats unless a name says bits."""

    characters: int
    predictions: int
    """Ids predicted: more than ``characters`` if some are encoded as several byte pieces."""
    nats: float
    bytes: int
    """UTF-8 bytes of the characters."""
    unknown_characters: int
    """Characters that the training text does not have."""
    unknown_nats: float
    """Total loss of the unknown characters."""
    uncertainty: Uncertainty | None
    """Of ``nats_per_char``, for another text of the same kind; None if the text is too short for one."""
    documents: int = 0
    """0 for running text. The end markers of documents are counted as characters and bytes."""
    end_nats: float = 0.0
    """The summed losses of the end markers."""

    def __repr__(self) -> str:
        error = "" if self.standard_error is None else f" ± {self.standard_error:.4f}"
        counts = f"{self.characters:,} characters" + (f", {self.documents:,} documents" if self.documents else "")
        return (
            f"Evaluation({self.nats_per_char:.4f}{error} nats/char, {self.bits_per_char:.4f} bits/char, "
            f"perplexity {self.perplexity:.4f}, {counts})"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        error = "" if self.standard_error is None else f" ± {self.standard_error:.4f}"
        rows = [("nats per character", f"{self.nats_per_char:.4f}{error}"),
                ("bits per character", f"{self.bits_per_char:.4f}"), ("perplexity", f"{self.perplexity:.4f}"),
                ("bits per byte", f"{self.bits_per_byte:.4f}"), ("characters", f"{self.characters:,}"),
                *([("documents", f"{self.documents:,}")] if self.documents else []),
                ("unknown characters", f"{self.unknown_characters:,}")]  # fmt: skip
        return html_table((), rows)

    @property
    def nats_per_char(self) -> float:
        return self.nats / self.characters

    @property
    def standard_error(self) -> float | None:
        """Of ``nats_per_char``; None if the text is too short for one."""
        return None if self.uncertainty is None else self.uncertainty.standard_error

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of ``nats_per_char``."""
        return None if self.uncertainty is None else self.uncertainty.interval(self.nats_per_char)

    @property
    def nats_per_known_char(self) -> float | None:
        """The same without unknown characters; None if all are unknown."""
        known = self.characters - self.unknown_characters
        return (self.nats - self.unknown_nats) / known if known else None

    @property
    def nats_per_char_without_ends(self) -> float | None:
        """The same without end markers; None if there is nothing else."""
        others = self.characters - self.documents
        return (self.nats - self.end_nats) / others if others else None

    @property
    def nats_per_document(self) -> float | None:
        """None for running text."""
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
        """The metrics that ``charlm eval --json`` prints."""
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
            "interval_95": self.interval,
            "standard_error_is_rough": None if self.uncertainty is None else self.uncertainty.rough,
            "unknown_characters": self.unknown_characters,
        }


class Tally:
    """Sums the losses of consecutive ids, character by character, in constant memory."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pending: tuple[Ids, NDArray[np.float64]] = (np.zeros(0, np.int64), np.zeros(0))
        self._error = SequenceError()
        self._characters = self._predictions = self._bytes = self._unknown = 0
        self._nats = self._unknown_nats = 0.0

    def add(self, ids: Ids, nats: NDArray[Any]) -> Units:
        """Add the losses [N] of the next ids [N]. Returns the characters that they complete.

        An incomplete character stays pending.
        """
        ids = np.concatenate([self._pending[0], ids.astype(np.int64)])
        nats = np.concatenate([self._pending[1], nats.astype(np.float64)])
        starts = np.nonzero(self._tokenizer.starts_character[ids])[0]
        complete = int(starts[-1]) if len(starts) else 0
        self._pending = (ids[complete:], nats[complete:])
        return self._add_characters(ids[:complete], nats[:complete])

    def finish(self) -> Units:
        """Add the pending character, at the end of the text. Returns it."""
        units = self._add_characters(*self._pending)
        self._pending = (np.zeros(0, np.int64), np.zeros(0))
        return units

    def _add_characters(self, ids: Ids, nats: NDArray[np.float64]) -> Units:
        if not len(ids):
            return np.zeros((2, 0))
        starts = self._tokenizer.starts_character[ids].copy()
        starts[0] = True  # a crop may begin inside a character; the rest of it counts as one
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
        """The sums so far. Raises ``DataError`` if nothing was added."""
        self.finish()
        if not self._characters:
            raise DataError("the text has no character to evaluate; give a longer text")
        return Evaluation(
            self._characters,
            self._predictions,
            self._nats,
            self._bytes,
            self._unknown,
            self._unknown_nats,
            self._error.value(self._nats / self._characters),
        )


class DocumentTally:
    """Sums the losses of consecutive ids, document by document, in constant memory. See ``Tally``.

    The standard error comes from the documents, which are independent of one another.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tally, self._error = Tally(tokenizer), DocumentError()
        self._pending = np.zeros(2)  # nats and characters of the incomplete document
        self._count = 0
        self._end_nats = 0.0

    def add(self, ids: Ids, nats: NDArray[Any]) -> Units:
        """Add the losses [N] of the next ids [N]. Returns the documents that they complete."""
        self._tally.add(ids, nats)
        is_end = ids == self._tokenizer.end_id
        ends = np.append(0, np.flatnonzero(is_end) + 1)
        per_id = np.stack([nats.astype(np.float64), self._tokenizer.starts_character[ids].astype(np.float64)])
        cumulative = np.concatenate([np.zeros((2, 1)), per_id.cumsum(axis=1)], axis=1)
        units: Units = np.diff(cumulative[:, ends], axis=1)
        after_last_end = cumulative[:, -1] - cumulative[:, ends[-1]]
        if units.size:
            units[:, 0] += self._pending
        self._pending = after_last_end if units.size else self._pending + after_last_end
        self._count += units.shape[1]
        self._end_nats += float(nats[is_end].sum(dtype=np.float64))
        self._error.add(units)
        return units

    def finish(self) -> Units:
        """Add what is pending, at the end of the text. Without an end marker it does not count as a document."""
        self._tally.finish()
        return np.zeros((2, 0))

    def result(self) -> Evaluation:
        """The sums so far. Raises ``DataError`` if nothing was added."""
        evaluation = self._tally.result()
        return replace(
            evaluation,
            documents=self._count,
            end_nats=self._end_nats,
            uncertainty=self._error.value(evaluation.nats_per_char),
        )


def make_tally(tokenizer: Tokenizer) -> Tally | DocumentTally:
    """The tally for what ``compute_losses`` returns with ``tokenizer``."""
    return Tally(tokenizer) if tokenizer.end_id is None else DocumentTally(tokenizer)


def make_error(tokenizer: Tokenizer) -> SequenceError | DocumentError:
    """The uncertainty of the mean of the units that the tally of ``tokenizer`` returns."""
    return SequenceError() if tokenizer.end_id is None else DocumentError()
