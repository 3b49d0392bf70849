"""A SentencePiece character model: one id for every character of the training text, byte fallback for all others.

Any other character is encoded as its UTF-8 bytes, each of which is one of 256 byte pieces. So every Unicode string has
ids and is decoded unchanged. ``tokenizer.model`` opens in any SentencePiece. charlm itself encodes by table look-up,
which is many times faster; the tests compare the two.

Two characters cannot be pieces of a SentencePiece model: NUL, and U+2581, which represents the space inside it. They
are always encoded as bytes. ``byte_encoded`` lists those of them that the training text has; they may be sampled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.config import MAX_VOCABULARY
from charlm.errors import DataError
from charlm.tokenizer.decoding import IncrementalDecoder
from charlm.tokenizer.protocol import Codes, Constraint, Ids, TextDecoder, code_points, id_dtype
from charlm.tokenizer.vocabulary import train_model

_UNICODE_SIZE = 0x110000
_SPACE_PIECE = "\u2581"
NOT_PIECES = (0x0000, 0x2581)
_SHORT_RUN = 500
"""Longer runs of ids than this are copied run by run, which is faster than a mask."""


class CharTokenizer:
    """One id per character, and byte fallback. Made by ``build`` or from the content of a ``tokenizer.model``."""

    kind = "char"
    end_id = None
    separator_id = None
    document_kind = None
    document_start = None
    has_byte_fallback = True

    def __init__(self, model: bytes, byte_encoded: tuple[int, ...] = (), normalization: str = "none") -> None:
        import sentencepiece

        self._model = model
        self.normalization = normalization
        self.byte_encoded = tuple(sorted(byte_encoded))
        if not set(byte_encoded) <= set(NOT_PIECES):
            raise DataError("config.json: the tokenizer's spelt_in_bytes is damaged; restore it from a backup")
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(model)
            size = min(processor.get_piece_size(), MAX_VOCABULARY)
            pieces = [processor.id_to_piece(i) for i in range(size)]
            byte_ids = [i for i in range(size) if processor.is_byte(i)]
        except (RuntimeError, ValueError, TypeError, UnicodeError) as error:
            reason = str(error)
            raise DataError(
                f"tokenizer.model is not a SentencePiece model ({reason!r:.80}); restore it from a backup"
            ) from None
        if len(byte_ids) != 256 or [pieces[i] for i in byte_ids] != [f"<0x{b:02X}>" for b in range(256)]:
            raise DataError("tokenizer.model is not a character model with 256 byte pieces; restore it from a backup")
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
                raise DataError(
                    f"tokenizer.model has the piece {piece!r:.40}, which is not one character; restore it from a backup"
                )
            self._characters[character] = piece_id
            table[ord(character)] = piece_id
            self._bytes_of[piece_id] = character.encode("utf-8")
        if not self._characters:
            raise DataError("tokenizer.model has no character; restore it from a backup")
        self._table = table
        self.byte_lengths = np.array([len(b) for b in self._bytes_of], np.int64)
        self.starts_character = np.ones(size, np.bool_)
        self.starts_character[self._byte_ids[0x80:0xC0]] = False
        self._is_byte = np.zeros(size, np.bool_)
        self._is_byte[self._byte_ids] = True
        self._is_byte[0] = True
        self.start_id = self._characters.get("\n", min(self._characters.values()))

    @classmethod
    def build(cls, counts: Mapping[int, int], normalization: str = "none") -> CharTokenizer:
        """Make the vocabulary from ``counts``: code point -> occurrences in the training text, which is normalized.

        The cost depends on the size of the alphabet, not on that of the corpus.
        """
        in_bytes = tuple(code for code in NOT_PIECES if counts.get(code))
        model = train_model({chr(code): n for code, n in counts.items() if n and code not in in_bytes})
        return cls(model, in_bytes, normalization)

    @property
    def characters(self) -> Mapping[str, int]:
        """Character -> id, for every character that is a piece."""
        return self._characters

    @property
    def byte_ids(self) -> Ids:
        """[256] the ids of the byte pieces."""
        return self._byte_ids

    def encode(self, text: str) -> Ids:
        return self.encode_codes(code_points(text))

    def encode_codes(self, codes: Codes, in_bytes: NDArray[np.bool_] | None = None) -> Ids:
        ids: Ids = self._table.take(codes)
        fallback = ids == self._missing
        if in_bytes is not None:
            fallback |= in_bytes
        return self._with_fallback(codes, ids, fallback) if fallback.any() else ids

    def _with_fallback(self, codes: Codes, ids: Ids, fallback: NDArray[np.bool_]) -> Ids:
        """``ids`` with the byte pieces of ``codes`` where ``fallback`` is true."""
        positions = np.flatnonzero(fallback)
        replaced = codes[positions]
        text = replaced.astype("<u4").tobytes().decode("utf-32-le")
        byte_pieces = self._byte_ids[np.frombuffer(text.encode("utf-8"), np.uint8)]
        lengths = 1 + (replaced >= 0x80).astype(np.int64) + (replaced >= 0x800) + (replaced >= 0x10000)
        # A character's first byte piece comes at its position plus the ids that the characters before it have added.
        added = np.append(0, np.cumsum(lengths - 1))
        within = np.arange(len(byte_pieces)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        targets = np.repeat(positions + added[:-1], lengths) + within
        out = np.empty(len(ids) + int(added[-1]), self.dtype)
        if len(positions) <= len(ids) // _SHORT_RUN:
            starts, stops = [0, *(positions + 1).tolist()], [*positions.tolist(), len(ids)]
            for start, stop, shift in zip(starts, stops, added.tolist(), strict=True):
                out[start + shift : stop + shift] = ids[start:stop]
        else:
            keeps_id = np.ones(len(out), np.bool_)
            keeps_id[targets] = False
            out[keeps_id] = ids[~fallback]
        out[targets] = byte_pieces
        return out

    def encode_documents(self, codes: Codes, ends: NDArray[np.int64]) -> Ids:
        return self.encode_codes(codes)

    def with_ends(self, ids: Ids, ends: NDArray[np.int64]) -> Ids:
        return ids

    def decode(self, ids: Ids) -> str:
        return self.bytes_of(ids).decode("utf-8", "replace")

    def bytes_of(self, ids: Ids) -> bytes:
        """The UTF-8 bytes of ``ids``."""
        pieces = self._bytes_of
        return b"".join([pieces[i] for i in np.asarray(ids).tolist()])

    def decoder(self) -> TextDecoder:
        return IncrementalDecoder(self.bytes_of, "replace")

    def unknown(self, ids: Ids) -> NDArray[np.bool_]:
        ids = np.asarray(ids)
        unknown: NDArray[np.bool_] = self._is_byte[ids]
        for code in self.byte_encoded:
            pieces = self._byte_pieces(code)
            last = len(ids) - len(pieces) + 1
            if last <= 0:
                continue
            found = np.ones(last, np.bool_)
            for offset, piece in enumerate(pieces):
                found &= ids[offset : offset + last] == piece
            for offset in range(len(pieces)):
                unknown[offset : offset + last][found] = False
        return unknown

    def _byte_pieces(self, code: int) -> Ids:
        """The ids of the UTF-8 bytes of one character."""
        pieces: Ids = self._byte_ids[np.frombuffer(chr(code).encode("utf-8"), np.uint8)]
        return pieces

    def constraint(self) -> Constraint:
        allowed = [~self._is_byte]
        transitions = [np.zeros(self.vocabulary_size, np.int64)]
        for code in self.byte_encoded:
            state = 0
            pieces = self._byte_pieces(code)
            for place, piece in enumerate(pieces):
                allowed[state][piece] = True
                if place < len(pieces) - 1:
                    allowed.append(np.zeros(self.vocabulary_size, np.bool_))
                    transitions.append(np.zeros(self.vocabulary_size, np.int64))
                    transitions[state][piece] = state = len(allowed) - 1
        return Constraint(np.stack(allowed), np.stack(transitions))

    def to_bytes(self) -> bytes | None:
        return self._model

    def description(self) -> dict[str, Any]:
        digest = hashlib.sha256(self._model).hexdigest()
        normal = {} if self.normalization == "none" else {"normalize": self.normalization}
        return {"kind": self.kind, "spelt_in_bytes": list(self.byte_encoded), "sha256": digest, **normal}
