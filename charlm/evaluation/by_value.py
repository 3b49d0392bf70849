"""The evaluation of a model with conditions, overall and for the documents with each value."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from charlm.corpus.prepared import Corpus
from charlm.engine import Engine
from charlm.evaluation.losses import ProgressCallback, document_losses, no_progress
from charlm.evaluation.metrics import DocumentTally, Evaluation
from charlm.tokenizer.conditions import PrefixTracker, prefix_mask
from charlm.tokenizer.protocol import Ids, Tokenizer

_DOCUMENTS_AT_A_TIME = 1 << 12


def evaluate_by_value(
    engine: Engine,
    tokenizer: Tokenizer,
    blocks: Iterable[Ids],
    known: Collection[str],
    progress: ProgressCallback = no_progress,
) -> tuple[Evaluation, dict[str | None, Evaluation]]:
    """The evaluation of all documents, and by value of those whose condition is in ``known``; None has the others.

    Conditions are read, but neither predicted nor counted. Raises ``DataError`` if there is nothing to predict.
    """
    assert tokenizer.end_id is not None, "a model of documents"
    overall, tallies = DocumentTally(tokenizer), dict[str | None, DocumentTally]()
    splitter = _Splitter(tokenizer, known)
    for ids, nats in document_losses(engine, tokenizer.start_id, tokenizer.end_id, blocks, progress):
        values, value_N = splitter.values(ids)
        overall.add(ids[value_N >= 0], nats[value_N >= 0])
        for number, value in enumerate(values):
            chosen = value_N == number
            if value not in tallies:
                tallies[value] = DocumentTally(tokenizer)
            tallies[value].add(ids[chosen], nats[chosen])
    return overall.result(), {value: tally.result() for value, tally in tallies.items()}


class _Splitter:
    """Finds the values of consecutive ids of documents."""

    def __init__(self, tokenizer: Tokenizer, known: Collection[str]) -> None:
        self._tokenizer, self._known = tokenizer, known
        self._tracker = PrefixTracker(tokenizer)
        self._begun: Ids = np.zeros(0, np.int64)  # the value of a document that continues
        self._names = dict[bytes, str | None]()

    def values(self, ids: Ids) -> tuple[list[str | None], NDArray[np.int64]]:
        """The values in the next ids [N], and for each id the index of its value [N], -1 in a condition."""
        read_only = self._tracker.mask(ids)
        ends = np.flatnonzero(ids == self._tokenizer.end_id) + 1
        bounds = np.unique(np.concatenate([[0], ends, [len(ids)]]))
        found, value_N = dict[str | None, int](), np.full(len(ids), -1)
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            prefix = ids[start:stop][read_only[start:stop]]
            if len(prefix):
                self._begun = prefix
            value_N[start:stop] = found.setdefault(self._name(self._begun), len(found))
        value_N[read_only] = -1
        return list(found), value_N

    def _name(self, prefix: Ids) -> str | None:
        key = prefix.tobytes()
        if key not in self._names:
            value = self._tokenizer.decode(prefix)
            self._names[key] = value if value in self._known else None
        return self._names[key]


def documents_with_values(corpus: Corpus, split: str) -> Iterator[tuple[list[str], list[str]]]:
    """The values and the texts of the documents of a split, in lists, from the ids of ``corpus``."""
    ids, ends, tokenizer = corpus.ids(split), corpus.ends(split), corpus.tokenizer
    start = 0
    for first in range(0, len(ends), _DOCUMENTS_AT_A_TIME):
        stops = ends.read(first, min(first + _DOCUMENTS_AT_A_TIME, len(ends))).astype(np.int64)
        parts = np.split(ids.read(start, int(stops[-1])), stops - start)[:-1]
        cuts = [int(prefix_mask(tokenizer, part).sum()) for part in parts]
        yield (
            [tokenizer.decode(part[:cut]) for part, cut in zip(parts, cuts, strict=True)],
            [tokenizer.decode(part[cut:]) for part, cut in zip(parts, cuts, strict=True)],
        )
        start = int(stops[-1])
