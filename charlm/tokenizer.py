"""Text to ids and back, losslessly.

Two kinds. ``CharTokenizer`` is a SentencePiece character model: one id for every character of the training text, and
256 byte pieces in which any other character is spelt, so every Unicode string has ids and comes back unchanged. Its
``tokenizer.model`` opens in any SentencePiece; charlm itself encodes by table look-up, many times faster, and the
tests hold the two against each other. ``ByteTokenizer`` takes the 256 bytes as they are: any file at all.

Encoding is concat-stable (``encode(a + b) == encode(a) + encode(b)``), so text may be cut anywhere.

A model of documents reads and writes one id more, the boundary (``DocumentTokenizer``).

Two characters can be no piece of a SentencePiece model: NUL, and U+2581, which stands for the space inside it. They
are always spelt in bytes; ``spelt`` remembers which of them the training text had, so that they may be sampled.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from charlm.config import MAX_VOCABULARY
from charlm.errors import DataError
from charlm.vocabulary import train_model

Ids = NDArray[Any]
Codes = NDArray[Any]

_UNICODE_SIZE = 0x110000
_SPACE_PIECE = "\u2581"
NOT_PIECES = (0x0000, 0x2581)
SEPARATORS = {"lines": "\n", "blank-lines": "\n\n", "files": "\n---\n"}
"""The forms that documents of a text may have, and what is written between two of them."""


class TextDecoder(Protocol):
    """Ids in, text out as soon as a character is whole."""

    def feed(self, ids: Ids) -> str:
        """The characters that ``ids`` complete; an unfinished one waits for the next call."""
        ...

    def finish(self) -> str:
        """What is left when no more ids come."""
        ...


class Tokenizer(Protocol):
    """What the rest of charlm knows of a tokenizer. ``V`` below is ``vocabulary_size``."""

    kind: str
    vocabulary_size: int
    start_id: int
    """The id read before the first character: a newline where the vocabulary has one, for documents the boundary."""
    starts_character: NDArray[np.bool_]
    """[V] whether an id begins a character (a byte piece in the middle of one does not)."""
    byte_lengths: NDArray[np.int64]
    """[V] how many UTF-8 bytes an id stands for."""

    @property
    def end_id(self) -> int | None:
        """The id that ends a document: the boundary again. None where text runs on."""
        ...

    @property
    def documents(self) -> str | None:
        """What a document is, a key of ``SEPARATORS``. None where text runs on."""
        ...

    def encode(self, text: str) -> Ids:
        """Ids of ``text`` in the narrowest unsigned dtype. Raises ``DataError`` for a lone surrogate."""
        ...

    def encode_codes(self, codes: Codes) -> Ids:
        """Ids of code points (for bytes: of byte values)."""
        ...

    def decode(self, ids: Ids) -> str:
        """The text of ``ids``; inverts ``encode``."""
        ...

    def decoder(self) -> TextDecoder:
        """A decoder that takes the ids piece by piece."""
        ...

    def unknown(self, ids: Ids) -> NDArray[np.bool_]:
        """Which ids spell characters that the training text did not have. ``ids`` hold whole characters."""
        ...

    def grammar(self) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Which ids may follow when sampling, so that only whole characters of the training text are written.

        Returns ``allowed`` [S, V] and ``following`` [S, V]: in state s (0 between characters) id v is permitted where
        ``allowed[s, v]`` and leads to state ``following[s, v]``.
        """
        ...

    def to_bytes(self) -> bytes | None:
        """The content of ``tokenizer.model``, or None where the kind says it all."""
        ...

    def description(self) -> dict[str, Any]:
        """What config.json keeps of it, beside ``to_bytes``."""
        ...


def id_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """The narrowest little-endian unsigned type that holds every id and one value more."""
    return (
        np.dtype("<u1") if vocabulary_size <= 256 else np.dtype("<u2") if vocabulary_size < 65536 else np.dtype("<u4")
    )


