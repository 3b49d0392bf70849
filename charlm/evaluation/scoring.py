"""Scores of documents, and the surprisal of each character of a document.

A model of running text predicts no end marker; it reads a document after the tokenizer's start id. Shapes: T time
steps, V vocabulary, C alternatives.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.corpus.conditions import values_of, without_prefixes
from charlm.corpus.pieces import Piece
from charlm.engine import Engine
from charlm.errors import CharlmError
from charlm.evaluation.characters import entropies, predictions, ranks
from charlm.evaluation.losses import DOCUMENT_POOL, batched_document_losses
from charlm.notebook import html_table
from charlm.tokenizer.conditions import prefix_mask
from charlm.tokenizer.protocol import Codes, Ids, Tokenizer


class Scored(NamedTuple):
    """A document and its score."""

    number: int
    """From 1, in the order of the text."""
    text: str
    nats: float
    """The negative log-probability, including the end marker if the model has one."""
    characters: int
    """Characters predicted, including the end marker."""
    unknown_characters: int
    """Characters among these that the training text does not have."""
    file: int = 0
    """From 0, the place among the files that were read."""
    line: int | None = None
    """The line of the file on which the document begins, from 1; None for a document that is not from a file."""
    kept: tuple[str, ...] = ()
    """Of a row of a table, the cells of other columns that were asked for."""
    given: str | None = None
    """The condition of the document, for a model with conditions."""

    @property
    def bits_per_char(self) -> float:
        """0 if nothing is predicted."""
        return self.nats / max(1, self.characters) / math.log(2)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = [("text", self.text), *([] if self.given is None else [("given", self.given)]),
                ("bits per character", f"{self.bits_per_char:.3f}"), ("nats", f"{self.nats:.3f}"),
                ("characters", f"{self.characters:,}"),
                ("unknown characters", f"{self.unknown_characters:,}")]  # fmt: skip
        return html_table((), rows)


def score_documents(
    engine: Engine, tokenizer: Tokenizer, pieces: Iterable[Piece], at_once: bool = False
) -> Iterator[list[Scored]]:
    """A score for each document of ``pieces``, in order, in lists of the documents that were read in one batch.

    In constant memory, except that a single document must fit. Documents are collected into a large batch; with
    ``at_once`` those of a piece are scored immediately. A ``CharlmError`` of ``pieces`` is raised after the documents
    before it were scored.
    """
    pool, errors = _Pool(), list[CharlmError]()
    for piece in _until_error(pieces, errors):
        pool.add(piece)
        if (at_once or pool.size >= DOCUMENT_POOL) and (documents := pool.take()):
            yield _score(engine, tokenizer, documents)
    if documents := pool.take():
        yield _score(engine, tokenizer, documents)
    if errors:
        raise errors[0]


def _until_error(pieces: Iterable[Piece], errors: list[CharlmError]) -> Iterator[Piece]:
    try:
        yield from pieces
    except CharlmError as error:
        errors.append(error)


class _Documents(NamedTuple):
    """Whole documents that are scored together."""

    codes: Codes
    ends: NDArray[np.int64]
    places: NDArray[np.int64]


class _Pool:
    """Pieces that wait until they are scored."""

    def __init__(self) -> None:
        self.size = 0
        self._next_number = 1
        self._codes: list[Codes] = []
        self._ends: list[NDArray[np.int64]] = []
        self._places: list[NDArray[np.int64]] = []

    def add(self, piece: Piece) -> None:
        """Add the next piece of the text."""
        codes, ends, places = piece
        numbers = np.arange(self._next_number, self._next_number + len(ends))
        self._next_number += len(ends)
        self._codes.append(codes)
        self._ends.append(ends + self.size)
        self._places.append(np.stack([numbers, numbers * 0, numbers * 0]) if places is None else places)
        self.size += len(codes)

    def take(self) -> _Documents | None:
        """The documents that have ended, which leave the pool; None if there are none."""
        if not any(len(ends) for ends in self._ends):
            return None
        codes, ends = np.concatenate(self._codes), np.concatenate(self._ends)
        places = np.concatenate(self._places, axis=1)
        rest = codes[ends[-1] :]
        self._codes, self._ends, self._places, self.size = [rest], [], [], len(rest)
        return _Documents(codes[: ends[-1]], ends, places)


def _score(engine: Engine, tokenizer: Tokenizer, documents: _Documents) -> list[Scored]:
    codes, ends, places = documents
    ids, id_ends = encode_documents(tokenizer, codes, ends)
    nats = batched_document_losses(engine, tokenizer.start_id, ids, id_ends).astype(np.float64)
    numbers, lines, files = places.tolist()
    starts, given = tokenizer.starts_character[ids], list[str | None]([None] * len(ends))
    if tokenizer.separator_id is not None:
        predicted = ~prefix_mask(tokenizer, ids)
        nats, starts = nats * predicted, starts & predicted
        given = [*values_of(Piece(codes, ends), tokenizer.kind)]
        codes, ends, _ = without_prefixes(Piece(codes, ends))
    per_document = zip(
        numbers,
        _texts(tokenizer, codes, ends),
        _sums(nats, id_ends).tolist(),
        _sums(starts, id_ends).tolist(),
        _sums(tokenizer.unknown(ids) & starts, id_ends).tolist(),
        files,
        (line or None for line in lines),
        [()] * len(ends),
        given,
        strict=True,
    )
    return [Scored(*values) for values in per_document]


def encode_documents(tokenizer: Tokenizer, codes: Codes, ends: NDArray[np.int64]) -> tuple[Ids, NDArray[np.int64]]:
    """The ids of whole documents, with end markers if the tokenizer has one, and the index after each document."""
    ids = tokenizer.encode_documents(codes, ends)
    if tokenizer.end_id is not None:
        return ids, np.flatnonzero(ids == tokenizer.end_id) + 1
    return ids, np.append(np.flatnonzero(tokenizer.starts_character[ids]), len(ids))[ends]


def _sums(values: NDArray[Any], ends: NDArray[np.int64]) -> NDArray[Any]:
    sums: NDArray[Any] = np.diff(np.append(0, np.cumsum(values))[np.append(0, ends)])
    return sums


def document_texts(tokenizer: Tokenizer, pieces: Iterable[Piece]) -> Iterator[tuple[int, str]]:
    """The numbers and texts of documents, as in ``Scored``, piece by piece. Each must fit in memory."""
    pool = _Pool()
    for piece in pieces:
        pool.add(piece)
        if documents := pool.take():
            codes, ends, places = documents
            yield from zip(places[0].tolist(), _texts(tokenizer, codes, ends), strict=True)


def _texts(tokenizer: Tokenizer, codes: Codes, ends: NDArray[np.int64]) -> Iterator[str]:
    bounds = itertools.pairwise([0, *ends.tolist()])
    if tokenizer.kind == "byte":
        data = codes.astype(np.uint8).tobytes()
        return (data[start:stop].decode("utf-8", "surrogateescape") for start, stop in bounds)
    text = codes.astype("<u4").tobytes().decode("utf-32-le")
    return (text[start:stop] for start, stop in bounds)


class Surprisal(NamedTuple):
    """A character's surprisal, and the most likely alternatives."""

    character: str
    """Empty for the end marker."""
    nats: float
    """The negative log-probability of the character."""
    alternatives: list[tuple[str, float]]
    """The most likely characters in its place and their probabilities.

    "" is the end marker, "\ufffd" a character encoded in bytes.
    """
    entropy: float | None = None
    """The entropy in nats of the distribution in its place, which is the expected surprisal."""
    rank: int | None = None
    """1 if no character was more probable in its place."""


