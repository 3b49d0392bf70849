"""Incremental decoding of ids to text."""

from __future__ import annotations

import codecs
from collections.abc import Callable

from charlm.tokenizer.protocol import Ids


class IncrementalDecoder:
    """A ``TextDecoder`` over the UTF-8 bytes of ids. ``errors`` is an error handler of Python's codecs."""

    def __init__(self, to_bytes: Callable[[Ids], bytes], errors: str) -> None:
        self._to_bytes = to_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors)

    def feed(self, ids: Ids) -> str:
        return self._utf8.decode(self._to_bytes(ids))

    def finish(self) -> str:
        return self._utf8.decode(b"", True)
