"""The tokenizer of a model of documents: any other tokenizer and one more id, the document boundary."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.errors import UsageError
from charlm.tokenizer.protocol import Codes, Constraint, Ids, TextDecoder, Tokenizer, id_dtype

_MAX_EXPRESSION = 1000
"""The most characters of a regular expression, which may come from an unknown checkpoint."""


def compile_start(expression: str) -> re.Pattern[str]:
    """The regular expression of the document kind "start". Raises ``UsageError`` where it is not one, or too long."""
    problem = "it is empty" if not expression else f"it has more than {_MAX_EXPRESSION} characters"
    if 0 < len(expression) <= _MAX_EXPRESSION:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return re.compile(expression)
        except (re.error, OverflowError, RecursionError) as error:
            problem = str(error)
    raise UsageError(
        f"--document-start {expression!r:.40} is not a usable regular expression ({problem:.80}); write one that is "
        "found in the first line of each document, such as '^[0-9]'"
    )


class DocumentTokenizer:
    """``inner`` and one more id, the boundary: read before a document's first character, predicted after its last.

    The boundary has no text. It counts as one character and as one byte, like the newline that ends a line.
    """

    def __init__(self, inner: Tokenizer, document_kind: str, document_start: str | None = None) -> None:
        self.inner = inner
        self.document_kind = document_kind
        self.document_start = document_start
        self.normalization = inner.normalization
        self.kind = inner.kind
        self.has_byte_fallback = inner.has_byte_fallback
        self.vocabulary_size = inner.vocabulary_size + 1
        self.start_id = self.end_id = inner.vocabulary_size
        self.starts_character = np.append(inner.starts_character, True)
        self.byte_lengths = np.append(inner.byte_lengths, 1)
        self._dtype = id_dtype(self.vocabulary_size)

    def encode(self, text: str) -> Ids:
        return self.inner.encode(text).astype(self._dtype)

    def encode_codes(self, codes: Codes, in_bytes: NDArray[np.bool_] | None = None) -> Ids:
        return self.inner.encode_codes(codes, in_bytes).astype(self._dtype)

    def encode_documents(self, codes: Codes, ends: NDArray[np.int64]) -> Ids:
        """Ids of documents with the boundary after each; document i ends before ``codes[ends[i]]``."""
        return self.with_ends(self.inner.encode_codes(codes), ends)

    def with_ends(self, ids: Ids, ends: NDArray[np.int64]) -> Ids:
        begins = np.append(np.flatnonzero(self.inner.starts_character[ids]), len(ids))
        return np.insert(ids.astype(self._dtype), begins[ends], self.end_id)

    def decode(self, ids: Ids) -> str:
        return self.inner.decode(np.asarray(ids)[np.asarray(ids) != self.end_id])

    def decoder(self) -> TextDecoder:
        """A decoder of one document, for the ids before its boundary."""
        return self.inner.decoder()

    def unknown(self, ids: Ids) -> NDArray[np.bool_]:
        inside = np.asarray(ids) != self.end_id
        unknown = np.zeros(len(ids), np.bool_)
        unknown[inside] = self.inner.unknown(ids[inside])
        return unknown

    def constraint(self) -> Constraint:
        allowed_SV, transitions_SV = self.inner.constraint()
        may_end_S1 = np.arange(len(allowed_SV))[:, None] == 0
        return Constraint(np.hstack([allowed_SV, may_end_S1]), np.pad(transitions_SV, ((0, 0), (0, 1))))

    def to_bytes(self) -> bytes | None:
        return self.inner.to_bytes()

    def description(self) -> dict[str, Any]:
        start = {} if self.document_start is None else {"document_start": self.document_start}
        return {**self.inner.description(), "documents": self.document_kind, **start}
