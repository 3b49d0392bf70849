"""Conditions in ids: a separator of its own, which no text has, and a mask of what is read only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.errors import DataError
from charlm.tokenizer.bytes import ByteTokenizer
from charlm.tokenizer.characters import CharTokenizer
from charlm.tokenizer.conditions import PrefixTracker, prefix_ids, prefix_mask
from charlm.tokenizer.documents import DocumentTokenizer
from charlm.tokenizer.loading import load_tokenizer
from charlm.tokenizer.matching import matching_ids
from charlm.tokenizer.protocol import SEPARATOR_CODE

CHARACTERS = CharTokenizer.build({ord(c): 5 for c in "abcxyz \n"})
TOKENIZERS = [DocumentTokenizer(inner, "rows", has_separator=True) for inner in (CHARACTERS, ByteTokenizer())]
TEXT = st.text("abcx é🙂\n", max_size=6)


def codes_of(tokenizer, text):
    if tokenizer.kind == "byte":
        return np.frombuffer(text.encode(), np.uint8).astype(np.uint32)
    return np.array([ord(c) for c in text], np.uint32)


def encoded(tokenizer, documents):
    """The ids of (value, text) documents."""
    parts = [
        np.concatenate([codes_of(tokenizer, value), [SEPARATOR_CODE], codes_of(tokenizer, text)])
        for value, text in documents
    ]
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    return tokenizer.encode_documents(np.concatenate(parts), ends)


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["char", "byte"])
@given(documents=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5), cuts=st.lists(st.integers(0, 60), max_size=4))
def test_values_and_separators_are_found_wherever_ids_are_cut(tokenizer, documents, cuts):
    ids = encoded(tokenizer, documents)
    expected = [
        np.concatenate([prefix_ids(tokenizer, value), tokenizer.encode(text), [tokenizer.end_id]])
        for value, text in documents
    ]
    assert np.array_equal(ids, np.concatenate(expected))
    lengths = [
        (len(part), len(prefix_ids(tokenizer, value))) for part, (value, _) in zip(expected, documents, strict=True)
    ]
    read_only = np.concatenate([np.arange(length) < before for length, before in lengths])
    assert np.array_equal(prefix_mask(tokenizer, ids), read_only)
    tracker = PrefixTracker(tokenizer)
    assert np.array_equal(np.concatenate([tracker.mask(part) for part in np.split(ids, sorted(cuts))]), read_only)
    assert tokenizer.decode(ids[~read_only]) == "".join(text for _, text in documents)
    assert not prefix_mask(DocumentTokenizer(tokenizer.inner, "rows"), ids).any()


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["char", "byte"])
def test_the_separator_has_no_text_and_is_never_sampled(tokenizer):
    assert tokenizer.vocabulary_size == tokenizer.inner.vocabulary_size + 2
    assert len({*range(tokenizer.inner.vocabulary_size), tokenizer.end_id, tokenizer.separator_id}) == (
        tokenizer.vocabulary_size
    )
    allowed_SV, transitions_SV = tokenizer.constraint()
    plain_SV, _ = DocumentTokenizer(tokenizer.inner, "rows").constraint()
    assert allowed_SV.shape == transitions_SV.shape == (len(plain_SV), tokenizer.vocabulary_size)
    assert np.array_equal(allowed_SV[:, :-1], plain_SV)
    assert not allowed_SV[:, tokenizer.separator_id].any()
    ids = np.array([tokenizer.separator_id, tokenizer.end_id])
    assert tokenizer.decode(ids) == ""
    assert not tokenizer.unknown(ids).any()


def test_the_separator_is_kept_in_the_description():
    for tokenizer in TOKENIZERS:
        loaded = load_tokenizer(tokenizer.description(), tokenizer.to_bytes())
        assert (loaded.separator_id, loaded.vocabulary_size) == (tokenizer.separator_id, tokenizer.vocabulary_size)
    with pytest.raises(DataError, match="separator is not true or false"):
        load_tokenizer({"kind": "byte", "documents": "rows", "separator": 1}, None)
    assert "separator" not in DocumentTokenizer(CHARACTERS, "rows").description()


def test_separators_match_each_other():
    with_one, other = TOKENIZERS[0], DocumentTokenizer(CharTokenizer.build({ord(c): 1 for c in "xq"}), "rows", True)
    pairs = {tuple(pair) for pair in matching_ids(with_one, other).tolist()}
    assert (with_one.separator_id, other.separator_id) in pairs
    plain = DocumentTokenizer(CHARACTERS, "rows")
    assert with_one.separator_id not in matching_ids(with_one, plain)[:, 0]
