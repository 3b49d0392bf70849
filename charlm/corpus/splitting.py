"""Which part of a text goes into which split: "train", "valid" or "test".

``ContinuousSplitter``: the beginning, the middle and the end of the text. ``DocumentSplitter``: whole documents, which
the seed shuffles into the splits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from charlm.corpus.hashing import DocumentHasher, Sums, document_sums
from charlm.corpus.pieces import InvalidDocuments, Part, Piece, place
from charlm.corpus.prepared import SPLITS
from charlm.corpus.shuffling import shuffled
from charlm.corpus.text import TextSource
from charlm.corpus.workers import Workers
from charlm.tokenizer.protocol import Codes

_SPLIT_KEY = 0x5B117
_NO_SPLIT = len(SPLITS)
_NO_ENDS = np.zeros(0, np.int64)
_MANY_FILES = 100
"""The pieces of more files than this are merged where they are small. Byte fallback depends on where pieces end."""

ProgressCallback = Callable[[int], None]
"""Called with the number of codes read since the last call."""
Fractions = tuple[float, float, float]
"""The fractions of the text for train, valid and test."""
Block = Callable[[], tuple[Piece, Piece, Piece]]
"""A block of the text: a function, so that any thread may call it, that returns its pieces for train, valid, test."""


@dataclass(frozen=True)
class DocumentOptions:
    """How a text is split into documents: ``document_kind`` is a key of ``DOCUMENT_SEPARATORS``.

    ``start`` is the regular expression of the kind "start". ``seed`` shuffles the documents into the splits. With
    ``distinct``, a document is left out if it occurred before. ``conditional``: whether the documents begin with
    conditions.
    """

    document_kind: str
    seed: int = 1
    distinct: bool = False
    conditional: bool = False
    start: str | None = None


class Splitter(Protocol):
    """A text whose parts are assigned to splits. The text is measured when the splitter is created."""

    skipped: int
    """Documents that are left out, because they have bytes that are not valid in the encoding."""

    def blocks(self) -> Iterator[Block]:
        """Read the text, block by block."""
        ...


def make_splitter(
    source: TextSource,
    kind: str,
    fractions: Fractions,
    documents: DocumentOptions | None,
    workers: Workers,
    progress: ProgressCallback = lambda count: None,
) -> Splitter:
    """Read ``source`` as codes for the tokenizer ``kind``, measure it and assign its parts to the splits."""
    if documents is None:
        return ContinuousSplitter(source, kind, fractions, progress)
    return DocumentSplitter(source, kind, fractions, documents, workers, progress)


def _with_sums(piece: Piece) -> tuple[Piece, Sums | None]:
    return piece, document_sums(piece)


def _without_sums(piece: Piece) -> tuple[Piece, Sums | None]:
    return piece, None


def _boundaries(total: int, fractions: Fractions) -> list[int]:
    return [0, round(total * fractions[0]), round(total * (fractions[0] + fractions[1])), total]


class ContinuousSplitter:
    """Continuous text: the splits follow one another."""

    def __init__(self, source: TextSource, kind: str, fractions: Fractions, progress: ProgressCallback) -> None:
        self.skipped = 0
        self._source, self._kind = source, kind
        total = 0
        for codes in self._codes():
            progress(len(codes))
            total += len(codes)
        self._boundaries = _boundaries(total, fractions)

    def _codes(self) -> Iterator[Codes]:
        blocks = self._source.codes(self._kind)
        if len(self._source.paths) <= _MANY_FILES:
            return blocks
        return (piece.codes for piece in place([(Part(codes, _NO_ENDS, _NO_ENDS) for codes in blocks)], merge=True))

    def blocks(self) -> Iterator[Block]:
        position = 0
        for codes in self._codes():
            yield partial(self._cut, codes, position)
            position += len(codes)

    def _cut(self, codes: Codes, position: int) -> tuple[Piece, Piece, Piece]:
        """The pieces of a block that begins at ``position``."""
        spans = zip(self._boundaries[:-1], self._boundaries[1:], strict=True)
        train, valid, test = (
            Piece(codes[max(0, start - position) : max(0, stop - position)], _NO_ENDS) for start, stop in spans
        )
        return train, valid, test


class DocumentSplitter:
    """Whole documents, shuffled into the splits. Needs some tens of bytes of memory per document."""

    def __init__(
        self,
        source: TextSource,
        kind: str,
        fractions: Fractions,
        options: DocumentOptions,
        workers: Workers,
        progress: ProgressCallback,
    ) -> None:
        self._source, self._kind, self._options = source, kind, options
        hasher, fingerprints = DocumentHasher(), [np.zeros(0, np.uint64)]
        finder, invalid = InvalidDocuments(), [np.zeros(0, np.bool_)]
        for piece, sums in workers.map(_with_sums if options.distinct else _without_sums, self._documents()):
            progress(len(piece.codes))
            invalid.append(finder.update(piece))
            if sums is not None:
                fingerprints.append(hasher.add(sums))
        kept = ~np.concatenate(invalid)
        self.skipped = int(np.count_nonzero(~kept))
        if options.distinct:
            valid = np.flatnonzero(kept)
            firsts = np.unique(np.concatenate(fingerprints)[valid], return_index=True)[1]
            kept = np.zeros(len(kept), np.bool_)
            kept[valid[firsts]] = True
        self._rank = np.where(kept, np.cumsum(kept) - 1, -1)  # among the documents that are kept
        self._boundaries = _boundaries(int(np.count_nonzero(kept)), fractions)

    def _documents(self) -> Iterator[Piece]:
        merge = len(self._source.paths) > _MANY_FILES
        return self._source.documents(self._kind, self._options.document_kind, start=self._options.start, merge=merge)

    def blocks(self) -> Iterator[Block]:
        count = 0
        for piece in self._documents():
            yield partial(self._cut, piece, count)
            count += len(piece.ends)

    def _cut(self, piece: Piece, count: int) -> tuple[Piece, Piece, Piece]:
        """The pieces of ``piece``, before which ``count`` documents end."""
        codes, ends, _ = piece
        lengths = np.diff(ends, prepend=0, append=len(codes))
        split_of = self._split_of(np.arange(count, count + len(lengths)))
        split_of_code = np.repeat(split_of, lengths)
        train, valid, test = (
            Piece(codes[split_of_code == split], np.cumsum(lengths[:-1][split_of[:-1] == split]))
            for split in range(len(SPLITS))
        )
        return train, valid, test

    def _split_of(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The split of each document, as an index into ``SPLITS``; ``_NO_SPLIT`` if it is left out."""
        splits = np.full(len(numbers), _NO_SPLIT, np.uint8)
        if not self._boundaries[-1]:
            return splits
        exists = numbers < len(self._rank)  # no document follows the last one
        ranks = self._rank[numbers[exists]]
        positions = shuffled(np.maximum(ranks, 0), self._boundaries[-1], self._options.seed, _SPLIT_KEY)
        found = np.searchsorted(self._boundaries[1:-1], positions, side="right")
        splits[exists] = np.where(ranks < 0, _NO_SPLIT, found)
        return splits
