"""Surprisal, entropy and rank of each character of a document, and the surprisal of each word, in bits.

Shapes: N characters, T ids, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.engine import Engine
from charlm.engine.ensemble import log_softmax
from charlm.evaluation.losses import CHUNK
from charlm.tokenizer.protocol import Ids, Tokenizer


class CharacterScores(NamedTuple):
    """How well each of N characters of a document was predicted. ``pandas.DataFrame(scores._asdict())`` is a table.

    A character without an id of its own is read as several byte pieces: its bits are the sum of theirs, its entropy and
    rank those of the first.
    """

    characters: list[str]
    """"" is the end marker of a document. With the byte tokenizer, each byte is a character."""
    bits: NDArray[np.float64]
    """The surprisal: minus the binary logarithm of the probability of the character, given all before it."""
    entropy: NDArray[np.float64]
    """The expected surprisal: the entropy in bits of the distribution that the character was drawn from."""
    rank: NDArray[np.int64]
    """1 if no character was more probable, 2 if one was, and so on."""
    unknown: NDArray[np.bool_]
    """Whether the training text does not have the character."""


class Word(NamedTuple):
    """The surprisal of a word: characters without white space between them, punctuation included."""

    text: str
    start: int
    """The index in the document of the first character, from 0."""
    characters: int
    bits: float
    """The sum over the word's characters."""
    bits_after: float | None
    """The bits of the white space or end marker after the word, which tells that the word ends here ("cat", not
    "cats"); None where the document ends without a marker."""


def score_characters(
    engine: Engine, tokenizer: Tokenizer, ids: Ids, before: Sequence[Ids] = ()
) -> Iterator[CharacterScores]:
    """The scores of a document that is read from the initial state after the ids ``before``, in pieces.

    ``ids`` include the end marker, if the tokenizer has one.
    """
    skipped = sum(map(len, before))
    pending: list[NDArray[np.float64]] = [np.zeros((4, 0))]
    for targets_T, log_TV in predictions(engine, tokenizer, np.concatenate([*before, ids])):
        of_target_T = np.take_along_axis(log_TV, targets_T[:, None], axis=1)[:, 0]
        columns = np.stack([targets_T, -of_target_T, entropies(log_TV), ranks(log_TV, of_target_T)])
        pending.append(columns[:, min(skipped, len(targets_T)) :])
        skipped -= len(targets_T) - pending[-1].shape[1]
        # A character is complete where the next one starts.
        known = np.concatenate(pending, axis=1)
        starts = np.flatnonzero(tokenizer.starts_character[known[0].astype(np.int64)])
        complete = int(starts[-1]) if len(starts) else 0
        if complete:
            yield _grouped(tokenizer, known[:, :complete])
        pending = [known[:, complete:]]
    if pending[0].shape[1]:
        yield _grouped(tokenizer, pending[0])


def _grouped(tokenizer: Tokenizer, columns_4T: NDArray[np.float64]) -> CharacterScores:
    """The scores of whole characters from those of their ids: id, nats, entropy in nats, rank."""
    ids = columns_4T[0].astype(np.int64)
    starts = np.flatnonzero(tokenizer.starts_character[ids])
    starts[:1] = 0  # damaged ids may begin in the middle of a character
    nats, entropy = columns_4T[1:3]
    return CharacterScores(
        [tokenizer.decode(part) for part in np.split(ids, starts[1:])],
        np.maximum(np.add.reduceat(nats, starts) / math.log(2), 0.0),
        np.maximum(entropy[starts] / math.log(2), 0.0),
        columns_4T[3][starts].astype(np.int64),
        tokenizer.unknown(ids)[starts],
    )


def joined(pieces: Iterable[CharacterScores]) -> CharacterScores:
    """The scores of several pieces in one."""
    empty = CharacterScores([], np.zeros(0), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.bool_))
    every = [empty, *pieces]
    columns = zip(*(piece[1:] for piece in every), strict=True)
    return CharacterScores([each for piece in every for each in piece.characters], *map(np.concatenate, columns))


def score_words(pieces: Iterable[CharacterScores]) -> Iterator[Word]:
    """The words of a document, from the scores of its characters."""
    word, start, total, place = list[str](), 0, 0.0, -1
    for piece in pieces:
        for character, bits in zip(piece.characters, piece.bits.tolist(), strict=True):
            place += 1
            if character and not character.isspace():
                start = start if word else place
                word.append(character)
                total += bits
            elif word:
                yield Word(_text(word), start, len(word), total, bits)
                word, total = [], 0.0
    if word:
        yield Word(_text(word), start, len(word), total, None)


def _text(characters: list[str]) -> str:
    """The characters as a text; bytes, each of which came as a surrogate escape, are decoded together."""
    text = "".join(characters)
    if any(0xDC80 <= ord(character) <= 0xDCFF for character in text):
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return text


def predictions(
    engine: Engine, tokenizer: Tokenizer, ids: Ids
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Consecutive ids [T] and the log-probabilities [T, V] in their places, chunk by chunk."""
    state = engine.initial_state(1)
    previous = np.array([tokenizer.start_id], np.int64)
    for start in range(0, len(ids), CHUNK):
        targets_T = ids[start : start + CHUNK].astype(np.int64)
        inputs_T = np.concatenate([previous, targets_T[:-1]])
        logits_T1V, state = engine.forward(inputs_T[:, None], state)
        yield targets_T, log_softmax(logits_T1V[:, 0])
        previous = targets_T[-1:]


def entropies(log_TV: NDArray[np.float64]) -> NDArray[np.float64]:
    """The entropies [T] in nats of distributions that are given as log-probabilities."""
    entropy_T: NDArray[np.float64] = -(np.exp(log_TV) * log_TV).sum(axis=1)
    return entropy_T


def ranks(log_TV: NDArray[np.float64], of_target_T: NDArray[np.float64]) -> NDArray[np.int64]:
    """1 plus the number of ids that are more probable than the target, whose log-probabilities are given; [T]."""
    rank_T: NDArray[np.int64] = 1 + (log_TV > of_target_T[:, None]).sum(axis=1)
    return rank_T
