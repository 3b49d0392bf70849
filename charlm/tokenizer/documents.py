"""The tokenizer of a model of documents: any other tokenizer, the document boundary, and for conditions a separator."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.errors import UsageError
from charlm.tokenizer.protocol import SEPARATOR_CODE, Codes, Constraint, Ids, TextDecoder, Tokenizer, id_dtype

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

    With ``has_separator`` there is another id, the separator: a document begins with the characters of its condition
    and the separator (see ``conditions``). It is never sampled.
    """

    def __init__(
        self, inner: Tokenizer, document_kind: str, has_separator: bool = False, document_start: str | None = None
    ) -> None:
        self.inner = inner
        self.document_kind = document_kind
        self.document_start = document_start
        self.normalization = inner.normalization
        self.kind = inner.kind
        self.has_byte_fallback = inner.has_byte_fallback
        self.start_id = self.end_id = inner.vocabulary_size
        self.separator_id = inner.vocabulary_size + 1 if has_separator else None
        own = 1 + has_separator
        self.vocabulary_size = inner.vocabulary_size + own
        self.starts_character = np.append(inner.starts_character, [True] * own)
        self.byte_lengths = np.append(inner.byte_lengths, [1] * own)
        self._dtype = id_dtype(self.vocabulary_size)

    def encode(self, text: str) -> Ids:
        return self.inner.encode(text).astype(self._dtype)

    def encode_codes(self, codes: Codes, in_bytes: NDArray[np.bool_] | None = None) -> Ids:
        if self.separator_id is None:
            return self.inner.encode_codes(codes, in_bytes).astype(self._dtype)
        places = np.flatnonzero(codes == SEPARATOR_CODE)
        ids = self.inner.encode_codes(
            np.delete(codes, places), None if in_bytes is None else np.delete(in_bytes, places)
        )
        return self._with_inserted(ids, places - np.arange(len(places)), self.separator_id)

    def encode_documents(self, codes: Codes, ends: NDArray[np.int64]) -> Ids:
        """Ids of documents with the boundary after each; document i ends before ``codes[ends[i]]``."""
        return self.with_ends(self.encode_codes(codes), ends)

    def with_ends(self, ids: Ids, ends: NDArray[np.int64]) -> Ids:
        return self._with_inserted(ids, ends, self.end_id)

    def _with_inserted(self, ids: Ids, places: NDArray[np.int64], inserted: int) -> Ids:
        """``ids`` with the id ``inserted`` after ``places[i]`` characters, for each i."""
        within = np.flatnonzero(~self.starts_character[ids])  # the few ids that go on with a character
        # A place is that many ids later as ids within characters come before it.
        later = np.searchsorted(within - np.arange(len(within)), places, side="right")
        return np.insert(ids.astype(self._dtype, copy=False), places + later, inserted)

    def decode(self, ids: Ids) -> str:
        return self.inner.decode(np.asarray(ids)[self._has_text(ids)])

    def _has_text(self, ids: Ids) -> NDArray[np.bool_]:
        inside: NDArray[np.bool_] = np.asarray(ids) < self.end_id
        return inside

    def decoder(self) -> TextDecoder:
        """A decoder of one document, for the ids before its boundary."""
        return self.inner.decoder()

    def unknown(self, ids: Ids) -> NDArray[np.bool_]:
        inside = self._has_text(ids)
        unknown = np.zeros(len(ids), np.bool_)
        unknown[inside] = self.inner.unknown(ids[inside])
        return unknown

    def constraint(self) -> Constraint:
        allowed_SV, transitions_SV = self.inner.constraint()
        may_end_S1 = np.arange(len(allowed_SV))[:, None] == 0
        own = self.vocabulary_size - self.inner.vocabulary_size
        allowed_SV = np.pad(np.hstack([allowed_SV, may_end_S1]), ((0, 0), (0, own - 1)))
        return Constraint(allowed_SV, np.pad(transitions_SV, ((0, 0), (0, own))))

    def to_bytes(self) -> bytes | None:
        return self.inner.to_bytes()

    def description(self) -> dict[str, Any]:
        start = {} if self.document_start is None else {"document_start": self.document_start}
        separator = {} if self.separator_id is None else {"separator": True}
        return {**self.inner.description(), "documents": self.document_kind, **start, **separator}
