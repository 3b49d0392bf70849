"""A text from ids that come in pieces of any size, up to a length or a stop."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.errors import UsageError
from charlm.generation.assembler import TextAssembler
from charlm.tokenizer.bytes import ByteTokenizer

LETTERS = st.text("ab", max_size=40)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=4)


def assembled(text, sizes, stops, length=100):
    """The text, and whether it was stopped, from ids in pieces of these sizes, over and over."""
    tokenizer = ByteTokenizer()
    assembler, ids, pieces, number = TextAssembler(tokenizer, length, stops), tokenizer.encode(text), [], 0
    while len(ids) and assembler.remaining:
        size = sizes[number % len(sizes)]
        pieces.append(assembler.feed(ids[:size].astype(np.int64)))
        ids, number = ids[size:], number + 1
    return "".join(pieces) + assembler.finish(), assembler.is_stopped


@given(text=LETTERS, sizes=st.lists(st.integers(1, 9), min_size=1), stops=STOPS)
def test_the_first_stop_to_be_complete_ends_the_text(text, sizes, stops):
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    expected = text
    if ends:
        found = max((stop for stop in stops if text[: ends[0]].endswith(stop)), key=len)
        expected = text[: ends[0]].removesuffix(found)
    assert assembled(text, sizes, stops) == (expected, bool(ends))


def test_one_stop_may_be_given_as_it_is():
    assert assembled("one, two", [3], ", ") == ("one", True)
    assert assembled("one, two", [3], None) == ("one, two", False)
    assert assembled("one, two", [3], None, length=4) == ("one,", False)


@pytest.mark.parametrize("stop", ["", ["a", ""]])
def test_an_empty_stop_is_refused(stop):
    with pytest.raises(UsageError, match=re.escape("stop must not be empty")):
        TextAssembler(ByteTokenizer(), 5, stop)
