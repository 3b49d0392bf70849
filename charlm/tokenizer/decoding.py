"""Ids to text, piece by piece."""

from __future__ import annotations

import codecs
from typing import Any

from charlm.tokenizer.protocol import Ids


class IncrementalDecoder:
    def __init__(self, bytes_of: Any, errors: str) -> None:
        self._bytes_of = bytes_of
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors)

    def feed(self, ids: Ids) -> str:
        return self._utf8.decode(self._bytes_of(ids))

    def finish(self) -> str:
        return self._utf8.decode(b"", True)
