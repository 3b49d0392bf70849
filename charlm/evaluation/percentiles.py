"""How unusual a document is beside held-out ones of about its length.

Bits per character scatter more in short documents than in long ones, so a limit on them would mostly find short
documents. Here the bits per character of held-out documents are kept as quantiles, by length. A document at the 99th
percentile has more bits per character than 99 % of the held-out documents of about its length.

For a model of running text, the documents are the lines of the held-out text. Shapes: D documents, Q levels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.checkpoint.step import CONFIG, Checkpoint
from charlm.corpus.prepared import Corpus, find_corpus
from charlm.engine import Engine
from charlm.errors import DataError, MissingInputError
from charlm.evaluation.losses import batched_document_losses
from charlm.tokenizer.conditions import prefix_mask
from charlm.tokenizer.protocol import Ids, Tokenizer

LEVELS = (0.0, 1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 100.0)
"""The levels of the quantiles, in percent."""
MAX_IDS = 131_072
"""How much of the held-out text is measured."""
MIN_DOCUMENTS = 20
_GROUP_DOCUMENTS = 200
"""A group has at least so many, if there are enough."""
_MAX_CHARACTERS = 2**53


@dataclass(frozen=True)
class LengthGroup:
    """The held-out documents of some lengths: more characters than the group before, at most ``max_characters``."""

    max_characters: int
    documents: int
    bits_per_char_Q: tuple[float, ...]
    """The quantiles at ``LEVELS``, ascending."""


@dataclass(frozen=True)
class Percentiles:
    """The quantiles of held-out documents. A document longer than all of them belongs to the last of ``groups``."""

    groups: tuple[LengthGroup, ...]

    @property
    def documents(self) -> int:
        """How many documents were measured."""
        return sum(group.documents for group in self.groups)

    def of(self, bits_per_char: float, characters: int) -> float:
        """The percentile, 0 to 100, of a document with that many characters, its end marker included."""
        group = next((group for group in self.groups if characters <= group.max_characters), self.groups[-1])
        return float(np.interp(bits_per_char, group.bits_per_char_Q, LEVELS))

    def as_dict(self) -> dict[str, Any]:
        """The value of ``percentiles`` in config.json."""
        groups = [
            {"max_characters": g.max_characters, "documents": g.documents, "bits_per_char": list(g.bits_per_char_Q)}
            for g in self.groups
        ]
        return {"levels": list(LEVELS), "groups": groups}

    @classmethod
    def from_dict(cls, values: Any, where: str) -> Percentiles:
        """From the value of ``percentiles`` in the file ``where``. Raises ``DataError``."""
        try:
            if values["levels"] != list(LEVELS):
                raise ValueError("other levels")
            groups = tuple(_group(described) for described in values["groups"])
            if not groups or any(a.max_characters >= b.max_characters for a, b in itertools.pairwise(groups)):
                raise ValueError("groups out of order")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{where}: the percentiles are damaged ({error!r:.60}); use another step") from None
        return cls(groups)


def _group(described: Any) -> LengthGroup:
    quantiles = [float(value) for value in described["bits_per_char"]]
    longest, documents = described["max_characters"], described["documents"]
    if len(quantiles) != len(LEVELS) or quantiles != sorted(quantiles) or not all(map(math.isfinite, quantiles)):
        raise ValueError("quantiles out of order")
    if not all(type(count) is int and 0 < count < _MAX_CHARACTERS for count in (longest, documents)):
        raise ValueError("a count is not a positive integer")
    return LengthGroup(longest, documents, tuple(quantiles))


def checkpoint_percentiles(checkpoint: Checkpoint, engine: Engine, tokenizer: Tokenizer) -> Percentiles:
    """Those in ``checkpoint``; if it has none, they are measured on its corpus.

    Raises ``MissingInputError`` where it has neither, and where the corpus has too few held-out documents, and
    ``DataError`` where they are damaged.
    """
    kept, path = checkpoint.config.get("percentiles"), checkpoint.path
    if kept is not None:
        return Percentiles.from_dict(kept, str(path / CONFIG))
    corpus = find_corpus(path)
    if corpus is None or corpus.tokenizer.description() != tokenizer.description():
        raise MissingInputError(
            f"{path} has neither percentiles of held-out documents nor its corpus; use the run it came from"
        )
    measured = measure_percentiles(engine, tokenizer, corpus)
    if measured is None:
        raise MissingInputError(
            f"{corpus.folder} has fewer than {MIN_DOCUMENTS} held-out documents, too few for percentiles; train with "
            "more text, or with a larger part for validation (--split)"
        )
    return measured


def measure_percentiles(
    engine: Engine,
    tokenizer: Tokenizer,
    corpus: Corpus,
    stop: Callable[[], bool] = lambda: False,
    max_ids: int = MAX_IDS,
) -> Percentiles | None:
    """The percentiles of a model, measured on the validation text of ``corpus``, or on its test text without one.

    At most ``max_ids`` ids are read. None where these have fewer than ``MIN_DOCUMENTS``, where a loss is not finite,
    and once ``stop()`` is true.
    """
    ids, ends = _held_out_documents(corpus, tokenizer, max_ids)
    if len(ends) < MIN_DOCUMENTS:
        return None

    class StoppedError(Exception):
        pass

    def check(count: int) -> None:
        if stop():
            raise StoppedError

    try:
        nats = batched_document_losses(engine, tokenizer.start_id, ids, ends, check).astype(np.float64)
    except StoppedError:
        return None
    predicted = ~prefix_mask(tokenizer, ids)  # without the conditions
    nats_D = np.diff(np.append(0.0, np.cumsum(nats * predicted))[np.append(0, ends)])
    starts = tokenizer.starts_character[ids] & predicted
    characters_D = np.diff(np.append(0, np.cumsum(starts))[np.append(0, ends)])
    return None if not np.isfinite(nats_D).all() else _grouped(nats_D / characters_D / math.log(2), characters_D)


def _grouped(bits_per_char_D: NDArray[np.float64], characters_D: NDArray[np.int64]) -> Percentiles:
    """Groups of similar lengths, within a factor of the square root of 2 unless there are too few documents."""
    step_D = np.floor(2 * np.log2(characters_D)).astype(np.int64)
    counts = np.bincount(step_D)
    groups, first, waiting = [], 0, 0
    rest = len(step_D)
    for step, count in enumerate(counts.tolist()):
        waiting, rest = waiting + count, rest - count
        if waiting and (rest == 0 or min(waiting, rest) >= _GROUP_DOCUMENTS):
            inside_D = (step_D >= first) & (step_D <= step)
            quantiles = np.maximum.accumulate(np.quantile(bits_per_char_D[inside_D], np.array(LEVELS) / 100))
            groups.append(LengthGroup(int(characters_D[inside_D].max()), waiting, tuple(quantiles.tolist())))
            first, waiting = step + 1, 0
    return Percentiles(tuple(groups))


def _held_out_documents(corpus: Corpus, tokenizer: Tokenizer, max_ids: int) -> tuple[Ids, NDArray[np.int64]]:
    """Ids of held-out documents, and the index after each; of running text, its lines without line ends."""
    split = "valid" if corpus.sizes["valid"].ids else "test"
    ids = corpus.ids(split).read(0, min(corpus.sizes[split].ids, max_ids)).astype(np.int64)
    if tokenizer.end_id is not None:
        ends = np.flatnonzero(ids == tokenizer.end_id) + 1
        return ids[: ends[-1] if len(ends) else 0], ends
    is_end = ids == tokenizer.encode("\n")[0]
    line_ends = np.flatnonzero(is_end)
    ids = ids[: line_ends[-1] if len(line_ends) else 0]
    ends = np.unique(line_ends - np.arange(len(line_ends)))
    return ids[~is_end[: len(ids)]], ends[ends > 0]
