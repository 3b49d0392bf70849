"""Unicode normal forms: the same text always in the same characters.

A letter with an accent is one character or two, a ligature one or several, and both look the same. NFC composes
letters and marks; NFKC also replaces characters that only look different, such as ligatures and wide letters
(Unicode Standard Annex 15). The form is kept in the checkpoint and applied to all texts that the model reads.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

import numpy as np

NORMALIZATIONS = ("none", "nfc", "nfkc")

# No character below U+0300, and no ideograph, combines with what is before it; nothing combines with a line end. So a
# text may be cut before the last of these, or after a line end.
_BOUNDARY = re.compile("[\0-\u02ff\u3001-\u3029\u4e00-\u9fff]")
_LINE_ENDS = ("\n", "\r", "\u2028", "\u2029")


def normalize(text: str, form: str) -> str:
    """A whole text in a form of ``NORMALIZATIONS``."""
    if form == "none" or text.isascii():
        return text
    return unicodedata.normalize(form.upper(), text)  # type: ignore[arg-type]  # a form it knows


class Normalizer:
    """Normalizes a text that comes in blocks, and counts the characters that it replaces in ``changed``."""

    def __init__(self, form: str) -> None:
        self._form = form
        self.changed = 0

    def blocks(self, texts: Iterable[str]) -> Iterator[str]:
        """The same text as ``normalize`` gives for all blocks joined."""
        if self._form == "none":
            yield from texts
            return
        pending: list[str] = []
        for text in texts:
            cut = _safe_cut(text)
            if cut:
                yield self._normalized("".join([*pending, text[:cut]]))
                pending = []
            if text[cut:]:
                pending.append(text[cut:])
        if pending:
            yield self._normalized("".join(pending))

    def _normalized(self, text: str) -> str:
        normal = normalize(text, self._form)
        if normal != text:
            self.changed += _missing(text, normal)
        return normal


def _safe_cut(text: str) -> int:
    """The last place where ``text`` may be cut."""
    if text.endswith(_LINE_ENDS):
        return len(text)
    for index in range(len(text) - 1, -1, -1):
        if _BOUNDARY.match(text, index):
            return index
    return 0


def _missing(text: str, normal: str) -> int:
    """How many characters of ``text`` are not in ``normal``."""
    counts = [
        np.bincount(np.frombuffer(t.encode("utf-32-le", "surrogatepass"), np.uint32), minlength=1)
        for t in (text, normal)
    ]
    size = max(map(len, counts))
    before, after = (np.pad(count, (0, size - len(count))) for count in counts)
    return int(np.maximum(before - after, 0).sum())
