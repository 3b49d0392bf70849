"""Ids of one stream to text, up to a length, a stop text or the end of a document."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from charlm.errors import UsageError
from charlm.generation.sampling import ids_before_end
from charlm.tokenizer.protocol import Tokenizer


class TextAssembler:
    """Assembles one generated text from its ids: ``length`` characters, fewer if a stop or a document's end comes.

    ``stop`` is the text to stop before, or several of them, of which the first to be complete counts. With the byte
    tokenizer ``length`` counts bytes. Raises ``UsageError`` for a negative length or an empty stop.
    """

    def __init__(self, tokenizer: Tokenizer, length: int, stop: str | Sequence[str] | None) -> None:
        stops = () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)
        if length < 0:
            raise UsageError(f"length must be 0 or more, not {length}")
        if "" in stops:
            raise UsageError("stop must not be empty; leave it out, or give the text to stop at")
        self.remaining = length
        """Characters still to come."""
        self.is_stopped = False
        """Whether a stop or the document's end ended the text, not its length."""
        self._stops = stops
        self._end_id = tokenizer.end_id
        self._counts_ids = tokenizer.kind == "byte"
        self._decoder = tokenizer.decoder()
        self._pending = ""

    def feed(self, ids: NDArray[np.int64]) -> str:
        """The text that is final after these ids. Text that could be the start of ``stop`` is held back."""
        if not self.remaining:
            return ""
        ids = ids[: self.remaining]
        document_ids = ids_before_end(ids, self._end_id)
        text = self._decoder.feed(document_ids)[: None if self._counts_ids else self.remaining]
        self.remaining -= len(document_ids) if self._counts_ids else len(text)
        if len(document_ids) < len(ids):
            self.remaining, self.is_stopped = 0, True
        self._pending += text
        if (place := _first_stop(self._pending, self._stops)) is not None:
            self._pending, self.remaining, self.is_stopped = self._pending[:place], 0, True
        held = max((_stop_prefix_length(self._pending, stop) for stop in self._stops), default=0)
        final = len(self._pending) - (held if self.remaining else 0)
        piece, self._pending = self._pending[:final], self._pending[final:]
        return piece

    def finish(self) -> str:
        """The pending text, once ``remaining`` is 0."""
        return self._pending


def _first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the stop begins that is complete first; of several that end at the same character, the longest."""
    found = ((place + len(stop), place) for stop in stops if (place := text.find(stop)) >= 0)
    return min(found, default=(0, None))[1]


def _stop_prefix_length(text: str, stop: str) -> int:
    """How many characters at the end of ``text`` may be the beginning of ``stop``."""
    return max((n for n in range(1, min(len(stop), len(text) + 1)) if text.endswith(stop[:n])), default=0)
