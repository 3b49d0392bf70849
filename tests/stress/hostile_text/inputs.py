"""The texts: their parts, their encodings, and a simple reference reader."""

import bz2
import codecs
import gzip
import io
import lzma
import random
import re
import zipfile
from collections.abc import Callable
from typing import NamedTuple

from stress.hostile_text.models import START

try:
    from compression import zstd
except ImportError:  # before Python 3.14
    from backports import zstd

ODD = [
    "\0", "\u2581", "\u2585", "\ufeff", "\ufffd", "\ufffe", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x7f",
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x9b2J", "\u202eabc\u202c", "\u2066x\u2069", "\u200b", "\xa0", "\u3000",
    "e\u0301", "a" + "\u0300" * 40, "\u0345", "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea",
    "\U0010ffff", "<unk>", "<s>", "<0x41>", "\u2047", "---", '"', '","', "\\x1b", "</span><b>", "&amp;", "%s{}", "-",
]  # fmt: skip
LINE_ENDS = [
    "\n", "\r\n", "\r", "\n\n", "\r\n\r\n", "\n\r", " \n\t\n", "\r\r\n", "\n \r\n", "\n\xa0\n", "\n\u3000\x0c\n",
    "\u2028", "\u2029",
]  # fmt: skip
SURROGATES = ["\ud800", "\udbff", "\udfff", "\ud83d", "\ude00", "\udc80", "\udcff", "\udcc3\udca9"]
ENCODINGS = (
    "utf-8", "utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252",
    "utf-7", "shift-jis", "gb18030",
)  # fmt: skip
LONG_LINE = 200_000


def hostile_text(draw: random.Random, halves: bool = True) -> str:
    """Some random parts; with ``halves`` sometimes a surrogate, which no encoding can write."""
    parts = [draw.choice(_PARTS)(draw) for _ in range(draw.choice([0, 1, 2, 3, 5, 8, 20]))]
    if halves and draw.random() < 0.2:
        parts.insert(draw.randint(0, len(parts)), draw.choice(SURROGATES))
    if draw.random() < 0.003:
        parts.insert(draw.randint(0, len(parts)), draw.choice(["a", "é ", "\0", "\u2581\r"]) * LONG_LINE)
    return "".join(parts)


def _anything(draw: random.Random) -> str:
    codes = (draw.randrange(draw.choice([0x80, 0x100, 0x3000, 0x10000, 0x110000])) for _ in range(draw.randint(1, 12)))
    return "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)


_PARTS: list[Callable[[random.Random], str]] = [
    _anything,
    lambda draw: draw.choice(ODD),
    lambda draw: draw.choice(LINE_ENDS),
    lambda draw: draw.choice(["the cat sat ", "naïve", "dogs", " 42,"]),
    lambda draw: draw.choice(" \t\n\r") * draw.randint(1, 9),
]


class Hostile(NamedTuple):
    """A file's bytes, suffix and encoding, its unpacked bytes, and its text; None if they cannot be read."""

    data: bytes
    suffix: str
    encoding: str
    bytes: bytes | None
    text: str | None

    def expected_text(self, kind: str) -> str | None:
        """The text for a kind of tokenizer; bytes that are not UTF-8 become surrogate escapes."""
        if kind == "char":
            return self.text
        return None if self.bytes is None else self.bytes.decode("utf-8", "surrogateescape")


