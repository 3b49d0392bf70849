import itertools
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from charlm.corpus import document_starts
from charlm.corpus.documents import split_documents
from charlm.corpus.pieces import without_invalid
from charlm.errors import UsageError
from charlm.tokenizer.documents import compile_start
from charlm.tokenizer.protocol import code_points

texts = st.text(alphabet="ab \t\n\n\r", max_size=16)
odd_texts = st.text(alphabet="ab\u00e9 \t\n\n\r\r\u2028\u2029\u00a0\u3000\x0c\x85", max_size=16)
cuts = st.lists(st.integers(0, 16), max_size=4)


def blocks_of(text, cuts=()):
    bounds = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    return [code_points(text[a:b], marked=True) for a, b in itertools.pairwise(bounds)]


def joined(pieces):
    """The documents in pieces."""
    return [document for document, _ in placed(pieces)]


def placed(pieces):
    """The documents in pieces, each with the line on which it begins."""
    found, carried = [], ""
    for codes, ends, places in pieces:
        whole, first = "".join(map(chr, codes.tolist())), 0
        lines = [0] * len(ends) if places is None else places[1].tolist()
        for end, line in zip(ends.tolist(), lines, strict=True):
            found.append((carried + whole[first:end], line))
            carried, first = "", end
        carried += whole[first:]
    assert carried == ""
    return found


def found_in(text, document_kind, cuts=(), **options):
    return joined(split_documents([blocks_of(text, cuts)], document_kind, **options))


def placed_in(text, document_kind, cuts=(), **options):
    return placed(split_documents([blocks_of(text, cuts)], document_kind, **options))


def lines_of(text):
    """A simple reference: the lines of a text without their ends, and the ends."""
    mac = "\r" in text and "\n" not in text
    parts = re.split("(\r\n|\n|\u2028|\u2029" + ("|\r)" if mac else ")"), text)
    lines = list(zip(parts[::2], [*parts[1::2], ""], strict=True))
    return lines if lines[-1][0] else lines[:-1]


@settings(max_examples=500, deadline=None)
@given(texts, cuts)
def test_lines(text, cuts):
    lines = [line for line, _ in lines_of(text)]
    assert found_in(text, "lines", cuts, keep_empty=True) == lines
    assert found_in(text, "lines", cuts) == [line for line in lines if line]


@settings(max_examples=500, deadline=None)
@given(odd_texts, cuts)
@example("a\rb\r", [2])
@example("a\r\nb\rc", [2])
@example("a\u2028b\u2029\u00a0", [1, 2])
def test_unusual_line_ends(text, cuts):
    lines = [line for line, _ in lines_of(text)]
    expected = [(line, number) for number, line in enumerate(lines, start=1)]
    assert placed_in(text, "lines", cuts, keep_empty=True) == expected


def test_carriage_returns_end_lines_only_without_line_feeds():
    assert found_in("emma\rolivia\rzoe\r", "lines") == ["emma", "olivia", "zoe"]
    assert found_in("10%\r50%\r100%\ndone\n", "lines") == ["10%\r50%\r100%", "done"]
    assert found_in("a\x0bb\x0cc\x1cd\n", "lines") == ["a\x0bb\x0cc\x1cd"]


def test_line_ends_are_decided_by_a_bounded_part_of_the_text(monkeypatch):
    monkeypatch.setattr("charlm.corpus.lines.MAX_MAC_LINE", 5)
    for cuts in ([], [2], [3, 7]):
        assert found_in("ab\rcdefg\nh", "lines", cuts) == ["ab", "cdefg", "h"]  # the line feed comes too late
        assert found_in("ab\rcdef\nh", "lines", cuts) == ["ab\rcdef", "h"]


@settings(max_examples=500, deadline=None)
@given(odd_texts, cuts)
@example("a\r \rb\r", [2])
@example("a\n\u00a0\nb\n\x0c\n\u3000\nc", [])
@example("\r\na\r\n\r\nb", [3])
def test_blank_lines(text, cuts):
    expected, paragraph, begin = [], "", 1
    lines = lines_of(text)
    for number, (line, end) in enumerate([*lines, ("", "")], start=1):
        if line.strip():
            begin = begin if paragraph else number
            paragraph += line + end
            kept = len(paragraph) - len(end)
        elif paragraph:
            # The white space at the end of a text is a part of its last line, if that has no end.
            expected.append((paragraph[:kept], begin))
            paragraph = ""
    assert placed_in(text, "blank-lines", cuts) == expected


def test_white_space_within_a_paragraph_is_kept():
    text = "\n\n  indented \r\n\tand so on\r\n\r\n \n\nsecond\n\n\n"
    assert found_in(text, "blank-lines") == ["  indented \r\n\tand so on", "second"]
    assert found_in("one\n\ntwo  ", "blank-lines") == ["one", "two  "]


def test_bytes_beyond_ascii_are_not_white_space():
    data = b"a\n\n\xc3\xa0\n\x85\xa0\nb"
    documents = split_documents([[np.frombuffer(data, np.uint8)]], "blank-lines")
    assert [bytes(map(ord, document)) for document in joined(documents)] == [b"a", b"\xc3\xa0\n\x85\xa0\nb"]


