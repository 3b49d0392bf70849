"""What a model says of documents: the loss of every id, of each document, and of all together.

Every document is read from a fresh state. Many are read side by side, sorted by length, so that hardly anything is
padding, and what comes out is in the order that went in. With a model of running text there is no end to predict, and a
document is read after the tokenizer's start id.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.documents import Piece, buckets, pad
from charlm.engine import Engine, EngineState, FloatArray
from charlm.errors import UsageError
from charlm.evaluation import (
    CHUNK,
    BlockError,
    Evaluation,
    Losses,
    Progress,
    Tally,
    Units,
    crop_losses,
    exact_losses,
    silent,
)
from charlm.tokenizer import Codes, DocumentTokenizer, Ids, Tokenizer

_PLACES = 1 << 14
"""Ids that are read in one call, padding included."""
_POOL = 1 << 18
"""Ids of documents that are sorted by length together; a longer document is read by itself, chunk by chunk."""


def side_by_side(
    engine: Engine, start_id: int, ids: Ids, ends: NDArray[np.int64], progress: Progress = silent
) -> FloatArray:
    """The losses [N] of documents that lie one after another in ``ids`` [N] and end at ``ends``, the last at N."""
    nats_N = np.empty(len(ids), np.float32)
    starts, lengths = np.append(0, ends[:-1]), np.diff(ends, prepend=0)
    for rows in buckets(lengths, _PLACES, CHUNK):
        state: EngineState = engine.start(len(rows))
        first = 0
        while active := int((lengths[rows] > first).sum()):
            if active < len(rows):
                rows = rows[:active]  # noqa: PLW2901  # the shorter documents have ended
                state = engine.gather([(state, np.arange(active))])
            lengths_B = np.minimum(lengths[rows] - first, CHUNK)
            places = _ranges(starts[rows] + first, lengths_B)
            before_B = ids[starts[rows] + first - 1] if first else np.full(active, start_id)
            chunk = pad(ids[places], lengths_B, before_B.astype(np.int64))
            nats_TB, state = engine.losses(chunk.inputs_TB, chunk.targets_TB, state)
            nats_N[places] = nats_TB.T[chunk.real_TB.T]
            progress(len(places))
            first += CHUNK
    return nats_N


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """``starts[0]`` ... ``starts[0] + lengths[0] - 1``, ``starts[1]`` and so on, one after another."""
    offsets = starts - np.append(0, np.cumsum(lengths)[:-1])
    return np.repeat(offsets, lengths) + np.arange(int(lengths.sum()))


# ---------------------------------------------------------------------------------------------------- evaluation


def evaluate(
    engine: Engine, tokenizer: Tokenizer, blocks: Iterable[Ids], window: int | None = None, progress: Progress = silent
) -> Evaluation:
    """Exact sums over a text given as ``blocks`` of ids of any size, or over cold windows; see ``losses_of``.

    Raises ``DataError`` where there is nothing to predict.
    """
    tally = tally_of(tokenizer)
    for ids, nats in losses_of(engine, tokenizer, blocks, window, progress):
        tally.add(ids, nats)
    return tally.result()


def losses_of(
    engine: Engine, tokenizer: Tokenizer, blocks: Iterable[Ids], window: int | None = None, progress: Progress = silent
) -> Losses:
    """Ids and their losses in nats as the tokenizer asks for: of documents, of a text that runs on, or of its windows.

    ``progress`` is called with the number of ids read since its last call. Raises ``UsageError`` for a ``window`` over
    documents, which are read from their beginnings in any case.
    """
    if isinstance(tokenizer, DocumentTokenizer):
        if window is not None:
            raise UsageError("documents are each read from a cold state anyway; leave out --protocol crops")
        return document_losses(engine, tokenizer, blocks, progress)
    pieces = exact_losses(engine, tokenizer, blocks) if window is None else crop_losses(engine, blocks, window)
    return _counted(pieces, progress)


def _counted(losses: Losses, progress: Progress) -> Losses:
    for ids, nats in losses:
        yield ids, nats
        progress(len(ids))


def tally_of(tokenizer: Tokenizer) -> Tally | DocumentTally:
    """What adds up ``losses_of``."""
    return DocumentTally(tokenizer) if isinstance(tokenizer, DocumentTokenizer) else Tally(tokenizer)


def error_of(tokenizer: Tokenizer) -> BlockError | DocumentError:
    """What tells the standard error of the units that ``tally_of`` returns."""
    return DocumentError() if isinstance(tokenizer, DocumentTokenizer) else BlockError()


def document_losses(
    engine: Engine, tokenizer: DocumentTokenizer, blocks: Iterable[Ids], progress: Progress = silent
) -> Losses:
    """Ids and their losses in nats, in order, of documents given in ``blocks`` of any size, each with its end marker.

    A document larger than memory is read chunk by chunk.
    """
    held: Ids = np.zeros(0, np.int64)
    blocks = iter(blocks)
    for block in blocks:
        held = np.concatenate([held, block.astype(np.int64)])
        if len(held) < _POOL:
            continue
        ends = np.flatnonzero(held == tokenizer.end_id) + 1
        if len(ends):
            yield held[: ends[-1]], side_by_side(engine, tokenizer.start_id, held[: ends[-1]], ends, progress)
            held = held[ends[-1] :]
        if len(held) >= _POOL:
            rest: list[Ids] = []
            for ids, nats in exact_losses(engine, tokenizer, _to_the_end(held, blocks, tokenizer.end_id, rest)):
                yield ids, nats
                progress(len(ids))
            held = rest[0] if rest else held[:0]
    ends = np.flatnonzero(held == tokenizer.end_id) + 1
    if len(held):
        ends = ends if len(ends) and ends[-1] == len(held) else np.append(ends, len(held))
        yield held, side_by_side(engine, tokenizer.start_id, held, ends, progress)


def _to_the_end(begun: Ids, blocks: Iterator[Ids], end_id: int, rest: list[Ids]) -> Iterator[Ids]:
    """The rest of a document that has ``begun``; what comes after it in its last block is put into ``rest``."""
    yield begun
    for block in blocks:
        ends = np.flatnonzero(block == end_id)
        if len(ends):
            yield block[: ends[0] + 1]
            rest.append(block[ends[0] + 1 :].astype(np.int64))
            return
        yield block


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


# ---------------------------------------------------------------------------------------------------- scores


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
        if size < _POOL and not at_once:
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


# ---------------------------------------------------------------------------------------------------- surprise


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
