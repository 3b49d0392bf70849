import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.corpus.documents import split_documents

texts = st.text(alphabet="ab \t\n\n\r", max_size=16)
cuts = st.lists(st.integers(0, 16), max_size=4)


def blocks_of(text, cuts=()):
    codes = np.frombuffer(text.encode(), np.uint8)
    bounds = sorted({0, len(codes), *(cut for cut in cuts if cut < len(codes))})
    return [codes[a:b] for a, b in itertools.pairwise(bounds)]


def joined(pieces):
    """The documents in pieces."""
    found, carried = [], ""
    for codes, ends in pieces:
        whole, first = "".join(map(chr, codes.tolist())), 0
        for end in ends.tolist():
            found.append(carried + whole[first:end])
            carried, first = "", end
        carried += whole[first:]
    assert carried == ""
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


def test_only_line_feeds_end_lines():
    assert found_in("a\x0bb\x0cc\x1cd\re", "lines") == ["a\x0bb\x0cc\x1cd\re"]
