"""Line ends and white space in codes.

A line ends with a line feed, alone or after a carriage return, or with one of Unicode's line and paragraph separators.
A carriage return alone ends a line only in a file that has no line feeds, as old Macs wrote them: elsewhere, such as
in logs with progress bars, it is a part of its line. Which of the two a file is, is decided at its first carriage
return, from the ``MAX_MAC_LINE`` codes after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from charlm.tokenizer.protocol import Codes

LINE_FEED, CARRIAGE_RETURN = 0x0A, 0x0D
MAX_MAC_LINE = 1 << 20
_SEPARATORS = (0x2028, 0x2029)
_WHITE_SPACE = np.array([code for code in range(0x3001) if chr(code).isspace()], np.uint32)
_ASCII_WHITE_SPACE = _WHITE_SPACE[_WHITE_SPACE < 0x80]


def with_mac_lines(blocks: Iterable[Codes]) -> Iterator[tuple[Codes, bool]]:
    """The blocks of a file, each with whether a carriage return alone ends a line in this file.

    Blocks are joined until that is decided, which is at once unless a carriage return comes before any line feed.
    """
    mac: bool | None = None
    held = np.zeros(0, np.uint8)
    for block in blocks:
        codes = np.concatenate([held, block]) if len(held) else block
        if mac is None:
            mac = _is_mac(codes)
            if mac is None:
                if len(held) or CARRIAGE_RETURN in codes:
                    held = codes
                else:
                    yield codes, False  # no line ends here
                continue
        held = held[:0]
        yield codes, mac
    if len(held):
        yield held, True


def _is_mac(codes: Codes) -> bool | None:
    returns = codes == CARRIAGE_RETURN
    feeds = codes == LINE_FEED
    first = int(returns.argmax()) if returns.any() else len(codes)
    feed = int(feeds.argmax()) if feeds.any() else None
    if feed is not None and feed - first <= MAX_MAC_LINE:
        return False
    return True if len(codes) - first > MAX_MAC_LINE else None


def line_ends(codes: Codes, mac: bool) -> NDArray[np.int64]:
    """Where the lines of ``codes`` end: the last code of each line end. A line end is not cut at the end of ``codes``.

    That is, ``codes`` do not end with a carriage return unless the text does.
    """
    ends = codes == LINE_FEED
    if codes.dtype.itemsize > 1:
        for separator in _SEPARATORS:
            ends |= codes == separator
    if mac:
        returns = codes == CARRIAGE_RETURN
        returns[:-1] &= codes[1:] != LINE_FEED
        ends |= returns
    return np.flatnonzero(ends)


def begins(codes: Codes, ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the line ends begin whose last codes are at ``ends``: one earlier if a carriage return is before them."""
    pairs = (ends > 0) & (codes[ends] == LINE_FEED) & (codes[ends - 1] == CARRIAGE_RETURN)
    first: NDArray[np.int64] = ends - pairs
    return first


def is_white_space(codes: Codes) -> NDArray[np.bool_]:
    """Which codes are white space. In code points that is Unicode's, in bytes ASCII's."""
    if codes.dtype.itemsize == 1:  # bytes, or ASCII
        return np.isin(codes, _ASCII_WHITE_SPACE)
    white: NDArray[np.bool_] = codes <= 0x3000
    white[white] = np.isin(codes[white], _WHITE_SPACE)
    return white