@given(texts, cuts)
def test_a_file_is_one_document(text, cuts):
    assert found_in(text, "files", cuts, keep_empty=True) == [text]


def test_the_end_of_a_file_ends_a_document():
    for document_kind in ("lines", "blank-lines", "files", "start"):
        files = [blocks_of("a"), blocks_of(""), blocks_of("b")]
        assert joined(split_documents(files, document_kind, start="^x")) == ["a", "b"]


def test_places_count_documents_and_name_their_files():
    pieces = list(split_documents([blocks_of("a\n\nb\n"), blocks_of("c")], "lines", keep_empty=True))
    places = np.concatenate([piece.places for piece in pieces], axis=1)
    assert places.tolist() == [[1, 2, 3, 4], [1, 2, 3, 1], [0, 0, 0, 1]]
    pieces = split_documents([blocks_of("a\n\nb\n"), blocks_of("c")], "lines")
    assert np.concatenate([piece.places for piece in pieces], axis=1)[0].tolist() == [1, 3, 4]


# ---------------------------------------------------------------------------------------------------- starts

LOG = "2024 start\n  at f\n  at g\n2024 next\r\n2024 last\n  more 2024\n\n"


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet="abbé \n\n\r\u2028", max_size=24), st.lists(st.integers(0, 24), max_size=5))
@example("xa\nb\n", [])
def test_documents_that_begin_at_a_line(text, cuts):
    expected, current, begin = [], None, 1
    for number, (line, end) in enumerate(lines_of(text), start=1):
        if current is None or "b" in line:
            expected += [] if current is None else [(current[0], begin)]
            current, begin = ["", ""], number
        current = [current[0] + current[1] + line, end]
    expected += [] if current is None else [(current[0], begin)]
    expected = [(document, line) for document, line in expected if document]
    assert placed_in(text, "start", cuts, start="b") == expected


def test_log_entries_keep_their_stack_traces():
    for cuts in ([], [5], range(0, len(LOG), 3)):
        expected = ["2024 start\n  at f\n  at g", "2024 next", "2024 last\n  more 2024\n"]
        assert found_in(LOG, "start", cuts, start="^[0-9]{4}") == expected
        assert found_in("head\n" + LOG, "start", cuts, start="^[0-9]{4}") == ["head", *expected]
    assert found_in(LOG, "start", start="nowhere") == [LOG.removesuffix("\n")]


def test_only_the_beginning_of_a_long_line_is_searched(monkeypatch):
    monkeypatch.setattr(document_starts, "MAX_SEARCHED", 4)
    text = "b\naaaaab\naaab\naa\r\naaaaaaaaaaaa"
    for cuts in ([], [3], [6, 9], range(len(text))):
        assert found_in(text, "start", cuts, start="b") == ["b\naaaaab", "aaab\naa\r\naaaaaaaaaaaa"]


def test_a_long_line_is_not_held_back(monkeypatch):
    monkeypatch.setattr(document_starts, "MAX_SEARCHED", 4)
    pieces = split_documents([blocks_of("a\n" + "b" * 40, range(2, 42, 4))], "start", start="b")
    assert max(len(piece.codes) for piece in pieces) < 10


def test_expressions_are_searched_in_the_text_of_bytes():
    data = np.frombuffer("é1\nx\né2\n".encode(), np.uint8)
    found = joined(split_documents([[data]], "start", start="^é"))
    assert [bytes(map(ord, document)).decode() for document in found] == ["é1\nx", "é2"]


@pytest.mark.parametrize("expression", ["", "(", "*", "a" * 1001, "(" * 900, "[[a]"])
def test_expressions_that_are_none(expression):
    if expression == "[[a]":  # a warning of Python's, but usable
        assert compile_start(expression).search("[")
        return
    with pytest.raises(UsageError, match="--document-start"):
        compile_start(expression)


# ---------------------------------------------------------------------------------------------------- streams of pieces


@settings(deadline=None)
@given(st.text(alphabet="ab\u00e9\udfff\n", max_size=30), st.lists(st.integers(0, 30), max_size=5))
def test_invalid_documents_are_left_out(text, cuts):
    lines = [(line, number) for number, line in enumerate(text.split("\n"), start=1)]
    lines = lines if lines[-1][0] else lines[:-1]
    pieces = split_documents([blocks_of(text, cuts)], "lines", keep_empty=True)
    assert placed(without_invalid(pieces)) == [(line, number) for line, number in lines if "\udfff" not in line]


def test_small_pieces_are_merged(monkeypatch):
    monkeypatch.setattr("charlm.corpus.pieces._SMALL_CODES", 4)
    monkeypatch.setattr("charlm.corpus.pieces._MERGED_CODES", 7)
    texts = ["a", "bc\n", "", "large one\nd", "e", "f\ng", "hijk", "l"]
    files = [blocks_of(text) for text in texts]
    pieces, merged = (list(split_documents(files, "lines", merge=merge)) for merge in (False, True))
    assert placed(merged) == placed(pieces)
    places = [np.concatenate([piece.places for piece in found], axis=1).tolist() for found in (pieces, merged)]
    assert places[0] == places[1]
    assert max(len(piece.codes) for piece in merged if len(piece.codes) < 8) > 4
    assert len(merged) < len(pieces) / 2
