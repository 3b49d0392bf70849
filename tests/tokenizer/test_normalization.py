import itertools
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from charlm.errors import DataError
from charlm.tokenizer.bytes import ByteTokenizer
from charlm.tokenizer.characters import CharTokenizer
from charlm.tokenizer.documents import DocumentTokenizer
from charlm.tokenizer.loading import load_tokenizer
from charlm.tokenizer.normalization import NORMALIZATIONS, Normalizer, normalize

# Marks of several classes, parts of Hangul syllables, a ligature, compatibility characters, and characters that bound.
odd = st.text(
    alphabet="ae\u0301\u0323\u0338=\u1100\u1161\u11a8\uac00\ufb01\u00bd\uff21\u4e2d\u3099\u304b\n \u2028", max_size=12
)
cuts = st.lists(st.integers(0, 12), max_size=4)


@pytest.mark.parametrize("form", ["nfc", "nfkc"])
@settings(max_examples=400, deadline=None)
@given(text=odd | st.text(max_size=12), cuts=cuts)
@example(text="e\n\u0301e\u0301", cuts=[1, 2, 4])
@example(text="e\u0323\u0301", cuts=[1, 2])
@example(text="\u1100\u1161\u11a8", cuts=[1, 2])
def test_blocks_are_normalized_like_the_whole_text(form, text, cuts):
    bounds = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    blocks = [text[a:b] for a, b in itertools.pairwise(bounds)]
    assert (
        "".join(Normalizer(form).blocks(blocks)) == unicodedata.normalize(form.upper(), text) == normalize(text, form)
    )


def test_without_a_form_nothing_changes():
    blocks = ["e\u0301", "\ufb01"]
    normalizer = Normalizer("none")
    assert list(normalizer.blocks(blocks)) == blocks
    assert normalizer.changed == 0
    assert normalize("e\u0301", "none") == "e\u0301"


def test_the_characters_that_change_are_counted():
    for form, text, count in (
        ("nfc", "e\u0301te\u0301 \u00e9", 4), ("nfc", "\ufb01ne", 0), ("nfkc", "\ufb01ne \uff21\u00bd", 3),
        ("nfc", "plain", 0), ("nfc", "\u212bngstr\u00f6m", 1),
    ):  # fmt: skip
        normalizer = Normalizer(form)
        "".join(normalizer.blocks(text))  # a character at a time
        assert normalizer.changed == count, text


def test_a_line_is_not_held_back():
    blocks = Normalizer("nfc").blocks(iter(["e\u0301t\u00e9\n", "more"]))
    assert next(blocks) == "\u00e9t\u00e9\n"  # before the next block is read


@pytest.mark.parametrize("form", NORMALIZATIONS)
def test_the_form_is_kept_with_the_tokenizer(form):
    tokenizer = CharTokenizer.build({ord(c): 2 for c in "abc"}, form)
    for kept in (
        tokenizer,
        DocumentTokenizer(tokenizer, "lines"),
        DocumentTokenizer(tokenizer, "start", document_start="^a"),
    ):
        description = kept.description()
        assert ("normalize" in description) == (form != "none")  # as before there were normal forms
        loaded = load_tokenizer(description, kept.to_bytes())
        assert (loaded.normalization, loaded.document_start) == (form, kept.document_start)
        assert loaded.description() == description
        assert np.array_equal(loaded.encode("abc"), kept.encode("abc"))
    assert ByteTokenizer().normalization == "none"


@pytest.mark.parametrize(
    "wrong",
    [{"normalize": "nfd"}, {"normalize": 1}, {"normalize": ["nfc"]}, {"documents": "start"},
     {"documents": "start", "document_start": "("}, {"documents": "start", "document_start": 3},
     {"documents": "start", "document_start": "a" * 2000}],
)  # fmt: skip
def test_unknown_values_are_refused(wrong):
    tokenizer = CharTokenizer.build({ord(c): 2 for c in "abc"})
    with pytest.raises(DataError, match="config"):
        load_tokenizer({**tokenizer.description(), **wrong}, tokenizer.to_bytes())
