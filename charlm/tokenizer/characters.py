"""A SentencePiece character model: one id for every character of the training text, and other characters in bytes.

There are 256 byte pieces in which any other character is spelt, so every Unicode string has ids and comes back
unchanged. Its ``tokenizer.model`` opens in any SentencePiece; charlm itself encodes by table look-up, many times
faster, and the tests hold the two against each other.

Two characters can be no piece of a SentencePiece model: NUL, and U+2581, which stands for the space inside it. They
are always spelt in bytes; ``spelt`` remembers which of them the training text had, so that they may be sampled.
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

    def encode_documents(self, codes: Codes, ends: NDArray[np.int64]) -> Ids:
        return self.encode_codes(codes)

    def decode(self, ids: Ids) -> str:
        return self.bytes_of(ids).decode("utf-8", "replace")

    def bytes_of(self, ids: Ids) -> bytes:
        """The UTF-8 bytes that ``ids`` stand for."""
        pieces = self._bytes_of
        return b"".join([pieces[i] for i in np.asarray(ids).tolist()])

    def decoder(self) -> TextDecoder:
        return IncrementalDecoder(self.bytes_of, "replace")

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

    def constraint(self) -> Constraint:
        allowed = [~self._is_byte]
        transitions = [np.zeros(self.vocabulary_size, np.int64)]
        for code in self.spelt:
            state = 0
            spelling = self._byte_ids[np.frombuffer(chr(code).encode("utf-8"), np.uint8)]
            for place, piece in enumerate(spelling):
                allowed[state][piece] = True
                if place < len(spelling) - 1:
                    allowed.append(np.zeros(self.vocabulary_size, np.bool_))
                    transitions.append(np.zeros(self.vocabulary_size, np.int64))
                    transitions[state][piece] = state = len(allowed) - 1
        return Constraint(np.stack(allowed), np.stack(transitions))

    def to_bytes(self) -> bytes | None:
        return self._model

    def description(self) -> dict[str, Any]:
        digest = hashlib.sha256(self._model).hexdigest()
        return {"kind": self.kind, "spelt_in_bytes": list(self.spelt), "sha256": digest}
