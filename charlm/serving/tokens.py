"""Characters with their log-probabilities: what the API calls tokens.

A token is a character, with the byte tokenizer a byte. Log-probabilities are those of the evaluation engine, which
``charlm score`` uses, whatever precision generates: they are of the model's distribution, before temperature and the
other settings. A character that the model reads as several byte pieces has the sum of theirs. Shapes: N ids,
V vocabulary.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.engine import Engine, EngineState
from charlm.engine.ensemble import log_softmax
from charlm.tokenizer.characters import CharTokenizer
from charlm.tokenizer.documents import DocumentTokenizer
from charlm.tokenizer.protocol import Ids, Tokenizer

END, SEPARATOR = "<|endoftext|>", "<|separator|>"
"""Names of the ids without a text, among the alternatives."""
_MAX_VALUES = 1 << 21
"""Logits that are looked at in one step."""
_SURROGATE = re.compile("[\ud800-\udfff]")


class Token(NamedTuple):
    """A character, or a byte."""

    text: str
    logprob: float
    alternatives: dict[str, float]
    """The most likely names in its place and their log-probabilities."""
    character: int
    """The place in its text of the character that it is, or is part of."""


def token_names(tokenizer: Tokenizer) -> list[str]:
    r"""A distinct name for each id: its character, ``bytes:\xe2`` for a byte, or ``END`` or ``SEPARATOR``."""
    inner = tokenizer.inner if isinstance(tokenizer, DocumentTokenizer) else tokenizer
    if isinstance(inner, CharTokenizer):
        names = [inner.decode(np.array([id_])) for id_ in range(inner.vocabulary_size)]
        names[0] = "<unk>"  # SentencePiece's, which is never used
        for byte, id_ in enumerate(inner.byte_ids.tolist()):
            names[id_] = f"bytes:\\x{byte:02x}"
    else:
        names = [_byte_name(byte) for byte in range(inner.vocabulary_size)]
    return [*names, END, SEPARATOR][: tokenizer.vocabulary_size]


def _byte_name(byte: int) -> str:
    return chr(byte) if byte < 0x80 else f"bytes:\\x{byte:02x}"


def plain(text: str) -> str:
    """``text`` for JSON: bytes that are not UTF-8, which are surrogates, become U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)


class TokenReader:
    """Reads the ids of one text with the evaluation engine, and keeps the tokens until they are taken."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, names: list[str], alternatives: int) -> None:
        self._engine, self._tokenizer, self._names, self._count = engine, tokenizer, names, alternatives
        self._chunk = max(1, min(256, _MAX_VALUES // tokenizer.vocabulary_size))
        self._logits_1V: NDArray[np.float32]
        self._state: EngineState
        self._logits_1V, self._state = engine.step(np.full(1, tokenizer.start_id), engine.initial_state(1))
        self._logprobs: deque[float] = deque()
        self._alternatives: deque[dict[str, float]] = deque()

    def fork(self) -> TokenReader:
        """Another reader that has read the same, for another continuation."""
        other = TokenReader.__new__(TokenReader)
        other.__dict__.update(self.__dict__)
        other._logprobs, other._alternatives = deque(self._logprobs), deque(self._alternatives)
        return other

    def skip(self, ids: Ids) -> Iterable[None]:
        """Read ids that are no tokens, such as a prompt that is not part of the answer; an item for each chunk."""
        for chunk in self._chunks(ids):
            logits_N1V, self._state = self._engine.forward(chunk[:, None], self._state)
            self._logits_1V = logits_N1V[-1]
            yield

    def read(self, ids: Ids) -> Iterable[None]:
        """Read ids and keep their tokens; an item for each chunk."""
        for chunk in self._chunks(ids):
            logits_N1V, self._state = self._engine.forward(chunk[:, None], self._state)
            before_NV = np.concatenate([self._logits_1V, logits_N1V[:-1, 0]])
            self._logits_1V = logits_N1V[-1]
            self._keep(chunk, log_softmax(before_NV))
            yield

    def _chunks(self, ids: Ids) -> Iterable[NDArray[np.int64]]:
        wide = np.asarray(ids).astype(np.int64)
        return (wide[start : start + self._chunk] for start in range(0, len(wide), self._chunk))

    def _keep(self, ids: NDArray[np.int64], log_NV: NDArray[np.float64]) -> None:
        chosen = log_NV[np.arange(len(ids)), ids].tolist()
        starts = self._tokenizer.starts_character[ids].tolist()
        best = self._best(log_NV) if self._count else [dict[str, float]()] * len(ids)
        for id_, logprob, begins, alternatives in zip(ids.tolist(), chosen, starts, best, strict=True):
            if begins or not self._logprobs:
                self._logprobs.append(logprob)
                self._alternatives.append({**alternatives, self._names[id_]: logprob})
            else:
                self._logprobs[-1] += logprob

    def _best(self, log_NV: NDArray[np.float64]) -> list[dict[str, float]]:
        order = np.argsort(-log_NV, axis=1, kind="stable")[:, : self._count]
        values = np.take_along_axis(log_NV, order, axis=1)
        return [
            {self._names[id_]: value for id_, value in zip(ids, row, strict=True)}
            for ids, row in zip(order.tolist(), values.tolist(), strict=True)
        ]

    def take(self, text: str) -> list[Token]:
        """The tokens of the next characters, which are ``text``."""
        if self._tokenizer.kind == "byte":
            data = [character.encode("utf-8", "surrogateescape") for character in text]
            names = [(_byte_name(byte), place) for place, part in enumerate(data) for byte in part]
        else:
            names = [(character, place) for place, character in enumerate(text)]
        return [Token(name, self._logprobs.popleft(), self._alternatives.popleft(), place) for name, place in names]
