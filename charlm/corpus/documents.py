"""Documents: many small texts in one. Found in a text, told apart, shuffled, and laid side by side by length.

A document is a line, a paragraph between blank lines, or a file. What parts two documents belongs to neither. Documents
are found piece by piece, so that one may be larger than memory, and everything works on whole arrays of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.errors import UsageError
from charlm.tokenizer.protocol import SEPARATORS, Codes, Ids

_TAB, _LINE_FEED, _RETURN, _SPACE = 0x09, 0x0A, 0x0D, 0x20
_ROUNDS = 6


class Piece(NamedTuple):
    """Some codes of documents, one after another without what parts them; ``ends`` says where in them documents end.

    What follows the last end belongs to a document that goes on in the next piece.
    """

    codes: Codes
    ends: NDArray[np.int64]


def check_form(form: str) -> None:
    """Raise ``UsageError`` unless ``form`` is a key of ``SEPARATORS``."""
    if form not in SEPARATORS:
        raise UsageError(f"--documents must be one of {', '.join(SEPARATORS)}, not {form!r}")


# ---------------------------------------------------------------------------------------------------- finding them


def split_documents(files: Iterable[Iterable[Codes]], form: str, keep_empty: bool = False) -> Iterator[Piece]:
    """The documents of texts, each given as blocks of codes. The end of a file ends a document, too.

    Documents without a character are left out unless ``keep_empty``; there are none between blank lines in any case.
    """
    split = {"lines": _split_at_lines, "blank-lines": _split_at_blank_lines, "files": _split_nowhere}[form]
    pieces = (piece for blocks in files for piece in split(blocks))
    return pieces if keep_empty and form != "blank-lines" else _without_empty(pieces)


def _without_empty(pieces: Iterable[Piece]) -> Iterator[Piece]:
    begun = 0  # codes, in earlier pieces, of the document that goes on
    for codes, ends in pieces:
        lengths = np.diff(ends, prepend=-begun)
        begun = len(codes) - int(ends[-1]) if len(ends) else begun + len(codes)
        yield Piece(codes, ends[lengths > 0])


def _split_nowhere(blocks: Iterable[Codes]) -> Iterator[Piece]:
    for codes in blocks:
        yield Piece(codes, np.zeros(0, np.int64))
    yield Piece(np.zeros(0, np.uint8), np.zeros(1, np.int64))


def _split_at_lines(blocks: Iterable[Codes]) -> Iterator[Piece]:
    held = np.zeros(0, np.uint8)  # a carriage return whose line feed may be in the next block
    begun = False
    for block in blocks:
        codes = np.concatenate([held, block]) if len(held) else block
        cut = len(codes) - int(codes[-1] == _RETURN)
        codes, held = codes[:cut], codes[cut:]
        ends = np.flatnonzero(codes == _LINE_FEED)
        if len(codes):
            begun = not len(ends) or int(ends[-1]) < len(codes) - 1
        keep = np.ones(len(codes), np.bool_)
        keep[ends] = False
        keep[ends[(ends > 0) & (codes[ends - 1] == _RETURN)] - 1] = False
        yield Piece(codes[keep], _kept_before(keep, ends))
    if begun or len(held):  # the last line has no line feed
        yield Piece(held, np.full(1, len(held), np.int64))


def _split_at_blank_lines(blocks: Iterable[Codes]) -> Iterator[Piece]:
    # White space at the end of a block waits: what follows decides whether it parts documents. Blank lines at the
    # beginning part nothing from what follows, as if there were some before every text.
    held: Codes = np.full(2, _LINE_FEED, np.uint8)
    for block in blocks:
        codes = np.concatenate([held, block])
        solid = ~np.isin(codes, (_TAB, _LINE_FEED, _RETURN, _SPACE))
        cut = len(codes) - int(solid[::-1].argmax()) if solid.any() else 0
        held = codes[cut:]
        yield _part_at_blank_lines(codes[:cut], solid[:cut])
    line_ends = np.flatnonzero(held == _LINE_FEED)
    last = held[: _without_return(held, int(line_ends[0]))] if len(line_ends) else held
    yield Piece(last, np.full(1, len(last), np.int64))


def _part_at_blank_lines(codes: Codes, solid: NDArray[np.bool_]) -> Piece:
    """``codes`` that end in no white space, without the runs of line ends that have nothing but white space between."""
    line_ends = np.flatnonzero(codes == _LINE_FEED)
    if not len(line_ends):
        return Piece(codes, line_ends)
    blank_after = np.diff(np.cumsum(solid)[line_ends]) == 0
    blank_before, blank_after = np.append(False, blank_after), np.append(blank_after, False)
    firsts, lasts = line_ends[~blank_before & blank_after], line_ends[blank_before & ~blank_after]
    firsts = firsts - ((firsts > 0) & (codes[firsts - 1] == _RETURN))
    change = np.zeros(len(codes) + 1, np.int8)
    change[firsts] += 1
    change[lasts + 1] -= 1
    keep = np.cumsum(change[:-1]) == 0
    return Piece(codes[keep], _kept_before(keep, firsts))


def _without_return(codes: Codes, end: int) -> int:
    return end - int(end > 0 and codes[end - 1] == _RETURN)


def _kept_before(keep: NDArray[np.bool_], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many are kept before each of ``places``."""
    counts = np.concatenate([np.zeros(1, np.int64), np.cumsum(keep, dtype=np.int64)])
    before: NDArray[np.int64] = counts[places]
    return before


