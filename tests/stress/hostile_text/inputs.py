"""The texts: what they are made of, in which bytes, and what a slow and simple reader makes of them."""

import codecs
import gzip
import random
from collections.abc import Callable
from typing import NamedTuple

ODD = [
    "\0", "\u2581", "\u2585", "\ufeff", "\ufffd", "\ufffe", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x7f",
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x9b2J", "\u202eabc\u202c", "\u2066x\u2069", "\u200b", "\xa0", "\u3000",
    "e\u0301", "a" + "\u0300" * 40, "\u0345", "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea",
    "\U0010ffff", "<unk>", "<s>", "<0x41>", "\u2047", "---", '"', '","', "\\x1b", "</span><b>", "&amp;", "%s{}", "-",
]  # fmt: skip
LINE_ENDS = ["\n", "\r\n", "\r", "\n\n", "\r\n\r\n", "\n\r", " \n\t\n", "\r\r\n", "\n \r\n"]
HALVES = ["\ud800", "\udbff", "\udfff", "\ud83d", "\ude00", "\udc80", "\udcff", "\udcc3\udca9"]
ENCODINGS = (
    "utf-8", "utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252",
    "utf-7", "shift-jis", "gb18030",
)  # fmt: skip
LONG_LINE = 200_000


def hostile_text(draw: random.Random, halves: bool = True) -> str:
    """Some parts of any kind; with ``halves`` now and then half a character, which no encoding can write."""
    parts = [draw.choice(_PARTS)(draw) for _ in range(draw.choice([0, 1, 2, 3, 5, 8, 20]))]
    if halves and draw.random() < 0.2:
        parts.insert(draw.randint(0, len(parts)), draw.choice(HALVES))
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
    """What a file holds, under which name and encoding, and what it says: None where that cannot be read."""

    data: bytes
    suffix: str
    encoding: str
    bytes: bytes | None
    text: str | None

    def said(self, kind: str) -> str | None:
        """The text for a tokenizer kind; bytes that are no UTF-8 are surrogate escapes."""
        if kind == "char":
            return self.text
        return None if self.bytes is None else self.bytes.decode("utf-8", "surrogateescape")


def hostile_file(draw: random.Random, repeats: int = 1) -> Hostile:
    """A text in some encoding, perhaps damaged, perhaps compressed, perhaps read as if it had another encoding."""
    written_as = draw.choice(ENCODINGS)
    data = hostile_text(draw, halves=False).encode(written_as, "replace") * repeats
    data = _damaged(data, draw) if draw.random() < 0.3 else data
    encoding = draw.choice(ENCODINGS) if draw.random() < 0.2 else written_as
    if draw.random() > 0.1:
        return Hostile(data, ".txt", encoding, data, decoded(data, encoding))
    packed = gzip.compress(data, 1)
    if draw.random() < 0.5:
        return Hostile(packed[: draw.randrange(len(packed))], ".gz", encoding, None, None)
    return Hostile(packed, ".gz", encoding, data, decoded(data, encoding))


def _damaged(data: bytes, draw: random.Random) -> bytes:
    place = draw.randint(0, len(data))
    return draw.choice([
        data[:place],
        data[:place] + bytes([draw.randrange(256)]) + data[place + 1 :],
        data[:place] + draw.choice(["\ud83d", "\udead"]).encode("utf-8", "surrogatepass") + data[place:],
        draw.randbytes(place),
    ])  # fmt: skip


def decoded(data: bytes, encoding: str) -> str | None:
    """What Python itself makes of ``data``, but for one byte-order mark."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(data, True)  # other than bytes.decode, it wants a mark
        text.encode("utf-8")  # UTF-7 can spell half a character
    except UnicodeError:
        return None
    drops_mark = encoding in ("utf-8-sig", "utf-16", "utf-32")
    return text if drops_mark else text.removeprefix("\ufeff")


def documents_of(text: str, form: str) -> list[str]:
    """The documents of a text with empty ones, line by line and slowly."""
    if form == "files":
        return [text]
    lines = text.split("\n")
    last = lines.pop()
    lines = [line.removesuffix("\r") for line in lines] + ([last] if last else [])
    if form == "lines":
        return lines
    return _paragraphs(text.split("\n"))


def _paragraphs(lines: list[str]) -> list[str]:
    found: list[list[str]] = [[]]
    for number, line in enumerate(lines):
        if line.strip("\t\r "):
            found[-1].append(line if number == len(lines) - 1 else line + "\n")
        elif found[-1]:
            found.append([])
    joined = ("".join(paragraph) for paragraph in found if paragraph)
    return [p.removesuffix("\n").removesuffix("\r") if p.endswith("\n") else p for p in joined]
