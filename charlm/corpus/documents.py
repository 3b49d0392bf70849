"""Documents: many small texts in one text. ``split_documents`` is the one place where a document is cut from a text.

A document is a line, a paragraph between blank lines, a file, or what begins at a line in which a regular expression
is found ("start", see ``document_starts``). The rows of a table are found by ``tables``; in a plain text a row is a
line. Separators are not part of any document. Texts are split in pieces, so that a document may be larger than memory,
and many documents at a time, as arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from charlm.corpus.document_starts import split_at_starts
from charlm.corpus.lines import CARRIAGE_RETURN, LINE_FEED, begins, is_white_space, line_ends, with_mac_lines
from charlm.corpus.pieces import Part, Piece, place, without_empty
from charlm.errors import UsageError
from charlm.tokenizer.protocol import DOCUMENT_KINDS, Codes

_NO_DOCUMENT = np.zeros(0, np.int64)
_END_OF_FILE = Part(np.zeros(0, np.uint8), np.zeros(1, np.int64), np.ones(1, np.int64))


def check_document_kind(document_kind: str) -> None:
    """Raise ``UsageError`` unless ``document_kind`` is one of ``DOCUMENT_KINDS``."""
    if document_kind not in DOCUMENT_KINDS:
        raise UsageError(f"--documents must be one of {', '.join(DOCUMENT_KINDS)}, not {document_kind!r}")


def split_documents(
    files: Iterable[Iterable[Codes]],
    document_kind: str,
    keep_empty: bool = False,
    start: str | None = None,
    merge: bool = False,
) -> Iterator[Piece]:
    """The documents of files, each given as blocks of codes. The end of a file ends a document, too.

    ``start`` is the regular expression of the kind "start". Empty documents are left out unless ``keep_empty``;
    "blank-lines" and "start" never yield empty documents. With ``merge``, the documents of many small files come in
    few pieces.
    """
    split = {
        "lines": _split_at_lines,
        "blank-lines": _split_at_blank_lines,
        "files": _one_document,
        "rows": _split_at_lines,
    }
    parts = (
        split_at_starts(blocks, start or "") if document_kind == "start" else split[document_kind](blocks)
        for blocks in files
    )
    pieces = place(parts, merge)
    return pieces if keep_empty and document_kind not in ("blank-lines", "start") else without_empty(pieces)


def _one_document(blocks: Iterable[Codes]) -> Iterator[Part]:
    for codes in blocks:
        yield Part(codes, _NO_DOCUMENT, _NO_DOCUMENT)
    yield _END_OF_FILE


def _split_at_lines(blocks: Iterable[Codes]) -> Iterator[Part]:
    pending = np.zeros(0, np.uint8)  # a carriage return whose line feed may be in the next block
    in_line, mac, line = False, False, 1
    for block, mac in with_mac_lines(blocks):
        codes = np.concatenate([pending, block]) if len(pending) else block
        cut = len(codes) - int(codes[-1] == CARRIAGE_RETURN)
        codes, pending = codes[:cut], codes[cut:]
        ends = line_ends(codes, mac)
        if len(codes):
            in_line = not len(ends) or int(ends[-1]) < len(codes) - 1
        firsts = begins(codes, ends)
        keep = np.ones(len(codes), np.bool_)
        keep[ends] = False
        keep[firsts] = False
        removed = ends - firsts + 1
        yield Part(codes[keep], firsts - (np.cumsum(removed) - removed), np.arange(line, line + len(ends)))
        line += len(ends)
    if len(pending) and mac:  # it ends the last line
        pending, in_line = pending[:0], True
    if in_line or len(pending):  # the last line has no line feed
        yield Part(pending, np.full(1, len(pending), np.int64), np.full(1, line))


def _split_at_blank_lines(blocks: Iterable[Codes]) -> Iterator[Part]:
    # White space at the end of a block is kept for the next block, which decides whether it separates documents.
    # Every text is preceded by a blank line, so that blank lines at its beginning do not make an empty document.
    pending: Codes = np.full(2, LINE_FEED, np.uint8)
    ended, first, mac = -2, 1, False  # the line ends before ``pending``, and the line where the document begins
    for block, mac in with_mac_lines(blocks):
        codes = np.concatenate([pending, block])
        visible = ~is_white_space(codes)
        cut = len(codes) - int(visible[::-1].argmax()) if visible.any() else 0
        codes, visible, pending = codes[:cut], visible[:cut], codes[cut:]
        ends = line_ends(codes, mac)
        kept, document_ends, lasts = _remove_blank_lines(codes, visible, ends)
        starts = np.append(first, ended + lasts + 2)
        yield Part(kept, document_ends, starts[:-1])
        ended, first = ended + len(ends), int(starts[-1])
    ends = line_ends(pending, mac)
    last = pending[: begins(pending, ends)[0]] if len(ends) else pending
    yield Part(last, np.full(1, len(last), np.int64), np.full(1, first))


def _remove_blank_lines(
    codes: Codes, visible: NDArray[np.bool_], ends: NDArray[np.int64]
) -> tuple[Codes, NDArray[np.int64], NDArray[np.int64]]:
    """``codes``, which do not end in white space, without blank lines and the line ends before them.

    Also where documents end in the result, and for each end the index in ``ends`` of the last line end of its blank
    lines.
    """
    if not len(ends):
        return codes, ends, ends
    blank_after = np.diff(np.cumsum(visible)[ends]) == 0
    blank_before, blank_after = np.append(False, blank_after), np.append(blank_after, False)
    firsts = begins(codes, ends[~blank_before & blank_after])
    lasts = np.flatnonzero(blank_before & ~blank_after)
    change = np.zeros(len(codes) + 1, np.int8)
    change[firsts] += 1
    change[ends[lasts] + 1] -= 1
    keep = np.cumsum(change[:-1]) == 0
    return codes[keep], _kept_before(keep, firsts), lasts


def _kept_before(keep: NDArray[np.bool_], positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of kept codes before each of ``positions``."""
    counts = np.concatenate([np.zeros(1, np.int64), np.cumsum(keep, dtype=np.int64)])
    before: NDArray[np.int64] = counts[positions]
    return before
