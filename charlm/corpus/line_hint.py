"""Whether a running text looks like many small texts, one on each line, such as names or log entries."""

from __future__ import annotations

import re
from collections import Counter

from charlm.corpus.prepared import Corpus

_SAMPLE_IDS = 1 << 16
_MIN_LINES = 100
_SHORT, _LONGEST = 25, 60
_SHAPE, _SAME_SHAPE = 12, 0.5


def looks_like_lines(corpus: Corpus) -> bool:
    """Whether the training text has no blank lines, and lines that are all short or begin in the same form.

    A form is where digits, letters and other characters are, as in the times of a log.
    """
    if corpus.tokenizer.document_kind is not None:
        return False
    ids = corpus.ids("train").read(0, min(corpus.sizes["train"].ids, _SAMPLE_IDS))
    lines = corpus.tokenizer.decode(ids).splitlines()[:-1]
    if len(lines) < _MIN_LINES or sum(not line.strip() for line in lines) > 0.01 * len(lines):
        return False
    lengths = sorted(map(len, lines))
    if sum(lengths) <= _SHORT * len(lengths) and lengths[int(0.95 * len(lengths))] <= _LONGEST:
        return True
    ((_, count),) = Counter(_shape(line) for line in lines).most_common(1)
    return count >= _SAME_SHAPE * len(lines)


def _shape(line: str) -> str:
    return re.sub(r"[^\W\d_]", "a", re.sub(r"\d", "0", line[:_SHAPE]))
