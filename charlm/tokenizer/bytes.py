"""The byte tokenizer: the 256 byte values are the ids, for any file at all."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.errors import DataError
from charlm.tokenizer.decoding import IncrementalDecoder
from charlm.tokenizer.protocol import Codes, Constraint, Ids, TextDecoder


class ByteTokenizer:
    """The 256 byte values are the ids. A str is encoded as UTF-8; bytes that are not UTF-8 are surrogate escapes."""

    kind = "byte"
    vocabulary_size = 256
    start_id = 0x0A
    end_id = None
    separator_id = None
    document_kind = None
    document_start = None
    normalization = "none"
    has_byte_fallback = False

    def __init__(self) -> None:
        self.dtype = np.dtype("<u1")
        self.starts_character = np.ones(256, np.bool_)
        self.byte_lengths = np.ones(256, np.int64)

    def encode(self, text: str) -> Ids:
        try:
            return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)
        except UnicodeEncodeError as error:
            raise DataError(f"the text has a lone surrogate, U+{ord(text[error.start]):04X}; remove it") from None

    def encode_codes(self, codes: Codes, in_bytes: NDArray[np.bool_] | None = None) -> Ids:
        return codes.astype(np.uint8, copy=False)

    def encode_documents(self, codes: Codes, ends: NDArray[np.int64]) -> Ids:
        return self.encode_codes(codes)

    def with_ends(self, ids: Ids, ends: NDArray[np.int64]) -> Ids:
        return ids

    def decode(self, ids: Ids) -> str:
        return np.asarray(ids).astype(np.uint8).tobytes().decode("utf-8", "surrogateescape")

    def decoder(self) -> TextDecoder:
        return IncrementalDecoder(lambda ids: np.asarray(ids).astype(np.uint8).tobytes(), "surrogateescape")

    def unknown(self, ids: Ids) -> NDArray[np.bool_]:
        return np.zeros(len(ids), np.bool_)

    def constraint(self) -> Constraint:
        return Constraint(np.ones((1, 256), np.bool_), np.zeros((1, 256), np.int64))

    def to_bytes(self) -> bytes | None:
        return None

    def description(self) -> dict[str, Any]:
        return {"kind": self.kind}