# ---------------------------------------------------------------------------------------------------- telling apart


class Fingerprints:
    """64 bits of every document, to find equal ones: two different documents share them once in 2^64 pairs."""

    def __init__(self) -> None:
        self._sum = np.zeros(1, np.uint64)
        self._length = 0

    def add(self, piece: Piece) -> NDArray[np.uint64]:
        """The fingerprints of the documents that end in ``piece``."""
        codes, ends = piece
        lengths = np.diff(ends, prepend=0, append=len(codes))
        places = np.arange(len(codes)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        places[: lengths[0]] += self._length
        # A sum of well mixed numbers, one for each code in its place, does not depend on how it was cut.
        mixed = _mix(codes.astype(np.uint64) + (places.astype(np.uint64) << np.uint64(21)))
        sums = np.add.reduceat(np.append(mixed, np.uint64(0)), np.append(0, ends))
        sums[lengths == 0] = 0  # where nothing is summed, reduceat gives the number that stands there
        sums[:1] += self._sum  # arrays wrap around in silence, scalars warn
        lengths[0] += self._length
        self._sum, self._length = sums[-1:], int(lengths[-1])
        return _mix(sums[:-1] + lengths[:-1].astype(np.uint64))


def _mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea and Flood 2014): numbers, however alike, to numbers without likeness, one to one."""
    z = numbers + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed


# ---------------------------------------------------------------------------------------------------- shuffling


def shuffled(numbers: NDArray[np.int64], size: int, *key: int) -> NDArray[np.int64]:
    """Where a shuffle of 0 ... ``size`` - 1 that ``key`` chooses puts ``numbers``.

    A Feistel network on the next larger power of four, walked until the answer lies in range: a permutation of any size
    without a list of it in memory, the same on every machine.
    """
    half = np.uint64(max(4, (max(1, size - 1).bit_length() + 1) // 2))
    keys = _mix(np.uint64(hash_key(key)) + np.arange(_ROUNDS, dtype=np.uint64))
    places = numbers.astype(np.uint64)
    outside = np.ones(len(places), np.bool_)
    while outside.any():
        places[outside] = _feistel(places[outside], half, keys)
        outside = places >= size
    return places.astype(np.int64)


def _feistel(numbers: NDArray[np.uint64], half: np.uint64, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = numbers >> half, numbers & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    joined: NDArray[np.uint64] = (left << half) | right
    return joined


def hash_key(key: Iterable[int]) -> int:
    """One 64-bit number for several."""
    state = np.zeros(1, np.uint64)
    for part in key:
        state = _mix(state ^ np.array([part % 2**64], np.uint64))
    return int(state[0])


# ---------------------------------------------------------------------------------------------------- side by side


def buckets(lengths: NDArray[np.int64], size: int, span: int) -> Iterator[NDArray[np.int64]]:
    """Numbers of documents of like ``lengths``, the longest first, in batches for chunks of up to ``span`` steps.

    A chunk of a batch has at most ``size`` places, padding included, and at least one document.
    """
    order = np.argsort(-lengths, kind="stable")
    first = 0
    while first < len(order):
        longest = min(max(1, int(lengths[order[first]])), span)
        count = max(1, size // longest)
        yield order[first : first + count]
        first += count


class Padded(NamedTuple):
    """A chunk of documents side by side: ids to read and to predict [T, B], and which of them are real."""

    inputs_TB: NDArray[np.int64]
    targets_TB: NDArray[np.int64]
    real_TB: NDArray[np.bool_]


def pad(flat: Ids, lengths_B: NDArray[np.int64], before_B: NDArray[np.int64]) -> Padded:
    """Lay the ids ``flat`` of B documents, one after another, side by side; ``before_B`` is read before the first.

    Padding is 0, which every vocabulary has; what is computed from it must not be used.
    """
    real_BT = np.arange(int(lengths_B.max()))[None] < lengths_B[:, None]
    targets_BT = np.zeros(real_BT.shape, np.int64)
    targets_BT[real_BT] = flat
    inputs_BT = np.concatenate([before_B[:, None], targets_BT[:, :-1]], axis=1)
    turned: list[NDArray[Any]] = [np.ascontiguousarray(a.T) for a in (inputs_BT, targets_BT, real_BT)]
    return Padded(*turned)