def surprisals(
    engine: Engine, tokenizer: Tokenizer, ids: Ids, count: int = 5, before: Sequence[Ids] = ()
) -> Iterator[Surprisal]:
    """One for each character of a document, which is read from the initial state, after the ids ``before``.

    ``ids`` include the end marker, if the tokenizer has one. ``count`` is the number of alternatives. Of a character
    of several ids, alternatives, entropy and rank are those of the first id.
    """
    names = [tokenizer.decode(np.array([id_])) for id_ in range(tokenizer.vocabulary_size)]
    found: Surprisal | None = None
    character: list[int] = []
    places = itertools.islice(_places(engine, tokenizer, np.concatenate([*before, ids]), count), _size(before), None)
    for id_, nats, best, entropy, rank in places:
        if found is not None and not tokenizer.starts_character[id_]:
            character.append(id_)
            found = found._replace(nats=found.nats + nats)
            continue
        if found is not None:
            yield found._replace(character=tokenizer.decode(np.array(character)))
        character = [id_]
        found = Surprisal("", nats, [(names[each], probability) for each, probability in best], entropy, rank)
    if found is not None:
        yield found._replace(character=tokenizer.decode(np.array(character)))


def _size(parts: Sequence[Ids]) -> int:
    return sum(map(len, parts))


class _Place(NamedTuple):
    """An id of the text and what the model expected in its place."""

    id: int
    nats: float
    best: list[tuple[int, float]]
    entropy: float
    rank: int


def _places(engine: Engine, tokenizer: Tokenizer, ids: Ids, count: int) -> Iterator[_Place]:
    """Each id with the ``count`` most probable ids in its place and their probabilities."""
    for targets_T, log_TV in predictions(engine, tokenizer, ids):
        of_target_T = np.take_along_axis(log_TV, targets_T[:, None], axis=1)[:, 0]
        best_TC = np.argsort(-log_TV, axis=1, kind="stable")[:, :count]
        probability_TC = np.exp(np.take_along_axis(log_TV, best_TC, axis=1))
        best = [[*zip(*row, strict=True)] for row in zip(best_TC.tolist(), probability_TC.tolist(), strict=True)]
        columns = (-of_target_T).tolist(), best, entropies(log_TV).tolist(), ranks(log_TV, of_target_T).tolist()
        yield from map(_Place, targets_T.tolist(), *columns)