def code_points(text: str) -> Codes:
    """The code points of ``text``: uint8 where it is ASCII, else uint32. Raises ``DataError`` for a lone surrogate."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    try:
        return np.frombuffer(text.encode("utf-32-le"), np.uint32)
    except UnicodeEncodeError as error:
        raise DataError(
            f"the text has U+{ord(text[error.start]):04X} at character {error.start}, half of a character or a byte "
            "that is not UTF-8; remove it, or train with --tokenizer byte, which takes any bytes"
        ) from None


class CharTokenizer:
    """One id a character, other characters in byte pieces. Made by ``build`` or from a ``tokenizer.model``."""

    kind = "char"
    end_id = None
    documents = None

    def __init__(self, model: bytes, spelt: tuple[int, ...] = ()) -> None:
        import sentencepiece

        self._model = model
        self.spelt = tuple(sorted(spelt))
        if not set(spelt) <= set(NOT_PIECES):
            raise DataError("the tokenizer's list of characters spelt in bytes is damaged")
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(model)
            size = min(processor.get_piece_size(), MAX_VOCABULARY)
            pieces = [processor.id_to_piece(i) for i in range(size)]
            byte_ids = [i for i in range(size) if processor.is_byte(i)]
        except (RuntimeError, ValueError, TypeError, UnicodeError) as error:
            reason = str(error)
            raise DataError(f"tokenizer.model is no SentencePiece model: {reason!r:.80}") from None
        if len(byte_ids) != 256 or [pieces[i] for i in byte_ids] != [f"<0x{b:02X}>" for b in range(256)]:
            raise DataError("tokenizer.model is no character model with 256 byte pieces, as charlm makes them")
        self.vocabulary_size = size
        self.dtype = id_dtype(size)
        self._byte_ids = np.array(byte_ids, self.dtype)
        self._build_tables(pieces, set(byte_ids))

    def _build_tables(self, pieces: list[str], byte_ids: set[int]) -> None:
        size = self.vocabulary_size
        self._missing = int(np.iinfo(self.dtype).max)
        table = np.full(_UNICODE_SIZE, self._missing, self.dtype)
        self._bytes_of = [b""] * size
        self._bytes_of[0] = "\ufffd".encode()
        self._characters: dict[str, int] = {}
        for value, piece_id in enumerate(sorted(byte_ids)):
            self._bytes_of[piece_id] = bytes([value])
        for piece_id, piece in enumerate(pieces):
            if piece_id == 0 or piece_id in byte_ids:
                continue
            character = " " if piece == _SPACE_PIECE else piece
            if len(character) != 1 or character in self._characters or ord(character) in NOT_PIECES:
                raise DataError(f"tokenizer.model has the piece {piece!r:.40}, which is not one character")
            self._characters[character] = piece_id
            table[ord(character)] = piece_id
            self._bytes_of[piece_id] = character.encode("utf-8")
        if not self._characters:
            raise DataError("tokenizer.model has no character that could be written")
        self._table = table
        self.byte_lengths = np.array([len(b) for b in self._bytes_of], np.int64)
        self.starts_character = np.ones(size, np.bool_)
        self.starts_character[self._byte_ids[0x80:0xC0]] = False
        self._is_byte = np.zeros(size, np.bool_)
        self._is_byte[self._byte_ids] = True
        self._is_byte[0] = True
        self.start_id = self._characters.get("\n", min(self._characters.values()))

    @classmethod
    def build(cls, counts: Mapping[int, int]) -> CharTokenizer:
        """Make the vocabulary from ``counts``: code point -> occurrences in the training text.

        Costs the size of the alphabet, not of the corpus: SentencePiece is given the counts, never the text.
        """
        spelt = tuple(code for code in NOT_PIECES if counts.get(code))
        return cls(train_model({chr(code): n for code, n in counts.items() if n and code not in spelt}), spelt)

    @property
    def characters(self) -> Mapping[str, int]:
        """Character -> id of every character that is a piece."""
        return self._characters

    @property
    def byte_ids(self) -> Ids:
        """[256] the ids of the byte pieces."""
        return self._byte_ids

    def encode(self, text: str) -> Ids:
        return self.encode_codes(code_points(text))

    def encode_codes(self, codes: Codes, spell: NDArray[np.bool_] | None = None) -> Ids:
        """Ids of code points; where ``spell`` is true a character is spelt in bytes though it has an id."""
        ids: Ids = self._table.take(codes)
        in_bytes = ids == self._missing
        if spell is not None:
            in_bytes |= spell
        return self._spell(codes, ids, in_bytes) if in_bytes.any() else ids

    def _spell(self, codes: Codes, ids: Ids, in_bytes: NDArray[np.bool_]) -> Ids:
        places = np.flatnonzero(in_bytes)
        wide = codes[places]
        text = wide.astype("<u4").tobytes().decode("utf-32-le")
        spelling = self._byte_ids[np.frombuffer(text.encode("utf-8"), np.uint8)]
        lengths = 1 + (wide >= 0x80).astype(np.int64) + (wide >= 0x800) + (wide >= 0x10000)
        # Where each spelling begins among the ids: its place, moved on by what the spellings before it add.
        begins = places + np.cumsum(lengths - 1) - (lengths - 1)
        within = np.arange(len(spelling)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        spelt = np.repeat(begins, lengths) + within
        out = np.empty(len(ids) - len(places) + len(spelling), self.dtype)
        single = np.ones(len(out), np.bool_)
        single[spelt] = False
        out[single] = ids[~in_bytes]
        out[spelt] = spelling
        return out

    def decode(self, ids: Ids) -> str:
        return self.bytes_of(ids).decode("utf-8", "replace")

    def bytes_of(self, ids: Ids) -> bytes:
        """The UTF-8 bytes that ``ids`` stand for."""
        pieces = self._bytes_of
        return b"".join([pieces[i] for i in np.asarray(ids).tolist()])

    def decoder(self) -> TextDecoder:
        return _IncrementalDecoder(self.bytes_of, "replace")

    def unknown(self, ids: Ids) -> NDArray[np.bool_]:
        ids = np.asarray(ids)
        unknown: NDArray[np.bool_] = self._is_byte[ids]
        for code in self.spelt:
            spelling = self._byte_ids[np.frombuffer(chr(code).encode("utf-8"), np.uint8)]
            last = len(ids) - len(spelling) + 1
            if last <= 0:
                continue
            found = np.ones(last, np.bool_)
            for offset, piece in enumerate(spelling):
                found &= ids[offset : offset + last] == piece
            for offset in range(len(spelling)):
                unknown[offset : offset + last][found] = False
        return unknown

    def grammar(self) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        allowed = [~self._is_byte]
        following = [np.zeros(self.vocabulary_size, np.int64)]
        for code in self.spelt:
            state = 0
            spelling = self._byte_ids[np.frombuffer(chr(code).encode("utf-8"), np.uint8)]
            for place, piece in enumerate(spelling):
                allowed[state][piece] = True
                if place < len(spelling) - 1:
                    allowed.append(np.zeros(self.vocabulary_size, np.bool_))
                    following.append(np.zeros(self.vocabulary_size, np.int64))
                    following[state][piece] = state = len(allowed) - 1
        return np.stack(allowed), np.stack(following)

    def to_bytes(self) -> bytes | None:
        return self._model

    def description(self) -> dict[str, Any]:
        digest = hashlib.sha256(self._model).hexdigest()
        return {"kind": self.kind, "spelt_in_bytes": list(self.spelt), "sha256": digest}


class ByteTokenizer:
    """The 256 byte values are the ids. A str stands for its UTF-8 bytes; other bytes are surrogate escapes."""

    kind = "byte"
    vocabulary_size = 256
    start_id = 0x0A
    end_id = None
    documents = None

    def __init__(self) -> None:
        self.dtype = np.dtype("<u1")
        self.starts_character = np.ones(256, np.bool_)
        self.byte_lengths = np.ones(256, np.int64)

    def encode(self, text: str) -> Ids:
        try:
            return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)
        except UnicodeEncodeError as error:
            raise DataError(f"the text has half a character, U+{ord(text[error.start]):04X}; remove it") from None

    def encode_codes(self, codes: Codes) -> Ids:
        return codes.astype(np.uint8, copy=False)

    def decode(self, ids: Ids) -> str:
        return np.asarray(ids).astype(np.uint8).tobytes().decode("utf-8", "surrogateescape")

    def decoder(self) -> TextDecoder:
        return _IncrementalDecoder(lambda ids: np.asarray(ids).astype(np.uint8).tobytes(), "surrogateescape")

    def unknown(self, ids: Ids) -> NDArray[np.bool_]:
        return np.zeros(len(ids), np.bool_)

    def grammar(self) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        return np.ones((1, 256), np.bool_), np.zeros((1, 256), np.int64)

    def to_bytes(self) -> bytes | None:
        return None

    def description(self) -> dict[str, Any]:
        return {"kind": self.kind}


class DocumentTokenizer:
    """``inner`` with one id more, the boundary: read before a document's first character, predicted after its last.

    It has no text of its own, and counts as one character and as the one byte that ends a line.
    """

    def __init__(self, inner: Tokenizer, documents: str) -> None:
        self.inner = inner
        self.documents = documents
        self.kind = inner.kind
        self.vocabulary_size = inner.vocabulary_size + 1
        self.start_id = self.end_id = inner.vocabulary_size
        self.starts_character = np.append(inner.starts_character, True)
        self.byte_lengths = np.append(inner.byte_lengths, 1)
        self._dtype = id_dtype(self.vocabulary_size)

    def encode(self, text: str) -> Ids:
        return self.inner.encode(text).astype(self._dtype)

    def encode_codes(self, codes: Codes) -> Ids:
        return self.inner.encode_codes(codes).astype(self._dtype)

    def encode_documents(self, codes: Codes, ends: NDArray[np.int64]) -> Ids:
        """Ids of documents that end where so many codes are over as ``ends`` say, the boundary after each."""
        return self.with_ends(self.inner.encode_codes(codes), ends)

    def with_ends(self, ids: Ids, ends: NDArray[np.int64]) -> Ids:
        """``ids`` of ``inner`` with the boundary put in where so many characters are over as ``ends`` say."""
        begins = np.append(np.flatnonzero(self.inner.starts_character[ids]), len(ids))
        return np.insert(ids.astype(self._dtype), begins[ends], self.end_id)

    def decode(self, ids: Ids) -> str:
        return self.inner.decode(np.asarray(ids)[np.asarray(ids) != self.end_id])

    def decoder(self) -> TextDecoder:
        """A decoder of one document, which takes the ids before its end."""
        return self.inner.decoder()

    def unknown(self, ids: Ids) -> NDArray[np.bool_]:
        inside = np.asarray(ids) != self.end_id
        unknown = np.zeros(len(ids), np.bool_)
        unknown[inside] = self.inner.unknown(ids[inside])
        return unknown

    def grammar(self) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        allowed, following = self.inner.grammar()
        may_end = np.arange(len(allowed))[:, None] == 0
        return np.hstack([allowed, may_end]), np.pad(following, ((0, 0), (0, 1)))

    def to_bytes(self) -> bytes | None:
        return self.inner.to_bytes()

    def description(self) -> dict[str, Any]:
        return {**self.inner.description(), "documents": self.documents}


class _IncrementalDecoder:
    def __init__(self, bytes_of: Any, errors: str) -> None:
        self._bytes_of = bytes_of
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors)

    def feed(self, ids: Ids) -> str:
        return self._utf8.decode(self._bytes_of(ids))

    def finish(self) -> str:
        return self._utf8.decode(b"", True)


def load_tokenizer(description: Any, model: bytes | None) -> Tokenizer:
    """The tokenizer of a checkpoint. Raises ``DataError`` where its parts are missing or disagree."""
    inner = _load_inner(description, model)
    documents = description.get("documents")
    if documents is None:
        return inner
    if not isinstance(documents, str) or documents not in SEPARATORS:
        raise DataError(
            f"config.json names documents {documents!r:.40}, which this charlm does not have; update charlm"
        )
    return DocumentTokenizer(inner, documents)


def _load_inner(description: Any, model: bytes | None) -> Tokenizer:
    kind = description.get("kind") if isinstance(description, dict) else None
    if kind == "byte":
        return ByteTokenizer()
    if kind != "char":
        raise DataError(f"config.json names the tokenizer {kind!r:.40}, which this charlm does not have; update charlm")
    if model is None:
        raise DataError("tokenizer.model is missing; restore it from a backup")
    spelt = description.get("spelt_in_bytes")
    if not isinstance(spelt, list) or not all(type(code) is int for code in spelt):
        raise DataError("config.json: the tokenizer's spelt_in_bytes is no list of code points")
    if description.get("sha256") != hashlib.sha256(model).hexdigest():
        raise DataError("tokenizer.model is not the one config.json was written with; restore it from a backup")
    return CharTokenizer(model, tuple(spelt))
