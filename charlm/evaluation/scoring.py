"""What a model says of documents: the score of each, and how unexpected each character was.

With a model of running text there is no end to predict, and a document is read after the tokenizer's start id.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.corpus.documents import Piece
from charlm.engine import Engine, FloatArray
from charlm.evaluation.losses import CHUNK, POOL, side_by_side
from charlm.tokenizer.documents import DocumentTokenizer
from charlm.tokenizer.protocol import Codes, Ids, Tokenizer


class Scored(NamedTuple):
    """One document and what the model makes of it."""

    number: int
    """From 1, in the order of the text."""
    text: str
    nats: float
    """Minus its log-probability, the end marker included where the model has one."""
    characters: int
    """Predicted: with the end marker."""
    unknown_characters: int
    """Of these, how many the training text did not have."""

    @property
    def bits_per_char(self) -> float:
        """0 for a document in which nothing is predicted."""
        return self.nats / max(1, self.characters) / math.log(2)


def score_documents(
    engine: Engine, tokenizer: Tokenizer, pieces: Iterable[Piece], at_once: bool = False
) -> Iterator[list[Scored]]:
    """A score for each document of ``pieces``, in order, in lists of those that were read together.

    In constant memory, but that a single document must fit. Documents wait for others to be read beside; with
    ``at_once`` only for those of the same piece.
    """
    number, waiting, ends_at, size = 1, list[Codes](), list[NDArray[np.int64]](), 0
    for codes, ends in pieces:
        waiting.append(codes)
        ends_at.append(ends + size)
        size += len(codes)
        if size < POOL and not at_once:
            continue
        if scored := _score(engine, tokenizer, np.concatenate(waiting), np.concatenate(ends_at), number):
            yield scored
            number += len(scored)
        last = max((int(ends[-1]) for ends in ends_at if len(ends)), default=0)
        waiting = [np.concatenate(waiting)[last:]]
        size, ends_at = len(waiting[0]), []
    if any(len(ends) for ends in ends_at):
        yield _score(engine, tokenizer, np.concatenate(waiting), np.concatenate(ends_at), number)


def _score(engine: Engine, tokenizer: Tokenizer, codes: Codes, ends: NDArray[np.int64], number: int) -> list[Scored]:
    if not len(ends):
        return []
    codes = codes[: ends[-1]]
    ids, id_ends = ids_of(tokenizer, codes, ends)
    nats = side_by_side(engine, tokenizer.start_id, ids, id_ends).astype(np.float64)
    starts = tokenizer.starts_character[ids]
    per_document = zip(
        _texts(tokenizer, codes, ends),
        _sums(nats, id_ends).tolist(),
        _sums(starts, id_ends).tolist(),
        _sums(tokenizer.unknown(ids) & starts, id_ends).tolist(),
        strict=True,
    )
    return [Scored(number + offset, *values) for offset, values in enumerate(per_document)]


def ids_of(tokenizer: Tokenizer, codes: Codes, ends: NDArray[np.int64]) -> tuple[Ids, NDArray[np.int64]]:
    """The ids of whole documents, end markers included where the model has any, and where each ends."""
    if isinstance(tokenizer, DocumentTokenizer):
        ids = tokenizer.encode_documents(codes, ends)
        return ids, np.flatnonzero(ids == tokenizer.end_id) + 1
    ids = tokenizer.encode_codes(codes)
    return ids, np.append(np.flatnonzero(tokenizer.starts_character[ids]), len(ids))[ends]


def _sums(values: NDArray[Any], ends: NDArray[np.int64]) -> NDArray[Any]:
    sums: NDArray[Any] = np.diff(np.append(0, np.cumsum(values))[np.append(0, ends)])
    return sums


def document_texts(tokenizer: Tokenizer, pieces: Iterable[Piece]) -> Iterator[str]:
    """The texts of documents, one by one; each must fit in memory."""
    begun: list[Codes] = []
    for codes, ends in pieces:
        first = int(ends[0]) if len(ends) else len(codes)
        begun.append(codes[:first])
        if len(ends):
            head = np.concatenate(begun)
            yield from _texts(tokenizer, head, np.full(1, len(head), np.int64))
            yield from _texts(tokenizer, codes[first : ends[-1]], ends[1:] - first)
            begun = [codes[ends[-1] :]]


def _texts(tokenizer: Tokenizer, codes: Codes, ends: NDArray[np.int64]) -> Iterator[str]:
    bounds = itertools.pairwise([0, *ends.tolist()])
    if tokenizer.kind == "byte":
        data = codes.astype(np.uint8).tobytes()
        return (data[start:stop].decode("utf-8", "surrogateescape") for start, stop in bounds)
    text = codes.astype("<u4").tobytes().decode("utf-32-le")
    return (text[start:stop] for start, stop in bounds)


class Surprise(NamedTuple):
    """How unexpected a character was, and what was likelier or as likely."""

    character: str
    """The end marker has none."""
    nats: float
    alternatives: list[tuple[str, float]]
    """The likeliest characters in its place with their probabilities; "" is the end, "\ufffd" one spelt in bytes."""


def surprises(engine: Engine, tokenizer: Tokenizer, ids: Ids, count: int = 5) -> Iterator[Surprise]:
    """One for each character of a document, read from a fresh state; ``ids`` include its end marker, if any."""
    names = [tokenizer.decode(np.array([id_])) for id_ in range(tokenizer.vocabulary_size)]
    state = engine.start(1)
    previous = np.array([tokenizer.start_id], np.int64)
    begun: tuple[list[int], float, list[tuple[str, float]]] | None = None
    for start in range(0, len(ids), CHUNK):
        targets = ids[start : start + CHUNK].astype(np.int64)
        inputs = np.concatenate([previous, targets[:-1]])
        logits_T1V, state = engine.forward(inputs[:, None], state)
        log_TV = _log_softmax(logits_T1V[:, 0])
        best_TC = np.argsort(-log_TV, axis=1, kind="stable")[:, :count]
        previous = targets[-1:]
        for row_V, best_C, target in zip(log_TV, best_TC, targets.tolist(), strict=True):
            if begun is not None and not tokenizer.starts_character[target]:
                begun = [*begun[0], target], begun[1] - float(row_V[target]), begun[2]
                continue
            if begun is not None:
                yield Surprise(tokenizer.decode(np.array(begun[0])), *begun[1:])
            begun = [target], -float(row_V[target]), [(names[id_], float(np.exp(row_V[id_]))) for id_ in best_C]
    if begun is not None:
        yield Surprise(tokenizer.decode(np.array(begun[0])), *begun[1:])


def _log_softmax(logits_TV: FloatArray) -> NDArray[np.float64]:
    shifted = logits_TV.astype(np.float64) - logits_TV.max(axis=1, keepdims=True)
    log_TV: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_TV
