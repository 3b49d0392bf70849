"""What must be true of every refusal, evaluation and corpus."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from charlm.corpus.prepared import open_corpus
from charlm.errors import CharlmError
from stress.hostile_text.inputs import documents_of
from stress.hostile_text.models import Model

TOLERANCE = 1e-4
"""Relative: the same sum, taken in another order in single precision."""


def check_told(error: CharlmError) -> None:
    """Raises unless the error is one line that says what is wrong and what to do."""
    said = str(error)
    assert error.exit_code in (2, 65, 66), (error.exit_code, said)
    assert "\n" not in said, f"more than one line: {said!r}"
    _, semicolon, advice = said.partition(";")
    assert semicolon and advice.strip(), f"no advice: {said!r}"


_FAIR_REFUSALS = (
    "is empty", "no character", "zero in every second", "begins with the mark of", "one distinct character",
    "too few to learn from", "--documents",
)  # fmt: skip


def check_refusal(error: CharlmError) -> None:
    """A text that can be decoded is refused for a few reasons only."""
    assert any(reason in str(error) for reason in _FAIR_REFUSALS), f"refused without need: {error}"


class About(float):
    """A number that equals its neighbours."""

    __hash__ = float.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and math.isclose(self, other, rel_tol=TOLERANCE, abs_tol=1e-4)


def as_bytes(text: str) -> bytes:
    """The bytes of a text, in which bytes that are no UTF-8 are surrogate escapes."""
    return text.encode("utf-8", "surrogateescape")


def length_of(text: str, kind: str) -> int:
    """In what a tokenizer kind takes for characters."""
    return len(text) if kind == "char" else len(as_bytes(text))


def beginning_of(prompt: bytes, model: Model) -> bytes:
    """What a text that goes on from ``prompt`` begins with; a document has no line end behind it."""
    return prompt if model.documents is None else prompt.removesuffix(b"\n").removesuffix(b"\r")


def check_evaluation(evaluated: dict[str, Any], scored: bytes, model: Model, form: str, text: str) -> None:
    """What was evaluated is the sum of what was scored."""
    rows = [json.loads(line) for line in scored.splitlines()]
    if form != (model.documents or "files"):
        return
    if model.documents is None:
        assert evaluated["characters"] == length_of(text, model.kind)
    else:  # a document without a character has a score, but is none that is evaluated
        rows = [row for row in rows if row["characters"] > 1]
        assert evaluated["documents"] == len(rows)
    assert evaluated["characters"] == sum(row["characters"] for row in rows)
    nats = evaluated["nats_per_char"] * evaluated["characters"]
    assert nats == About(-math.fsum(row["log_probability"] for row in rows)), "the scores do not make the evaluation"


def check_corpus(run: Path, text: str, kind: str, form: str | None) -> None:
    """What was held out is, character by character, in the text."""
    corpus = open_corpus(run / "corpus")
    held = {name: corpus.ids(name).read(0, corpus.sizes[name].ids) for name in ("valid", "test")}
    if form is None:
        codes = text if kind == "char" else as_bytes(text)
        begin = round(len(codes) * 0.6)
        decoded = "".join(corpus.tokenizer.decode(ids) for ids in held.values())
        assert as_bytes(decoded) == as_bytes(codes[begin:]) if kind == "char" else as_bytes(decoded) == codes[begin:]
        return
    expected = Counter(as_bytes(document) for document in documents_of(text, form) if document)
    found: Counter[bytes] = Counter()
    for ids in held.values():
        ends = np.flatnonzero(ids == corpus.tokenizer.end_id)
        found.update(as_bytes(corpus.tokenizer.decode(part)) for part in np.split(ids, ends + 1) if len(part))
    assert found <= expected, "a held-out document is not in the text"
    total = sum(corpus.sizes[name].documents for name in ("train", "valid", "test"))
    assert total == sum(expected.values()), (total, sum(expected.values()))
