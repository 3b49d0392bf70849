"""Byte fallback in the training text, so that the model learns what byte pieces are.

Every character of the training text has an id, so without this the byte pieces would never be trained, and unknown
characters would get random predictions. Therefore a rare character is encoded as bytes in about one of its occurrences,
and one character in ``UNKNOWN_INTERVAL`` is replaced by a random character of Unicode, also encoded as bytes.
Validation and test text are not changed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from charlm.tokenizer.protocol import Codes, Ids, Tokenizer

RARE_COUNT = 20
"""A character with at most this many occurrences is rare."""
UNKNOWN_INTERVAL = 10_000
# Ranges of the characters that users' prompts bring: accents, other alphabets, punctuation, symbols, CJK, emoji.
_UNICODE_RANGES = (
    (0x20, 0x7F), (0xA0, 0x180), (0xC0, 0x100), (0x370, 0x530), (0x2010, 0x2030), (0x20A0, 0x2600),
    (0x3040, 0x3100), (0x4E00, 0x9FFF), (0x1F300, 0x1F650),
)  # fmt: skip
_RANDOM_KEY = 0xC4A71


def fallback_rates(counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """[codes] the probability that a character is encoded as bytes, from the counts of the training text.

    A rare character is encoded as bytes about once, and in at most half of its occurrences.
    """
    rates = np.zeros(len(counts), np.float32)
    rare = (counts > 0) & (counts <= RARE_COUNT)
    rates[rare] = np.minimum(0.5, 1.0 / counts[rare])
    return rates


def encode_with_fallback(
    codes: Codes,
    tokenizer: Tokenizer,
    rates: NDArray[np.float32],
    block: int,
    fixed: NDArray[np.bool_] | None = None,
) -> Ids:
    """Ids of block number ``block`` of the training text, some characters encoded as bytes and a few replaced.

    Codes where ``fixed`` is true, those of conditions, stay as they are.
    """
    random = np.random.Generator(np.random.Philox(key=[_RANDOM_KEY, block]))
    in_bytes = np.zeros(len(codes), np.bool_)
    rare = _rare(codes, rates) if fixed is None else _rare(np.where(fixed, 0, codes), rates)
    if fixed is not None:
        rare = rare[~fixed[rare]]
    in_bytes[rare] = random.random(len(rare)) < rates[codes[rare]]
    replaced = (
        random.integers(len(codes), size=random.binomial(len(codes), 1.0 / UNKNOWN_INTERVAL)) if len(codes) else rare
    )
    if fixed is not None:
        replaced = replaced[~fixed[replaced]]
    if len(replaced):
        codes = codes.astype(np.uint32)
        codes[replaced] = _random_unicode(random, len(replaced))
        in_bytes[replaced] = True
    return tokenizer.encode_codes(codes, in_bytes)


def _rare(codes: Codes, rates: NDArray[np.float32]) -> NDArray[np.int64]:
    """Where ``codes`` have a rate."""
    if not rates[: int(codes.max(initial=0)) + 1].any():  # as in most blocks of ASCII
        return np.zeros(0, np.int64)
    return np.flatnonzero(rates.take(codes) > 0)


def _random_unicode(random: np.random.Generator, count: int) -> NDArray[np.uint32]:
    ranges = np.array(_UNICODE_RANGES)[random.integers(len(_UNICODE_RANGES), size=count)]
    return random.integers(ranges[:, 0], ranges[:, 1], dtype=np.uint32)
