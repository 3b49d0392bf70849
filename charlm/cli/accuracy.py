"""How often ``charlm classify`` is right, on stderr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from charlm.cli.lines import escaped
from charlm.cli.output import say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from charlm.evaluation.classification import Classified, Confusion
    from charlm.language_model import LanguageModel

_MAX_MATRIX = 10
"""The most values of which all confusions are shown; of more, only the ``_MAX_PAIRS`` most frequent."""
_MAX_PAIRS = 5


class Accuracy:
    """Counts how often ``model`` finds the true value, and how many of the documents it was trained on."""

    def __init__(self, model: LanguageModel, split: str | None) -> None:
        from charlm.evaluation.classification import Confusion

        assert model.table is not None, "a model with conditions"
        self._confusion = Confusion(model.table.counts)
        self._given = model.table.given
        self._kind = model.tokenizer.kind
        self._split = split
        self._known = 0
        self._trained_on = None if split is not None else _fingerprints(model)

    def add(self, results: Iterable[tuple[Classified, str]]) -> None:
        """Add documents with their true values."""
        found = list(results)
        for classified, true_value in found:
            self._confusion.add(true_value, classified.value)
        if self._trained_on is not None and found:
            import numpy as np

            from charlm.corpus.hashing import DocumentHasher
            from charlm.corpus.tables import make_piece

            piece = make_piece([classified.text for classified, _ in found], self._kind)
            self._known += int(np.isin(DocumentHasher().update(piece), self._trained_on).sum())

    def report(self) -> None:
        """Say how often the most probable value is the true one, and which values are confused."""
        confusion = self._confusion
        if confusion.unknown:
            say(f"{confusion.unknown:,} documents have a {self._given} that the training text does not have")
        if not confusion.documents:
            return
        true = confusion.true_counts()
        most, count = true.most_common(1)[0]
        say(
            f"accuracy {confusion.accuracy:.4f} ± {confusion.standard_error:.4f} ({confusion.right:,} of "
            f"{confusion.documents:,}); always {escaped(most)}: {count / confusion.documents:.4f}"
        )
        for line in _confusions(confusion, self._given or ""):
            say(line)
        if self._known:
            say(f"{self._known:,} of these texts are in the training text, which makes it easier; see --split test")


def _fingerprints(model: LanguageModel) -> NDArray[np.uint64] | None:
    from charlm.corpus.prepared import find_corpus

    corpus = find_corpus(model.checkpoint.path)
    return None if corpus is None else corpus.fingerprints()


def _confusions(confusion: Confusion, given: str) -> Iterator[str]:
    true = confusion.true_counts()
    values = sorted({value for pair in confusion.counts for value in pair}, key=lambda value: (-true[value], value))
    if len(values) <= _MAX_MATRIX:
        yield f"rows: the true {given}, columns: the most probable one"
        yield from _matrix(confusion, values)
        return
    wrong = [(pair, number) for pair, number in confusion.counts.most_common() if pair[0] != pair[1]]
    for (value, found), number in wrong[:_MAX_PAIRS]:
        yield f"{number:,} of {true[value]:,} {escaped(value)} were taken for {escaped(found)}"


def _matrix(confusion: Confusion, values: Sequence[str]) -> Iterator[str]:
    names = [escaped(value)[:20] for value in values]
    width = max(map(len, names))
    cells = [[f"{confusion.counts[true, found]:,}" for found in values] for true in values]
    widths = [max(len(name), *(len(row[place]) for row in cells)) for place, name in enumerate(names)]
    for name, row in zip(["", *names], [names, *cells], strict=True):
        yield f"  {name:<{width}}  " + "  ".join(f"{cell:>{size}}" for cell, size in zip(row, widths, strict=True))
