import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from charlm.corpus.padding import buckets, pad


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
