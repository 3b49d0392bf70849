"""The text of one stream of ids: so many characters, up to a stop text or the end of a document."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from charlm.errors import UsageError
from charlm.generation.sampling import up_to_end
from charlm.tokenizer.protocol import Tokenizer


class Text:
    """One text being written, from its ids: ``length`` characters, or up to ``stop`` or the end of a document."""

    def __init__(self, tokenizer: Tokenizer, length: int, stop: str | None) -> None:
        if length < 0:
            raise UsageError(f"--length must be 0 or more, not {length}")
        if stop == "":
            raise UsageError("--stop may not be empty; leave it out, or name the text to stop at")
        self.missing = length
        """Characters still to come."""
        self._stop = stop
        self._end_id = tokenizer.end_id
        self._counts_ids = tokenizer.kind == "byte"
        self._decoder = tokenizer.decoder()
        self._held = ""

    def feed(self, ids: NDArray[np.int64]) -> str:
        """The text that is certain after these ids; what might be the beginning of ``stop`` is held back."""
        if not self.missing:
            return ""
        ids = ids[: self.missing]
        inside = up_to_end(ids, self._end_id)
        text = self._decoder.feed(inside)[: None if self._counts_ids else self.missing]
        self.missing -= len(inside) if self._counts_ids else len(text)
        if len(inside) < len(ids):
            self.missing = 0
        self._held += text
        if self._stop is not None and self._stop in self._held:
            self._held, self.missing = self._held[: self._held.index(self._stop)], 0
        certain = len(self._held) - (_overlap(self._held, self._stop) if self.missing else 0)
        piece, self._held = self._held[:certain], self._held[certain:]
        return piece

    def rest(self) -> str:
        """What was held back, once nothing is missing."""
        return self._held


def _overlap(text: str, stop: str | None) -> int:
    """How many characters at the end of ``text`` could be the beginning of ``stop``."""
    if stop is None:
        return 0
    return max((n for n in range(1, min(len(stop), len(text) + 1)) if text.endswith(stop[:n])), default=0)
