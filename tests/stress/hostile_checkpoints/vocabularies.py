"""Mutations of the vocabulary, a SentencePiece model, and of its description."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import struct
from collections.abc import Callable

from charlm.checkpoint.step import CONFIG, MODEL, TOKENIZER
from stress.hostile_checkpoints.mutant import Mutant
from stress.hostile_checkpoints.tensors import pack, unpack

_PIECE, _NORMAL, _CONTROL, _BYTE = 1, 1, 3, 6
"""A field number and some piece types of SentencePiece's protocol buffer."""


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return number, place


def _message(field_number: int, data: bytes) -> bytes:
    return _varint(field_number << 3 | 2) + _varint(len(data)) + data


def _piece(text: bytes, kind: int = _NORMAL) -> bytes:
    return _message(_PIECE, _message(1, text) + b"\x15" + struct.pack("<f", -1.0) + b"\x18" + _varint(kind))


def _split_vocabulary(data: bytes) -> tuple[list[bytes], bytes]:
    """The messages of the pieces, and the rest of a SentencePiece model."""
    pieces, rest, place = [], b"", 0
    while place < len(data):
        tag, after = _read_varint(data, place)
        assert tag & 7 == 2, "the top-level fields of SentencePiece's models are all messages"
        length, after = _read_varint(data, after)
        whole, place = data[place : after + length], after + length
        if tag >> 3 == _PIECE:
            pieces.append(whole)
        else:
            rest += whole
    return pieces, rest


def change_pieces(mutant: Mutant, draw: random.Random) -> None:
    path = mutant.path(TOKENIZER)
    if path not in mutant.files:
        mutant.put(path, draw.randbytes(100))
        return
    pieces, rest = _split_vocabulary(mutant.files[path])
    how, make = draw.choice(_VOCABULARIES)
    changed = make(pieces, draw)
    mutant.what.append(f"{how}, {len(changed)} pieces")
    mutant.put(path, b"".join(changed) + draw.choice([rest, rest, rest, b"", rest + rest]))
    if draw.random() < 0.7:
        _fit_model(mutant, len(changed))


def _bytes_first(pieces: list[bytes]) -> list[bytes]:
    """Only the unknown piece and the 256 byte pieces."""
    return [pieces[0], *(piece for piece in pieces if b"<0x" in piece)]


_HUGE = (30_000, 70_000)
_VOCABULARIES: list[tuple[str, Callable[[list[bytes], random.Random], list[bytes]]]] = [
    ("one less", lambda pieces, draw: [p for p in pieces if p != draw.choice(pieces)]),
    ("one duplicate", lambda pieces, draw: [*pieces, draw.choice(pieces)]),
    ("shuffled", lambda pieces, draw: draw.sample(pieces, len(pieces))),
    ("no character", lambda pieces, draw: _bytes_first(pieces)),
    ("one control character", lambda pieces, draw: [*_bytes_first(pieces), _piece(b"a", _CONTROL)]),
    ("more", lambda pieces, draw: [*pieces, _piece(draw.choice([b"ab", b"", b"\0", b"\xff", b"z" * 10**6, b"\n"]))]),
    ("a byte more", lambda pieces, draw: [*pieces, _piece(draw.choice([b"<0x41>", b"<0x100>", b"q"]), _BYTE)]),
    ("any type", lambda pieces, draw: [*pieces, _piece(b"q", draw.choice([0, 2, 3, 4, 5, 7, 99, 2**40]))]),
    ("Chinese", lambda pieces, draw: [*pieces, *(_piece(chr(0x4E00 + n).encode()) for n in range(20_000))]),
    ("huge", lambda pieces, draw: [*pieces, *(_piece(chr(0x20000 + n).encode()) for n in range(draw.choice(_HUGE)))]),
    ("nothing", lambda pieces, draw: []),
]


def _fit_model(mutant: Mutant, size: int) -> None:
    """Give the embedding as many rows as the vocabulary has pieces."""
    config = mutant.json(mutant.path(CONFIG))
    ids = size + ("documents" in config["tokenizer"])
    path = mutant.path(MODEL)
    tensors = unpack(mutant.files[path])
    for name in ("embedding.weight", "decoder.bias"):
        dtype, shape, data = tensors[name]
        wanted = len(data) // shape[0] * ids
        tensors[name] = dtype, [ids, *shape[1:]], (data * (1 + wanted // len(data)))[:wanted]
    mutant.files[path] = pack(tensors)
    config["model"]["vocabulary_size"] = ids
    config["tokenizer"]["sha256"] = hashlib.sha256(mutant.seen(mutant.path(TOKENIZER))).hexdigest()
    mutant.files[mutant.path(CONFIG)] = json.dumps(config).encode()


def change_byte_fallback(mutant: Mutant, draw: random.Random) -> None:
    """Invalid lists of characters with byte fallback, of which there may be at most two."""
    path = mutant.path(CONFIG)
    values = copy.deepcopy(mutant.json(path))
    values["tokenizer"]["spelt_in_bytes"] = draw.choice(
        [[0], [0x2581], [0, 0x2581], [0, 0, 0], [65], [-1], [2**31], [True], list(range(5000)), [[]], [0.0], {}, "0"]
    )
    if draw.random() < 0.3:
        values["tokenizer"]["kind"] = draw.choice(["byte", "char", "bpe", None, [], {}])
    if draw.random() < 0.3:
        values["tokenizer"]["documents"] = draw.choice(
            ["lines", "blank-lines", "files", "", [], {}, ["lines"], 5, None]
        )
    mutant.put_json(path, values)
