import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.corpus.hashing import DocumentHasher
from charlm.corpus.pieces import Piece

documents = st.lists(st.text(alphabet="ab", max_size=4), max_size=8)
cuts = st.lists(st.integers(0, 32), max_size=4)


def fingerprints_of(documents, cuts=()):
    """The fingerprints of documents that are given in pieces cut at ``cuts``."""
    codes = np.frombuffer("".join(documents).encode(), np.uint8)
    ends = np.cumsum([len(document) for document in documents], dtype=np.int64)
    hasher, found, start = DocumentHasher(), [], 0
    for stop in [*sorted(cut for cut in cuts if cut < len(codes)), len(codes)]:
        last = stop == len(codes)
        within = (ends >= start) & ((ends <= stop) if last else (ends < stop))
        found += hasher.update(Piece(codes[start:stop], ends[within] - start)).tolist()
        start = stop
        if last:
            return found
    return found


@settings(deadline=None)
@given(documents, cuts)
def test_fingerprints_are_equal_where_documents_are(documents, cuts):
    found = fingerprints_of(documents, cuts)
    assert found == fingerprints_of(documents)
    assert [found.index(number) for number in found] == [documents.index(document) for document in documents]


def test_a_million_documents_have_a_million_fingerprints():
    assert len(set(fingerprints_of(list(map(str, range(1_000_000)))))) == 1_000_000
