"""A guess at the encoding of a text that could not be decoded. Only error messages need it."""

from __future__ import annotations

import codecs
import unicodedata
from typing import NamedTuple

_MAX_BYTES = 1 << 14
"""How much of the text around the first invalid byte is looked at."""
_MAX_ODD = 0.2
"""The share of bytes beyond ASCII that may give a character in an odd place."""
# Those in use, and what Python calls them. Of encodings that read the text the same, the first is named.
_COMMON = (
    "cp1252", "mac-roman", "cp850", "cp437", "cp1250", "iso8859-2", "cp1251", "koi8-r", "cp866", "iso8859-5", "cp1253",
    "iso8859-7", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp932", "euc-jp", "gb18030", "big5", "cp949",
    "tis-620",
)  # fmt: skip
_OPENING = "“‘„‚«‹¿¡"
_PUNCTUATION = "”’»›–—…€£¥¢°§©®™•·\xa0\xad"


class Guess(NamedTuple):
    """An encoding, and how it reads the word with the first invalid byte."""

    encoding: str
    sample: str


def guess_encoding(data: bytes, position: int, tried: str) -> Guess | None:
    """The likely encoding of ``data``, in which the codec ``tried`` failed at ``position``; None if there is none."""
    sample = _around(data, position)
    if tried in ("utf-8", "utf-8-sig") and _is_mostly_utf8(sample):
        return None
    for encoding in ["utf-8", *_candidates(sample)]:
        try:
            text = _decoded(data, encoding)
        except UnicodeError:
            continue
        if codecs.lookup(encoding).name != tried and not text.isascii():
            return Guess(encoding, _word(data, position, encoding))
    return None


def _is_mostly_utf8(sample: bytes) -> bool:
    """Whether most bytes beyond ASCII are valid UTF-8, which is rare in other encodings."""
    valid = sum(len(character.encode()) for character in sample.decode("utf-8", "ignore") if not character.isascii())
    return 2 * valid > sum(byte >= 0x80 for byte in sample)


def _around(data: bytes, position: int) -> bytes:
    start = max(0, position - _MAX_BYTES // 2)
    if start:  # at the beginning of a line, so that no character is cut
        start = max(0, data.rfind(b"\n", 0, start) + 1, position - _MAX_BYTES)
    return data[start : start + _MAX_BYTES]


def _decoded(data: bytes, encoding: str) -> str:
    """``data`` decoded, except for an incomplete character at its end."""
    return codecs.getincrementaldecoder(encoding)().decode(data)


def _candidates(sample: bytes) -> list[str]:
    """Common encodings that give a plausible text, the most plausible first."""
    found = _found_by_library(sample)
    odd = {encoding: _oddities(sample, encoding) for encoding in _COMMON}
    limit = _MAX_ODD * sum(byte >= 0x80 for byte in sample)
    order = [*found, *(encoding for encoding in _COMMON if encoding not in found)]
    return sorted((encoding for encoding in order if odd[encoding] <= limit), key=lambda encoding: odd[encoding])


def _found_by_library(sample: bytes) -> list[str]:
    from charset_normalizer import from_bytes

    found: dict[str, float] = {}
    for match in from_bytes(sample, cp_isolation=list(_COMMON)):
        for name in (match.encoding, *match.could_be_from_charset):
            encoding = next((common for common in _COMMON if _same(common, name)), None)
            if encoding is not None:
                found.setdefault(encoding, match.coherence)
    # The library often prefers a relative of cp1252, such as cp1250, which reads the same letters.
    first = next(iter(found), None)
    if first is not None and found.get("cp1252", -1.0) >= found[first]:
        return ["cp1252", *(encoding for encoding in found if encoding != "cp1252")]
    return list(found)


def _same(first: str, second: str) -> bool:
    try:
        return codecs.lookup(first).name == codecs.lookup(second).name
    except LookupError:
        return False


def _oddities(sample: bytes, encoding: str) -> int:
    """How many characters beyond ASCII are in an odd place.

    Such as a symbol or a letter of another script in a word, or a capital letter after a small one.
    """
    try:
        text = f" {_decoded(sample, encoding)} "
    except UnicodeError:
        return len(sample)
    return sum(
        _is_odd(before, character, after)
        for before, character, after in zip(text, text[1:], text[2:], strict=False)
        if not character.isascii()
    )


def _is_odd(before: str, character: str, after: str) -> bool:
    if unicodedata.category(character) in ("Lu", "Ll", "Lt", "Lo"):
        in_latin_word = (before + after).isascii() and (before + after).strip().isalpha()
        other_script = in_latin_word and not unicodedata.name(character, "").startswith("LATIN")
        return other_script or (character.isupper() and before.islower())
    if character in _OPENING:
        return before.isalpha()
    if character in _PUNCTUATION:
        return before.isalpha() and after.isalpha() and character not in "’·\xad"
    return not ("\u3000" <= character <= "\u30ff" or "\uff00" <= character <= "\uffef")  # of Chinese and Japanese


def _word(data: bytes, position: int, encoding: str) -> str:
    """The word at ``position`` and a little around it."""
    start = max(0, data.rfind(b"\n", 0, position) + 1, position - 12)
    word = data[start : position + 24].decode(encoding, "ignore").splitlines() or [""]
    shown = "".join(c if c.isprintable() else " " for c in word[0])
    return " ".join(shown.split())[:24]
