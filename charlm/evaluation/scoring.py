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
from charlm.corpus.documents import Piece
from charlm.engine import Engine
from charlm.engine.ensemble import log_softmax
from charlm.evaluation.losses import CHUNK, DOCUMENT_POOL, batched_document_losses
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
    kept: tuple[str, ...] = ()
    """Of a row of a table, the cells of other columns that were asked for."""
    given: str | None = None
    """The condition of the document, for a model with conditions."""

    @property
    def bits_per_char(self) -> float:
        """0 if nothing is predicted."""
        return self.nats / max(1, self.characters) / math.log(2)


def score_documents(
    engine: Engine, tokenizer: Tokenizer, pieces: Iterable[Piece], at_once: bool = False
) -> Iterator[list[Scored]]:
    """A score for each document of ``pieces``, in order, in lists of the documents that were read in one batch.

    In constant memory, except that a single document must fit. Documents are collected into a large batch; with
    ``at_once`` those of a piece are scored immediately.
    """
    number, pending, pending_ends, size = 1, list[Codes](), list[NDArray[np.int64]](), 0
    for codes, ends in pieces:
        pending.append(codes)
        pending_ends.append(ends + size)
        size += len(codes)
        if size < DOCUMENT_POOL and not at_once:
            continue
        if scored := _score(engine, tokenizer, np.concatenate(pending), np.concatenate(pending_ends), number):
            yield scored
            number += len(scored)
        last = max((int(ends[-1]) for ends in pending_ends if len(ends)), default=0)
        pending = [np.concatenate(pending)[last:]]
        size, pending_ends = len(pending[0]), []
    if any(len(ends) for ends in pending_ends):
        yield _score(engine, tokenizer, np.concatenate(pending), np.concatenate(pending_ends), number)


def _score(engine: Engine, tokenizer: Tokenizer, codes: Codes, ends: NDArray[np.int64], number: int) -> list[Scored]:
    if not len(ends):
        return []
    codes = codes[: ends[-1]]
    ids, id_ends = encode_documents(tokenizer, codes, ends)
    nats = batched_document_losses(engine, tokenizer.start_id, ids, id_ends).astype(np.float64)
    starts, given = tokenizer.starts_character[ids], list[str | None]([None] * len(ends))
    if tokenizer.separator_id is not None:
        predicted = ~prefix_mask(tokenizer, ids)
        nats, starts = nats * predicted, starts & predicted
        given = [*values_of(Piece(codes, ends), tokenizer.kind)]
        codes, ends = without_prefixes(Piece(codes, ends))
    per_document = zip(
        _texts(tokenizer, codes, ends),
        _sums(nats, id_ends).tolist(),
        _sums(starts, id_ends).tolist(),
        _sums(tokenizer.unknown(ids) & starts, id_ends).tolist(),
        given,
        strict=True,
    )
    return [
        Scored(number + offset, *values)._replace(given=value) for offset, (*values, value) in enumerate(per_document)
    ]


def encode_documents(tokenizer: Tokenizer, codes: Codes, ends: NDArray[np.int64]) -> tuple[Ids, NDArray[np.int64]]:
    """The ids of whole documents, with end markers if the tokenizer has one, and the index after each document."""
    ids = tokenizer.encode_documents(codes, ends)
    if tokenizer.end_id is not None:
        return ids, np.flatnonzero(ids == tokenizer.end_id) + 1
    return ids, np.append(np.flatnonzero(tokenizer.starts_character[ids]), len(ids))[ends]


def _sums(values: NDArray[Any], ends: NDArray[np.int64]) -> NDArray[Any]:
    sums: NDArray[Any] = np.diff(np.append(0, np.cumsum(values))[np.append(0, ends)])
    return sums


def document_texts(tokenizer: Tokenizer, pieces: Iterable[Piece]) -> Iterator[str]:
    """The texts of documents, one by one. Each must fit in memory."""
    pending: list[Codes] = []
    for codes, ends in pieces:
        first = int(ends[0]) if len(ends) else len(codes)
        pending.append(codes[:first])
        if len(ends):
            document = np.concatenate(pending)
            yield from _texts(tokenizer, document, np.full(1, len(document), np.int64))
            yield from _texts(tokenizer, codes[first : ends[-1]], ends[1:] - first)
            pending = [codes[ends[-1] :]]


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


def surprisals(
    engine: Engine, tokenizer: Tokenizer, ids: Ids, count: int = 5, before: Sequence[Ids] = ()
) -> Iterator[Surprisal]:
    """One for each character of a document, which is read from the initial state, after the ids ``before``.

    ``ids`` include the end marker, if the tokenizer has one. ``count`` is the number of alternatives.
    """
    names = [tokenizer.decode(np.array([id_])) for id_ in range(tokenizer.vocabulary_size)]
    character: list[int] = []
    nats, alternatives = 0.0, list[tuple[str, float]]()
    predictions = _predictions(engine, tokenizer, np.concatenate([*before, ids]), count)
    for target, log_V, best_C in itertools.islice(predictions, sum(map(len, before)), None):
        if character and not tokenizer.starts_character[target]:
            character.append(target)
            nats -= float(log_V[target])
            continue
        if character:
            yield Surprisal(tokenizer.decode(np.array(character)), nats, alternatives)
        character, nats = [target], -float(log_V[target])
        alternatives = [(names[id_], float(np.exp(log_V[id_]))) for id_ in best_C]
    if character:
        yield Surprisal(tokenizer.decode(np.array(character)), nats, alternatives)


def _predictions(
    engine: Engine, tokenizer: Tokenizer, ids: Ids, count: int
) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.int64]]]:
    """Each id with the log-probabilities [V] in its place, and the ids [C] of the ``count`` largest of them."""
    state = engine.initial_state(1)
    previous = np.array([tokenizer.start_id], np.int64)
    for start in range(0, len(ids), CHUNK):
        targets_T = ids[start : start + CHUNK].astype(np.int64)
        inputs_T = np.concatenate([previous, targets_T[:-1]])
        logits_T1V, state = engine.forward(inputs_T[:, None], state)
        log_TV = log_softmax(logits_T1V[:, 0])
        best_TC = np.argsort(-log_TV, axis=1, kind="stable")[:, :count]
        yield from zip(targets_T.tolist(), log_TV, best_TC, strict=True)
        previous = targets_T[-1:]