def _zip(data: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("text.txt", data)
    return packed.getvalue()


_PACKERS: list[tuple[bytes, Callable[[bytes], bytes]]] = [
    (b"\x1f\x8b", lambda data: gzip.compress(data, 1)),
    (b"\x1f\x8b", lambda data: gzip.compress(data[:7], 1) + gzip.compress(data[7:], 1)),
    (b"BZh91AY&SY", lambda data: bz2.compress(data or b"x") + bz2.compress(data or b"y")),
    (b"\xfd7zXZ\0", lzma.compress),
    (b"\x28\xb5\x2f\xfd", zstd.compress),
    (b"PK\x03\x04", _zip),
]
"""The first bytes of a packed text, by which it is recognized, and how it is packed."""
NOT_TEXT = [
    b"%PDF-1.4 ", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"\x7fELF\2\1\1", b"GIF89a", b"{\\rtf1 ",
    b"SQLite format 3\0",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"a" * 257 + b"ustar\0", b"7z\xbc\xaf\x27\x1c", b"PAR1\x15",
]  # fmt: skip
"""The first bytes of files that are not text."""


def hostile_file(draw: random.Random, repeats: int = 1) -> Hostile:
    """A text in a random encoding, sometimes damaged, packed, read with another encoding, or in another format."""
    written_as = draw.choice(ENCODINGS)
    data = hostile_text(draw, halves=False).encode(written_as, "replace") * repeats
    data = _damaged(data, draw) if draw.random() < 0.3 else data
    encoding = draw.choice(ENCODINGS) if draw.random() < 0.2 else written_as
    suffix = draw.choice([".txt", "", ".gz", ".zip", ".log"])
    if draw.random() < 0.05:
        data = draw.choice(NOT_TEXT) + data
    if _is_packed_or_not_text(data):
        packed = any(data.startswith(mark) for mark, _ in _PACKERS)
        return Hostile(data, suffix, encoding, None if packed else data, None)
    if draw.random() > 0.15:
        return Hostile(data, suffix, encoding, data, decoded(data, encoding))
    return _packed(draw, data, suffix, encoding)


def _is_packed_or_not_text(data: bytes) -> bool:
    return any(data.startswith(mark) for mark in NOT_TEXT) or any(data.startswith(mark) for mark, _ in _PACKERS)


def _packed(draw: random.Random, data: bytes, suffix: str, encoding: str) -> Hostile:
    mark, pack = draw.choice(_PACKERS)
    packed = pack(data)
    if mark == b"BZh91AY&SY":
        data = (data or b"x") + (data or b"y")
    if draw.random() < 0.6:
        return Hostile(packed, suffix, encoding, data, decoded(data, encoding))
    if draw.random() < 0.2:  # more after the text, which is not a stream
        packed += b"\xaamore"
        is_zip = mark.startswith(b"PK")  # whose parts are found from its end
        return Hostile(packed, suffix, encoding, data if is_zip else None, decoded(data, encoding) if is_zip else None)
    packed = packed[: draw.randrange(len(packed))]
    if len(packed) >= len(mark):
        return Hostile(packed, suffix, encoding, None, None)
    return Hostile(packed, suffix, encoding, packed, decoded(packed, encoding))  # no longer recognized


def _damaged(data: bytes, draw: random.Random) -> bytes:
    place = draw.randint(0, len(data))
    return draw.choice([
        data[:place],
        data[:place] + bytes([draw.randrange(256)]) + data[place + 1 :],
        data[:place] + draw.choice(["\ud83d", "\udead"]).encode("utf-8", "surrogatepass") + data[place:],
        draw.randbytes(place),
    ])  # fmt: skip


def decoded(data: bytes, encoding: str) -> str | None:
    """``data`` decoded by Python, without a byte-order mark; None if it cannot be decoded."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(
            data, True
        )  # unlike bytes.decode, it requires a byte-order mark
        text.encode("utf-8")  # UTF-7 can encode a surrogate
    except UnicodeError:
        return None
    drops_mark = encoding in ("utf-8-sig", "utf-16", "utf-32")
    return text if drops_mark else text.removeprefix("\ufeff")


def replaced(data: bytes) -> str:
    """UTF-8 with U+FFFD for what is not valid, without a byte-order mark."""
    return data.decode("utf-8", "replace").removeprefix("\ufeff")


def documents_of(text: str, form: str, kind: str = "char") -> list[str]:
    """The documents of a text, including empty lines, by a simple reference implementation."""
    if form == "files":
        return [text]
    lines = _lines(text, kind)
    if form == "lines":
        return [line for line, _ in lines]
    found: list[list[str]] = []
    for line, end in lines:
        if form == "start":
            if not found or re.search(START, line[:1000]):
                found.append([])
            found[-1] += [line, end]
        elif line.strip("\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f " if kind == "byte" else None):
            found = found or [[]]
            found[-1] += [line, end]
        elif found and found[-1]:
            found.append([])
    return [document for document in ("".join(parts[:-1]) for parts in found if parts) if document]


def _lines(text: str, kind: str) -> list[tuple[str, str]]:
    """The lines of a text, each with its end."""
    ends = ["\r\n", "\n"] + ["\u2028", "\u2029"] * (kind == "char") + ["\r"] * ("\r" in text and "\n" not in text)
    parts = re.split(f"({'|'.join(ends)})", text)
    lines = list(zip(parts[::2], [*parts[1::2], ""], strict=True))
    return lines if lines[-1][0] else lines[:-1]
