"""Conditions in pieces: the documents of a table may begin with a value of another column and a separator.

Such a piece has whole documents only, each with one ``SEPARATOR_CODE`` in its codes. See ``tokenizer.conditions``.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from charlm.corpus.pieces import Piece
from charlm.errors import DataError
from charlm.tokenizer.protocol import SEPARATOR_CODE, code_points

MAX_VALUES = 1000
"""Distinct values of a condition, which a checkpoint lists with their counts."""
MAX_VALUE_CHARACTERS = 80


def with_values(values: Piece, texts: Piece) -> Piece:
    """Documents with conditions, from as many values and texts; they are at the places of the texts."""
    lengths = np.stack([np.diff(piece.ends, prepend=0) for piece in (values, texts)], axis=1)
    lengths[:, 0] += 1  # the separator
    codes = np.empty(int(lengths.sum()), np.uint32)
    in_prefix = np.repeat(np.tile([True, False], len(lengths)), lengths.reshape(-1))
    codes[in_prefix] = np.insert(values.codes.astype(np.uint32), values.ends, SEPARATOR_CODE)
    codes[~in_prefix] = texts.codes
    return Piece(codes, np.cumsum(lengths.sum(axis=1)), texts.places)


def with_value(pieces: Iterable[Piece], value: str, kind: str) -> Iterator[Piece]:
    """``pieces`` of any documents, each of which gets the condition ``value``, for the tokenizer ``kind``."""
    codes = code_points(value) if kind == "char" else np.frombuffer(value.encode("utf-8", "surrogateescape"), np.uint8)
    prefix = np.append(codes.astype(np.uint32), np.uint32(SEPARATOR_CODE))
    begins = True  # whether a document begins with the next code
    for codes, ends, places in pieces:
        before = np.arange(len(ends)) + int(begins)  # how many begin in this piece before each of ``ends``
        starts = np.append(0, ends) if begins else ends
        begins = len(starts) > 0 and int(starts[-1]) == len(codes)
        starts = starts[: len(starts) - begins]  # the last one begins with the next piece
        inserted = np.insert(codes.astype(np.uint32), np.repeat(starts, len(prefix)), np.tile(prefix, len(starts)))
        yield Piece(inserted, ends + len(prefix) * before, places)


def prefix_codes(piece: Piece) -> NDArray[np.bool_]:
    """[N] which codes of whole documents belong to a value or are a separator."""
    separators = np.flatnonzero(piece.codes == SEPARATOR_CODE)
    starts = np.append(0, piece.ends[:-1])[: len(piece.ends)]
    change = np.zeros(len(piece.codes) + 1, np.int64)
    np.add.at(change, starts, 1)
    np.add.at(change, separators + 1, -1)
    inside: NDArray[np.bool_] = np.cumsum(change[:-1]) > 0
    return inside


def without_prefixes(piece: Piece) -> Piece:
    """The documents without their conditions."""
    kept = ~prefix_codes(piece)
    before = np.append(0, np.cumsum(kept))
    return Piece(piece.codes[kept], before[piece.ends], piece.places)


def values_of(piece: Piece, kind: str) -> list[str]:
    """The condition of each document, for the tokenizer ``kind``."""
    codes = piece.codes[prefix_codes(piece)]
    ends = np.flatnonzero(codes == SEPARATOR_CODE)
    bounds = itertools.pairwise([-1, *ends.tolist()])
    if kind == "byte":
        data = codes.astype(np.uint8).tobytes()
        return [data[start + 1 : end].decode("utf-8", "surrogateescape") for start, end in bounds]
    codes[ends] = 0  # any character, which is left out
    text = codes.astype("<u4").tobytes().decode("utf-32-le")
    return [text[start + 1 : end] for start, end in bounds]


class ConditionCounts:
    """Counts the conditions of the training documents."""

    def __init__(self) -> None:
        self.values: Counter[str] = Counter()
        """How many documents have a value."""

    def add(self, values: list[str]) -> None:
        """Count the conditions of some documents. Raises ``DataError`` for too many distinct values."""
        self.values.update(values)
        if len(self.values) > MAX_VALUES:
            examples = ", ".join(f"{value:.20}" for value in itertools.islice(self.values, 3))
            raise DataError(
                f"the condition has more than {MAX_VALUES:,} distinct values ({examples}, ...); choose a column with a "
                "few values, each of which occurs often"
            )

    def characters(self) -> Counter[int]:
        """How often each code point occurs in the conditions."""
        counts: Counter[int] = Counter()
        for value, count in self.values.items():
            for character in value:
                counts[ord(character)] += count
        return counts
