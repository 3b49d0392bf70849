"""Documents: many small texts in one text. ``split_documents`` is the one place where a document is cut from a text.

A document is a line, a paragraph between blank lines, or a file (``DOCUMENT_KINDS``). The rows of a table are
found by ``tables``; in a plain text a row is a line. Separators are not part of any document. Texts are split in
pieces, so that a document may be larger than memory, and many documents at a time, as arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.errors import UsageError
from charlm.tokenizer.protocol import DOCUMENT_KINDS, Codes

_TAB, _LINE_FEED, _CARRIAGE_RETURN, _SPACE = 0x09, 0x0A, 0x0D, 0x20


class Piece(NamedTuple):
    """The next codes of documents, without separators. Document i of a piece ends before ``codes[ends[i]]``.

    The codes after the last end belong to a document that continues in the next piece.
    """

    codes: Codes
    ends: NDArray[np.int64]


def check_document_kind(document_kind: str) -> None:
    """Raise ``UsageError`` unless ``document_kind`` is one of ``DOCUMENT_KINDS``."""
    if document_kind not in DOCUMENT_KINDS:
        raise UsageError(f"--documents must be one of {', '.join(DOCUMENT_KINDS)}, not {document_kind!r}")


def split_documents(files: Iterable[Iterable[Codes]], document_kind: str, keep_empty: bool = False) -> Iterator[Piece]:
    """The documents of files, each given as blocks of codes. The end of a file ends a document, too.

    Empty documents are left out unless ``keep_empty``; "blank-lines" never yields empty documents.
    """
    split = {
        "lines": _split_at_lines,
        "blank-lines": _split_at_blank_lines,
        "files": _one_document,
        "rows": _split_at_lines,
    }[document_kind]
    pieces = (piece for blocks in files for piece in split(blocks))
    return pieces if keep_empty and document_kind != "blank-lines" else _without_empty(pieces)


def _without_empty(pieces: Iterable[Piece]) -> Iterator[Piece]:
    carried = 0  # codes of the current document in earlier pieces
    for codes, ends in pieces:
        lengths = np.diff(ends, prepend=-carried)
        carried = len(codes) - int(ends[-1]) if len(ends) else carried + len(codes)
        yield Piece(codes, ends[lengths > 0])


def _one_document(blocks: Iterable[Codes]) -> Iterator[Piece]:
    for codes in blocks:
        yield Piece(codes, np.zeros(0, np.int64))
    yield Piece(np.zeros(0, np.uint8), np.zeros(1, np.int64))


def _split_at_lines(blocks: Iterable[Codes]) -> Iterator[Piece]:
    pending = np.zeros(0, np.uint8)  # a carriage return whose line feed may be in the next block
    in_line = False
    for block in blocks:
        codes = np.concatenate([pending, block]) if len(pending) else block
        cut = len(codes) - int(codes[-1] == _CARRIAGE_RETURN)
        codes, pending = codes[:cut], codes[cut:]
        ends = np.flatnonzero(codes == _LINE_FEED)
        if len(codes):
            in_line = not len(ends) or int(ends[-1]) < len(codes) - 1
        keep = np.ones(len(codes), np.bool_)
        keep[ends] = False
        keep[ends[(ends > 0) & (codes[ends - 1] == _CARRIAGE_RETURN)] - 1] = False
        yield Piece(codes[keep], _kept_before(keep, ends))
    if in_line or len(pending):  # the last line has no line feed
        yield Piece(pending, np.full(1, len(pending), np.int64))


def _split_at_blank_lines(blocks: Iterable[Codes]) -> Iterator[Piece]:
    # White space at the end of a block is kept for the next block, which decides whether it separates documents.
    # Every text is preceded by a blank line, so that blank lines at its beginning do not make an empty document.
    pending: Codes = np.full(2, _LINE_FEED, np.uint8)
    for block in blocks:
        codes = np.concatenate([pending, block])
        visible = ~np.isin(codes, (_TAB, _LINE_FEED, _CARRIAGE_RETURN, _SPACE))
        cut = len(codes) - int(visible[::-1].argmax()) if visible.any() else 0
        pending = codes[cut:]
        yield _remove_blank_lines(codes[:cut], visible[:cut])
    line_ends = np.flatnonzero(pending == _LINE_FEED)
    last = pending[: _line_end(pending, int(line_ends[0]))] if len(line_ends) else pending
    yield Piece(last, np.full(1, len(last), np.int64))


def _remove_blank_lines(codes: Codes, visible: NDArray[np.bool_]) -> Piece:
    """``codes``, which do not end in white space, with blank lines, and the line ends before them, removed."""
    line_ends = np.flatnonzero(codes == _LINE_FEED)
    if not len(line_ends):
        return Piece(codes, line_ends)
    blank_after = np.diff(np.cumsum(visible)[line_ends]) == 0
    blank_before, blank_after = np.append(False, blank_after), np.append(blank_after, False)
    firsts, lasts = line_ends[~blank_before & blank_after], line_ends[blank_before & ~blank_after]
    firsts = firsts - ((firsts > 0) & (codes[firsts - 1] == _CARRIAGE_RETURN))
    change = np.zeros(len(codes) + 1, np.int8)
    change[firsts] += 1
    change[lasts + 1] -= 1
    keep = np.cumsum(change[:-1]) == 0
    return Piece(codes[keep], _kept_before(keep, firsts))


def _line_end(codes: Codes, end: int) -> int:
    """The end of the line terminated at ``end``, excluding a carriage return."""
    return end - int(end > 0 and codes[end - 1] == _CARRIAGE_RETURN)


def _kept_before(keep: NDArray[np.bool_], positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of kept codes before each of ``positions``."""
    counts = np.concatenate([np.zeros(1, np.int64), np.cumsum(keep, dtype=np.int64)])
    before: NDArray[np.int64] = counts[positions]
    return before
