"""Bytes to characters: text encodings, what to do with bytes that are not valid, and advice for them.

``decode_blocks`` reads block by block, so that a text may be larger than memory. A byte that is not valid in the
encoding raises ``DataError`` ("strict"), becomes U+FFFD ("replace"), or stays marked as a surrogate, so that its
document can be left out ("skip-document").
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from charlm.errors import DataError, UsageError
from charlm.tokenizer.normalization import NORMALIZATIONS

ERRORS = ("strict", "replace", "skip-document")
"""What to do with bytes that are not valid in the encoding."""
REPLACEMENT = "\ufffd"

_MARK = "\udfff"
"""Stands for invalid bytes until they are replaced or their document is left out. No valid text has surrogates."""
_SURROGATES = re.compile("[\ud800-\udfff]")
_HANDLER = "charlm.mark"
codecs.register_error(_HANDLER, lambda error: (_MARK, error.end))  # type: ignore[attr-defined]  # a UnicodeDecodeError

_NOT_UTF8_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UTF8_NAMES = ("utf-8", "utf-8-sig")
# The decoders of these drop the byte-order mark themselves; a second one is a character of the text.
_BOM_DROPPING = ("utf-8-sig", "utf-16", "utf-32")


@dataclass(frozen=True)
class Decoding:
    """How the bytes of a text become characters. Raises ``UsageError`` for values that do not exist."""

    encoding: str = "utf-8"
    errors: str = "strict"
    """One of ``ERRORS``."""
    normalization: str = "none"
    """One of ``NORMALIZATIONS``."""
    options: Sequence[str] = ("--encoding", "--errors", "--tokenizer")
    """Which of these options the user has. Messages name no others."""

    def __post_init__(self) -> None:
        check_encoding(self.encoding)
        for option, value, known in (
            ("--errors", self.errors, ERRORS),
            ("--normalize", self.normalization, NORMALIZATIONS),
        ):
            if value not in known:
                raise UsageError(f"{option} must be one of {', '.join(known)}, not {value!r:.40}")

    @property
    def is_utf8(self) -> bool:
        """Whether the encoding is UTF-8, with or without a byte-order mark."""
        return codecs.lookup(self.encoding).name in _UTF8_NAMES

    @property
    def offers_bytes(self) -> bool:
        """Whether the user can choose to read the bytes as they are."""
        return "--tokenizer" in self.options

    @property
    def advice(self) -> str:
        """What helps with a text in an unknown encoding."""
        named = ["name its encoding with --encoding"] if "--encoding" in self.options else []
        return ", or ".join([*named, *self.other_ways]) or "convert it to UTF-8 first"

    @property
    def other_ways(self) -> list[str]:
        """What helps besides another encoding."""
        ways = []
        if "--errors" in self.options and self.errors == "strict":
            ways.append("--errors replace")
        if self.offers_bytes:
            ways.append("read its bytes with --tokenizer byte")
        return ways


@dataclass
class Changes:
    """What reading a text has changed in it."""

    replaced: int = 0
    """Sequences of bytes that were not valid and became U+FFFD."""
    normalized: int = 0
    """Characters that were replaced by their normal forms."""
    skipped: int = 0
    """Rows of a table that were left out, because their text or condition has bytes that are not valid."""


def check_encoding(encoding: str) -> None:
    """Raise ``UsageError`` unless Python can decode text with ``encoding``."""
    try:
        # Python also has codecs that are not text encodings, such as hex and rot13.
        is_text = isinstance(codecs.getincrementaldecoder(encoding)().decode(b"", True), str)
    except (LookupError, ValueError, TypeError, AttributeError):
        is_text = False
    if not is_text:
        raise UsageError(f"--encoding {encoding!r} is unknown to this Python; try utf-8, utf-16, cp1252 or latin-1")


def decode_blocks(
    blocks: Iterable[bytes], name: str, decoding: Decoding | None = None, changes: Changes | None = None
) -> Iterator[str]:
    """Decode ``blocks`` one by one, without the byte-order mark; UTF-8 unless ``decoding`` says otherwise.

    Raises ``DataError`` with the first invalid byte, its place and what to do, after the text before it was yielded.
    ``changes`` counts replacements. With "skip-document" invalid bytes are surrogates in the text.
    """
    decoding = decoding or Decoding()
    decoder, at_start = _Decoder(name, decoding), True
    for text in decoder.decode(blocks):
        if at_start and decoder.codec not in _BOM_DROPPING:
            text = text.removeprefix("\ufeff")  # noqa: PLW2901  # the same text without the mark
        at_start = False
        if decoding.errors == "replace" and not text.isascii():
            text, count = _SURROGATES.subn(REPLACEMENT, text)  # noqa: PLW2901  # likewise
            if changes is not None:
                changes.replaced += count
        if text:
            yield text


class _Decoder:
    """Decodes the bytes of one file and knows the place of the first that are not valid."""

    def __init__(self, name: str, decoding: Decoding) -> None:
        self._name, self._decoding = name, decoding
        self.codec = codecs.lookup(decoding.encoding).name
        errors = "strict" if decoding.errors == "strict" else _HANDLER
        self._decoder: Any = codecs.getincrementaldecoder(decoding.encoding)(errors)
        self._bytes = self._lines = 0

    def decode(self, blocks: Iterable[bytes]) -> Iterator[str]:
        """Characters, block by block."""
        for data in filter(None, blocks):
            if not self._bytes and self.codec in _UTF8_NAMES:
                _refuse_utf16_and_utf32(data, self._name, self._decoding)
            yield from self._block(data)
        yield from self._block(b"")

    def _block(self, data: bytes) -> Iterator[str]:
        """The characters of a block; an empty one is the end of the text."""
        state = self._decoder.getstate()
        try:
            text: str = self._decoder.decode(data, not data)
        except UnicodeDecodeError as error:
            before = self._decode_again(state, data[: max(0, error.start - len(state[0]))])
            if before:
                yield before
            raise self._invalid_byte(error, len(state[0]), self._lines + before.count("\n") + 1) from None
        except UnicodeError as error:
            raise self._undecodable(error) from None
        self._bytes += len(data)
        self._lines += _line_feeds(data) if self.codec in _UTF8_NAMES else text.count("\n")
        if text:
            yield text

    def _decode_again(self, state: Any, data: bytes) -> str:
        """The valid beginning of a block; ``state`` is that of the decoder before it."""
        self._decoder.setstate(state)
        try:
            return str(self._decoder.decode(data)) if data else ""
        except UnicodeError:
            return ""

    def _invalid_byte(self, error: UnicodeDecodeError, pending: int, line: int) -> DataError:
        from charlm.corpus.encoding_guess import guess_encoding

        wrong = error.object[error.start : error.start + 1].hex().upper()
        place = f"byte 0x{wrong} at position {self._bytes - pending + error.start}, line {line}"
        advice = self._decoding.advice
        guess = (
            guess_encoding(error.object, error.start, self.codec) if "--encoding" in self._decoding.options else None
        )
        if guess is not None:
            others = "; else ".join(["", *self._decoding.other_ways[:1]])
            advice = f'if it is {guess.encoding} ("{guess.sample}"), add --encoding {guess.encoding}{others}'
        return DataError(f"{self._name} is not {self._decoding.encoding}: {place}; {advice}")

    def _undecodable(self, error: UnicodeError) -> DataError:
        encoding = self._decoding.encoding
        if self.codec in ("utf-16", "utf-32"):  # the only reason: the byte-order mark is missing
            return DataError(
                f"{self._name} is not {encoding} with a byte-order mark; without one, use {encoding}-le (Windows) or "
                f"{encoding}-be"
            )
        return DataError(f"{self._name} is not {encoding} ({str(error)[:60]}); {self._decoding.advice}")


def _line_feeds(data: bytes) -> int:
    """As ``data.count``, several times faster."""
    return int(np.count_nonzero(np.frombuffer(data, np.uint8) == 0x0A))


def _refuse_utf16_and_utf32(head: bytes, name: str, decoding: Decoding) -> None:
    """Raise ``DataError`` if ``head`` looks like UTF-16 or UTF-32."""
    sample = head[:4096]
    has_option = "--encoding" in decoding.options
    for bom, encoding in _NOT_UTF8_BOMS:
        if head.startswith(bom):
            raise DataError(
                f"{name} begins with the byte-order mark of {encoding.upper()}, not UTF-8; "
                + (f"add --encoding {encoding}" if has_option else decoding.advice)
            )
    if sample.count(0) > 0.3 * len(sample):
        order = "le" if sample[1::2].count(0) > sample[0::2].count(0) else "be"
        advice = f"if it is UTF-16, add --encoding utf-16-{order}" if has_option else decoding.advice
        if has_option and decoding.offers_bytes:
            advice += "; if it is not text, read its bytes with --tokenizer byte"
        raise DataError(f"{name} has a zero in every second or third byte; {advice}")
