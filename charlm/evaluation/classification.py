"""Which value of its condition a document most probably has, by Bayes' theorem.

    p(value | text) = p(text | value) p(value) / sum over all values

The model gives p(text | value), end marker included; p(value) is how frequent the value is in the training text. Every
document is read once for each value. Shapes: N ids, D documents, K values.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.corpus.pieces import Piece
from charlm.engine import Engine, EngineState
from charlm.engine.ensemble import log_softmax
from charlm.evaluation.losses import batched_document_losses
from charlm.evaluation.scoring import document_texts, encode_documents
from charlm.tokenizer.protocol import Codes, Ids, Tokenizer

_POOL = 1 << 16
"""Codes of documents that are read together for each value."""


class Classified(NamedTuple):
    """A document and the probabilities of its values."""

    number: int
    """From 1, in the order of the text."""
    text: str
    probabilities: dict[str, float]
    """The probability of every value, the most probable first."""
    kept: tuple[str, ...] = ()
    """Of a row of a table, the cells of other columns that were asked for."""

    @property
    def value(self) -> str:
        """The most probable value."""
        return next(iter(self.probabilities))

    @property
    def probability(self) -> float:
        """Of the most probable value."""
        return self.probabilities[self.value]


def classify_documents(
    engine: Engine, tokenizer: Tokenizer, pieces: Iterable[Piece], counts: Mapping[str, int]
) -> Iterator[list[Classified]]:
    """The documents of ``pieces``, which have no conditions, in order, in lists of those that were read together.

    ``counts`` says how many training documents have each value. In constant memory, except that a single document must
    fit.
    """
    values = list(counts)
    frequencies_K = np.array([counts[value] for value in values], np.float64)
    log_prior_K = np.log(frequencies_K / frequencies_K.sum())
    states = [_state_after(engine, tokenizer, value) for value in values]
    number = 1
    for piece in _pools(pieces):
        ids, ends = encode_documents(tokenizer, piece.codes, piece.ends)
        nats_DK = np.stack([_document_nats(engine, tokenizer, ids, ends, state) for state in states], axis=1)
        probabilities_DK = np.exp(log_softmax(log_prior_K - nats_DK))
        order_DK = np.argsort(-probabilities_DK, axis=1, kind="stable")
        texts = [text for _, text in document_texts(tokenizer, [piece])]
        yield [
            Classified(number + row, text, {values[k]: float(probabilities_K[k]) for k in order_K})
            for row, (text, probabilities_K, order_K) in enumerate(zip(texts, probabilities_DK, order_DK, strict=True))
        ]
        number += len(piece.ends)


def _state_after(engine: Engine, tokenizer: Tokenizer, value: str) -> EngineState:
    """The state of one stream after the boundary and ``value``. The separator is read next."""
    ids = np.append(tokenizer.start_id, tokenizer.encode(value)).astype(np.int64)
    return engine.forward(ids[:, None], engine.initial_state(1))[1]


def _document_nats(
    engine: Engine, tokenizer: Tokenizer, ids: Ids, ends: NDArray[np.int64], state: EngineState
) -> NDArray[np.float64]:
    """The losses [D] of documents that are read after the separator, from ``state``."""
    assert tokenizer.separator_id is not None, "a model with conditions"
    nats_N = batched_document_losses(engine, tokenizer.separator_id, ids, ends, initial=state).astype(np.float64)
    sums: NDArray[np.float64] = np.add.reduceat(nats_N, np.append(0, ends[:-1]))
    return sums


def _pools(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The documents of ``pieces``, which may continue in the next one, in larger pieces of whole documents."""
    codes, ends, size = list[Codes](), list[NDArray[np.int64]](), 0
    for piece in pieces:
        codes.append(piece.codes)
        ends.append(piece.ends + size)
        size += len(piece.codes)
        if size >= _POOL and any(len(part) for part in ends):
            whole, rest = _cut(np.concatenate(codes), np.concatenate(ends))
            yield whole
            codes, ends, size = [rest], [], len(rest)
    if any(len(part) for part in ends):
        yield _cut(np.concatenate(codes), np.concatenate(ends))[0]


def _cut(codes: Codes, ends: NDArray[np.int64]) -> tuple[Piece, Codes]:
    return Piece(codes[: ends[-1]], ends), codes[ends[-1] :]


class Confusion:
    """Counts how often documents with one value were taken for another. Values outside ``known`` are counted apart."""

    def __init__(self, known: Mapping[str, int]) -> None:
        self._known = known
        self.counts: Counter[tuple[str, str]] = Counter()
        """(true value, most probable value) -> documents."""
        self.unknown = 0
        """Documents whose true value the training text does not have."""

    def add(self, true: str, found: str) -> None:
        """Add one document."""
        if true in self._known:
            self.counts[true, found] += 1
        else:
            self.unknown += 1

    @property
    def documents(self) -> int:
        """With a known true value."""
        return self.counts.total()

    @property
    def right(self) -> int:
        """Documents whose most probable value is the true one."""
        return sum(count for (true, found), count in self.counts.items() if true == found)

    @property
    def accuracy(self) -> float:
        """Of the documents with a known true value, at least one, the share whose most probable value is true."""
        return self.right / self.documents

    @property
    def standard_error(self) -> float:
        """Of ``accuracy``, for independent documents.

        Two more right and two more wrong ones are assumed, so that it is not 0 if all are right (Agresti and Coull
        1998).
        """
        count = self.documents + 4
        share = (self.right + 2) / count
        return math.sqrt(share * (1 - share) / count)

    def true_counts(self) -> Counter[str]:
        """How many documents have each true value."""
        counts: Counter[str] = Counter()
        for (true, _), count in self.counts.items():
            counts[true] += count
        return counts
