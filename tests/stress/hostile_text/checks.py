"""Checks of every refusal, evaluation and corpus."""

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
"""Relative: the same sum in another order in single precision."""


def check_message(error: CharlmError) -> None:
    """Raise unless the error is one line that says what is wrong and what to do."""
    message = str(error)
    assert error.exit_code in (2, 65, 66), (error.exit_code, message)
    assert "\n" not in message, f"more than one line: {message!r}"
    _, semicolon, advice = message.partition(";")
    assert semicolon and advice.strip(), f"no advice: {message!r}"


_EXPECTED_REFUSALS = (
    "is empty", "no character", "zero in every second", "begins with the byte-order mark of", "one distinct character",
    "use a text of at least", "--documents",
)  # fmt: skip


def check_refusal(error: CharlmError) -> None:
    """Check that a text that can be decoded is refused for a valid reason only."""
    assert any(reason in str(error) for reason in _EXPECTED_REFUSALS), f"refused without a valid reason: {error}"


class Approximately(float):
    """A number that equals all numbers close to it."""

    __hash__ = float.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and math.isclose(self, other, rel_tol=TOLERANCE, abs_tol=1e-4)


def as_bytes(text: str) -> bytes:
    """The bytes of a text whose surrogate escapes are bytes that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def length_of(text: str, kind: str) -> int:
    """The length of a text in the characters of a kind of tokenizer."""
    return len(text) if kind == "char" else len(as_bytes(text))


def expected_start(prompt: bytes, model: Model, piped: bool = False) -> bytes:
    """The start of a text that continues ``prompt``; one of a document, or from a pipe, has no final line end."""
    if model.documents is not None:
        return without_line_end(without_line_end(prompt) if piped and prompt.endswith(b"\n") else prompt)
    return without_line_end(prompt) if piped and prompt.endswith(b"\n") else prompt


def without_line_end(prompt: bytes) -> bytes:
    """A prompt without its final line end."""
    return prompt.removesuffix(b"\n").removesuffix(b"\r")


def without_files(scored: bytes) -> list[dict[str, Any]]:
    """Scores without the names of files, which a pipe does not have."""
    return [{**json.loads(line), "file": None} for line in scored.splitlines()]


def check_evaluation(evaluated: dict[str, Any], scored: bytes, model: Model, form: str, text: str) -> None:
    """Check that the evaluation is the sum of the scores."""
    rows = [json.loads(line) for line in scored.splitlines()]
    if form != (model.documents or "files"):
        return
    if model.documents is None:
        assert evaluated["characters"] == length_of(text, model.kind)
    else:  # an empty document has a score, but is not evaluated
        rows = [row for row in rows if row["characters"] > 1]
        assert evaluated["documents"] == len(rows)
    assert evaluated["characters"] == sum(row["characters"] for row in rows)
    nats = evaluated["nats_per_char"] * evaluated["characters"]
    assert nats == Approximately(-math.fsum(row["log_probability"] for row in rows)), "the scores do not add up"


def check_corpus(run: Path, text: str, kind: str, form: str | None) -> None:
    """Check that the validation and test parts hold exactly the characters of the text."""
    corpus = open_corpus(run / "corpus")
    held = {name: corpus.ids(name).read(0, corpus.sizes[name].ids) for name in ("valid", "test")}
    if form is None:
        codes = text if kind == "char" else as_bytes(text)
        begin = round(len(codes) * 0.6)
        decoded = "".join(corpus.tokenizer.decode(ids) for ids in held.values())
        assert as_bytes(decoded) == as_bytes(codes[begin:]) if kind == "char" else as_bytes(decoded) == codes[begin:]
        return
    expected = Counter(as_bytes(document) for document in documents_of(text, form, kind) if document)
    found: Counter[bytes] = Counter()
    for ids in held.values():
        ends = np.flatnonzero(ids == corpus.tokenizer.end_id)
        found.update(as_bytes(corpus.tokenizer.decode(part)) for part in np.split(ids, ends + 1) if len(part))
    assert found <= expected, "a held-out document is not in the text"
    total = sum(corpus.sizes[name].documents for name in ("train", "valid", "test"))
    assert total == sum(expected.values()), (total, sum(expected.values()))
