"""Pieces of a text that is split into documents, and what is done with a stream of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.tokenizer.protocol import Codes

_SMALL_CODES, _MERGED_CODES = 1 << 16, 1 << 20


class Piece(NamedTuple):
    """The next codes of documents, without separators. Document i of a piece ends before ``codes[ends[i]]``.

    The codes after the last end belong to a document that continues in the next piece.
    """

    codes: Codes
    ends: NDArray[np.int64]
    places: NDArray[np.int64] | None = None
    """[3, E] for each of ``ends`` where the document begins: its number and line, from 1, and its file, from 0."""

    def chosen(self, kept: NDArray[np.bool_]) -> Piece:
        """The same codes with only the ends ``kept``."""
        return Piece(self.codes, self.ends[kept], None if self.places is None else self.places[:, kept])


class Part(NamedTuple):
    """The next codes of one file, the ends of documents in them, and the lines on which these documents begin."""

    codes: Codes
    ends: NDArray[np.int64]
    lines: NDArray[np.int64]


def place(files: Iterable[Iterable[Part]], merge: bool = False) -> Iterator[Piece]:
    """The parts of files as pieces with ``places``. With ``merge``, small parts are joined, also those of many files.

    That is many times faster for small files.
    """
    number, size = 1, 0
    waiting: list[tuple[int, Part]] = []
    for file, parts in enumerate(files):
        for part in parts:
            large = not merge or len(part.codes) > _SMALL_CODES
            if waiting and (large or size + len(part.codes) > _MERGED_CODES):
                yield (piece := _joined(waiting, number))
                number += len(piece.ends)
                waiting, size = [], 0
            waiting.append((file, part))
            size += len(part.codes)
            if large:
                yield (piece := _joined(waiting, number))
                number += len(piece.ends)
                waiting, size = [], 0
    if waiting:
        yield _joined(waiting, number)


def _joined(waiting: list[tuple[int, Part]], number: int) -> Piece:
    """Parts with their files as one piece, whose first document has the given number."""
    files, parts = zip(*waiting, strict=True)
    counts = [len(part.ends) for part in parts]
    ends, lines = (np.concatenate(arrays) for arrays in ([p.ends for p in parts], [p.lines for p in parts]))
    if len(parts) == 1:
        codes = parts[0].codes
    else:
        codes = np.concatenate([part.codes for part in parts])
        ends = ends + np.repeat(np.cumsum([0, *(len(part.codes) for part in parts[:-1])]), counts)
    return Piece(codes, ends, np.stack([np.arange(number, number + len(ends)), lines, np.repeat(files, counts)]))


def without_empty(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """``pieces`` without documents that have no codes."""
    carried = 0  # codes of the current document in earlier pieces
    for piece in pieces:
        codes, ends, _ = piece
        lengths = np.diff(ends, prepend=-carried)
        carried = len(codes) - int(ends[-1]) if len(ends) else carried + len(codes)
        yield piece if lengths.all() else piece.chosen(lengths > 0)


class InvalidDocuments:
    """Finds the documents with surrogates, which mark what could not be decoded."""

    def __init__(self) -> None:
        self._current = False

    def update(self, piece: Piece) -> NDArray[np.bool_]:
        """Add the next piece. Returns which of the documents that end in it are invalid."""
        codes, ends, _ = piece
        found = np.zeros(len(ends) + 1, np.bool_)
        if codes.dtype.itemsize > 1:
            marks = np.flatnonzero((codes >= 0xD800) & (codes < 0xE000))
            found[np.searchsorted(ends, marks, side="right")] = True
        found[0] |= self._current
        self._current = bool(found[-1])
        return found[:-1]


def without_invalid(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """``pieces`` of whole documents, without those that are invalid. A single document must fit in memory."""
    finder, pending = InvalidDocuments(), list[Codes]()
    for piece in pieces:
        invalid, last = finder.update(piece), int(piece.ends[-1]) if len(piece.ends) else 0
        codes, before = np.concatenate([*pending, piece.codes]), sum(map(len, pending))
        if len(piece.ends):
            ends = piece.ends + before
            lengths = np.diff(ends, prepend=0)
            kept = np.repeat(~invalid, lengths)
            valid = Piece(codes, ends, piece.places).chosen(~invalid)
            yield valid._replace(codes=codes[: ends[-1]][kept], ends=np.cumsum(lengths[~invalid]))
            pending = [piece.codes[last:]]
        else:
            pending.append(piece.codes)
