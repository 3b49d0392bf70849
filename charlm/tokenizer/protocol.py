"""The interface of a tokenizer: text to ids and back, losslessly.

Encoding is concat-stable (``encode(a + b) == encode(a) + encode(b)``), so text may be cut anywhere.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from charlm.errors import DataError

Ids = NDArray[Any]
"""[N] ids in an integer dtype."""
Codes = NDArray[Any]
"""[N] code points of characters, or byte values."""

SEPARATOR_CODE = 0x110000
"""In codes, the end of a document's condition (see ``conditions``): the number after the last code point."""

DOCUMENT_KINDS = ("lines", "blank-lines", "files")
"""What a document of a plain text may be, besides what begins where a regular expression is found (the kind "start").

The documents of a table are its rows (the kind "rows")."""
DOCUMENT_SEPARATORS = {"lines": "\n", "blank-lines": "\n\n", "files": "\n---\n", "start": "\n", "rows": "\n"}
"""Document kind -> what is written between two documents of that kind; see ``document_separator``."""


class Constraint(NamedTuple):
    """A finite-state machine that says which ids may follow when sampling, with S states and V ids.

    State 0 is between two characters; generation starts there.
    """

    allowed_SV: NDArray[np.bool_]
    """Whether an id is allowed in a state."""
    transitions_SV: NDArray[np.int64]
    """The state after an allowed id."""


class TextDecoder(Protocol):
    """Ids in, text out as soon as a character is complete."""

    def feed(self, ids: Ids) -> str:
        """The characters that ``ids`` complete; an incomplete character waits for the next call."""
        ...

    def finish(self) -> str:
        """What is left at the end of the ids."""
        ...


class Tokenizer(Protocol):
    """The interface of a tokenizer. ``V`` below is ``vocabulary_size``."""

    kind: str
    """ "char" or "byte"."""
    vocabulary_size: int
    start_id: int
    """The id read before the first character: a newline where the vocabulary has one, for documents the boundary."""
    starts_character: NDArray[np.bool_]
    """[V] whether an id begins a character (a byte piece in the middle of one does not)."""
    byte_lengths: NDArray[np.int64]
    """[V] the number of UTF-8 bytes of an id."""
    has_byte_fallback: bool
    """Whether characters without an id are encoded as byte pieces, which training has to see, too."""

    @property
    def end_id(self) -> int | None:
        """The id that ends a document: the boundary. None for continuous text."""
        ...

    @property
    def separator_id(self) -> int | None:
        """The id that ends the condition of a document; None for a model without conditions."""
        ...

    @property
    def document_kind(self) -> str | None:
        """What a document is: a key of ``DOCUMENT_SEPARATORS``. None for continuous text."""
        ...

    @property
    def document_start(self) -> str | None:
        """The regular expression of the document kind "start", else None."""
        ...

    @property
    def normalization(self) -> str:
        """The normal form of every text that is encoded: one of ``NORMALIZATIONS``. ``encode`` does not normalize."""
        ...

    def encode(self, text: str) -> Ids:
        """Ids of ``text`` in the narrowest unsigned dtype. Raises ``DataError`` for a lone surrogate."""
        ...

    def encode_codes(self, codes: Codes, in_bytes: NDArray[np.bool_] | None = None) -> Ids:
        """Ids of code points (for the kind "byte": of byte values).

        With byte fallback, characters where ``in_bytes`` is true are encoded as bytes even if they have an id.
        """
        ...

    def with_ends(self, ids: Ids, ends: NDArray[np.int64]) -> Ids:
        """``ids`` of whole characters with the boundary inserted after ``ends[i]`` characters, for each i.

        Unchanged for continuous text.
        """
        ...

    def encode_documents(self, codes: Codes, ends: NDArray[np.int64]) -> Ids:
        """Ids of documents that are concatenated in ``codes`` and end at the indices ``ends``.

        ``end_id`` is inserted after each document. A tokenizer without ``end_id`` inserts nothing: its ids are those
        of ``encode_codes``.
        """
        ...

    def decode(self, ids: Ids) -> str:
        """The text of ``ids``; inverts ``encode``."""
        ...

    def decoder(self) -> TextDecoder:
        """A decoder that takes the ids in pieces."""
        ...

    def unknown(self, ids: Ids) -> NDArray[np.bool_]:
        """Which ids encode characters that the training text did not have. ``ids`` hold whole characters."""
        ...

    def constraint(self) -> Constraint:
        """Which ids may follow when sampling, so that only whole characters of the training text are generated."""
        ...

    def to_bytes(self) -> bytes | None:
        """The content of ``tokenizer.model``; None where ``description`` is all there is."""
        ...

    def description(self) -> dict[str, Any]:
        """The JSON values of the tokenizer in config.json, in addition to ``to_bytes``."""
        ...


def document_separator(tokenizer: Tokenizer) -> str:
    """What is written between two documents of a model. Empty for continuous text."""
    kind = tokenizer.document_kind
    if kind == "rows" and tokenizer.constraint().allowed_SV[0, tokenizer.encode("\n")[0]]:
        kind = "files"  # a cell may hold line ends
    return "" if kind is None else DOCUMENT_SEPARATORS[kind]


def id_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """The narrowest little-endian unsigned type that holds every id and one more value."""
    return (
        np.dtype("<u1") if vocabulary_size <= 256 else np.dtype("<u2") if vocabulary_size < 65536 else np.dtype("<u4")
    )


def code_points(text: str, marked: bool = False) -> Codes:
    """The code points of ``text``: uint8 where it is ASCII, else uint32.

    Raises ``DataError`` for a lone surrogate, unless ``marked``: then surrogates mark what could not be decoded.
    """
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    try:
        return np.frombuffer(text.encode("utf-32-le", "surrogatepass" if marked else "strict"), np.uint32)
    except UnicodeEncodeError as error:
        raise DataError(
            f"the text has a lone surrogate, U+{ord(text[error.start]):04X}, at character {error.start} (half of a "
            "character, or a byte that is not UTF-8); remove it, or train with --tokenizer byte, which takes any bytes"
        ) from None
