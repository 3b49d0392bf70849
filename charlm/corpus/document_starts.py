"""Documents that begin at a line in which a regular expression is found: log entries, messages of a chat.

The expression is searched for in the first ``MAX_SEARCHED`` characters of each line, so ``^`` is the line's beginning.
What comes before the first such line is a document, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from charlm.corpus.lines import CARRIAGE_RETURN, begins, line_ends, with_mac_lines
from charlm.corpus.pieces import Part
from charlm.tokenizer.documents import compile_start
from charlm.tokenizer.protocol import Codes

MAX_SEARCHED = 1000


def split_at_starts(blocks: Iterable[Codes], expression: str) -> Iterator[Part]:
    """Codes of a file without the line ends before documents, where documents end in them, and their first lines."""
    splitter, mac = _StartSplitter(compile_start(expression)), False
    for block, mac in with_mac_lines(blocks):
        yield splitter.add(block, mac)
    yield splitter.finish(mac)


class _StartSplitter:
    """Splits the blocks of a file. The last line of a block, and the line end before it, wait for the next block."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern
        self._pending: Codes = np.zeros(0, np.uint8)
        self._line_begins = 0
        """Where in ``_pending`` its line begins, after the line end before it."""
        self._is_searched = False
        """Whether the expression has been searched for in the pending line."""
        self._line = self._first_line = 1
        """The number of the pending line, and of the first line of the current document."""

    def add(self, block: Codes, mac: bool) -> Part:
        """Add a block."""
        codes = np.concatenate([self._pending, block])
        cut = len(codes) - int(codes[-1] == CARRIAGE_RETURN)  # its line feed may be in the next block
        return self._split(codes[:cut], codes[cut:], mac, at_end=False)

    def finish(self, mac: bool) -> Part:
        """The rest, at the end of the file, without the last line end."""
        kept, ends, lines = self._split(self._pending, self._pending[:0], mac, at_end=True)
        return Part(kept, np.append(ends, len(kept)), np.append(lines, self._first_line))

    def _split(self, codes: Codes, rest: Codes, mac: bool, at_end: bool) -> Part:
        ends = line_ends(codes[self._line_begins :], mac) + self._line_begins
        bounds = np.append(self._line_begins, ends + 1).tolist()
        # The line end before each line; the first line of a file has none.
        before = np.append(0, begins(codes, ends)).tolist()
        line_of = _line_text(codes)
        incomplete = len(bounds) - 1
        stops = [*before[1:], len(codes)]
        searched = range(int(self._is_searched), incomplete)
        found = [
            k for k in searched if self._pattern.search(line_of(bounds[k], min(stops[k], bounds[k] + MAX_SEARCHED)))
        ]
        length = len(codes) - bounds[incomplete]
        is_searched = self._is_searched and incomplete == 0
        if not is_searched and (length >= MAX_SEARCHED or (at_end and length)):
            is_searched = True
            if self._pattern.search(line_of(bounds[incomplete], min(len(codes), bounds[incomplete] + MAX_SEARCHED))):
                found.append(incomplete)
        held = len(codes) if is_searched else before[incomplete]
        keep = np.ones(held, np.bool_)
        document_ends, lines = [], []
        for k in found:
            if self._line + k > 1:  # else it is the first line of the file
                keep[before[k] : bounds[k]] = False
                document_ends.append(before[k])
                lines.append(self._first_line)
            self._first_line = self._line + k
        kept_before = np.append(0, np.cumsum(keep))
        self._line += incomplete
        self._line_begins = 0 if is_searched else bounds[incomplete] - held
        self._pending = np.concatenate([codes[held:], rest])
        self._is_searched = is_searched
        positions = np.array(document_ends, np.int64)
        return Part(codes[:held][keep], kept_before[positions], np.array(lines, np.int64))


def _line_text(codes: Codes) -> Callable[[int, int], str]:
    """A function that returns the text of codes, from the first to the second index. Bytes are read as UTF-8."""
    if codes.dtype.itemsize == 1:
        data = codes.tobytes()
        return lambda start, stop: data[start:stop].decode("utf-8", "surrogateescape")
    text = codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
    return lambda start, stop: text[start:stop]
