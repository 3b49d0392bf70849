import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.corpus.documents import Piece, split_documents
from charlm.corpus.hashing import DocumentHasher
from charlm.corpus.padding import buckets, pad
from charlm.corpus.shuffling import shuffled

texts = st.text(alphabet="ab \t\n\n\r", max_size=16)
cuts = st.lists(st.integers(0, 16), max_size=4)


def blocks_of(text, cuts=()):
    codes = np.frombuffer(text.encode(), np.uint8)
    bounds = sorted({0, len(codes), *(cut for cut in cuts if cut < len(codes))})
    return [codes[a:b] for a, b in itertools.pairwise(bounds)]


def joined(pieces):
    """The documents in pieces."""
    found, begun = [], ""
    for codes, ends in pieces:
        whole, first = "".join(map(chr, codes.tolist())), 0
        for end in ends.tolist():
            found.append(begun + whole[first:end])
            begun, first = "", end
        begun += whole[first:]
    assert begun == ""
    return found


def found_in(text, document_kind, cuts=(), **options):
    return joined(split_documents([blocks_of(text, cuts)], document_kind, **options))


@settings(max_examples=500, deadline=None)
@given(texts, cuts)
def test_lines(text, cuts):
    lines = [line.removesuffix("\r") for line in text.split("\n")[:-1]] + [text.split("\n")[-1]]
    lines = lines if lines[-1] else lines[:-1]
    assert found_in(text, "lines", cuts, keep_empty=True) == lines
    assert found_in(text, "lines", cuts) == [line for line in lines if line]


@settings(max_examples=500, deadline=None)
@given(texts, cuts)
def test_blank_lines(text, cuts):
    expected, lines = [], []
    for line in [*text.split("\n"), ""]:
        if line.strip(" \t\r"):
            lines.append(line)
        elif lines:
            expected.append("\n".join(lines))
            lines = []
    found = found_in(text, "blank-lines", cuts)
    assert [document.rstrip(" \t\r") for document in found] == [document.rstrip(" \t\r") for document in expected]


def test_white_space_within_a_paragraph_is_kept():
    text = "\n\n  indented \r\n\tand so on\r\n\r\n \n\nsecond\n\n\n"
    assert found_in(text, "blank-lines") == ["  indented \r\n\tand so on", "second"]
    assert found_in("one\n\ntwo  ", "blank-lines") == ["one", "two  "]


@given(texts, cuts)
def test_a_file_is_one_document(text, cuts):
    assert found_in(text, "files", cuts, keep_empty=True) == [text]


def test_the_end_of_a_file_ends_a_document():
    for document_kind, expected in (("lines", ["a", "b"]), ("blank-lines", ["a", "b"]), ("files", ["a", "b"])):
        assert joined(split_documents([blocks_of("a"), blocks_of(""), blocks_of("b")], document_kind)) == expected


@settings(deadline=None)
@given(texts, cuts)
def test_fingerprints_are_equal_where_documents_are(text, cuts):
    def fingerprints(cuts):
        hasher = DocumentHasher()
        pieces = split_documents([blocks_of(text, cuts)], "lines", keep_empty=True)
        return [number for piece in pieces for number in hasher.update(piece).tolist()]

    documents = found_in(text, "lines", keep_empty=True)
    found = fingerprints(cuts)
    assert found == fingerprints(())
    assert [found.index(number) for number in found] == [documents.index(document) for document in documents]


def test_a_million_documents_have_a_million_fingerprints():
    text = "\n".join(map(str, range(1_000_000)))
    hasher = DocumentHasher()
    found = np.concatenate([hasher.update(piece) for piece in split_documents([blocks_of(text)], "lines")])
    assert len(np.unique(found)) == 1_000_000
    assert hasher.update(Piece(np.frombuffer(b"ab", np.uint8), np.array([1, 2]))).size == 2


@given(st.integers(1, 3000), st.integers(0, 2**63), st.integers(0, 100))
def test_a_shuffle_is_a_permutation(size, seed, epoch):
    found = shuffled(np.arange(size), size, seed, epoch)
    assert np.array_equal(np.sort(found), np.arange(size))
    some = np.arange(0, size, 7)
    assert np.array_equal(shuffled(some, size, seed, epoch), found[some])


def test_shuffles_look_random():
    size = 4096
    places = np.stack([shuffled(np.arange(size), size, 5, epoch) for epoch in range(200)])
    assert len({tuple(row) for row in places[:, :20]}) == 200
    correlations = [np.corrcoef(row, np.arange(size))[0, 1] for row in places]
    assert abs(np.mean(correlations)) < 0.01
    assert np.std(correlations) == pytest.approx(size**-0.5, rel=0.25)
    # The position of the first document is uniform: chi-squared over 16 bins.
    bins = np.bincount(places[:, 0] // 256, minlength=16)
    assert ((bins - 12.5) ** 2 / 12.5).sum() < 45


@given(st.lists(st.integers(0, 300), min_size=1, max_size=60), st.integers(1, 400), st.integers(1, 64))
def test_buckets_hold_every_document_once_and_no_chunk_is_too_large(lengths, size, span):
    lengths = np.array(lengths)
    batches = list(buckets(lengths, size, span))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert (np.diff(lengths[batch]) <= 0).all()
        assert len(batch) == 1 or len(batch) * min(max(1, lengths[batch[0]]), span) <= size


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_padding_is_marked(lengths):
    documents = [[10 * row + place + 1 for place in range(length)] for row, length in enumerate(lengths)]
    flat = np.concatenate(documents)
    inputs, targets, real = pad(flat, np.array(lengths), np.arange(len(lengths)) + 1000)
    for row, document in enumerate(documents):
        assert targets[real[:, row], row].tolist() == document
        assert inputs[: len(document), row].tolist() == [1000 + row, *document[:-1]]
    assert (targets[~real] == 0).all()


def test_only_line_feeds_end_lines():
    assert found_in("a\x0bb\x0cc\x1cd\re", "lines") == ["a\x0bb\x0cc\x1cd\re"]
