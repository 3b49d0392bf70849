import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.batches import StreamBatches
from charlm.errors import DataError


class Numbers:
    """Ids 0, 1, 2, ... so that every id tells its position."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def read(self, start, stop):
        assert 0 <= start < stop <= self.length
        return np.arange(start, stop)


shapes = st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(0, 2000)).map(
    lambda s: (s[0], s[1], 2 * s[0] + 1 + s[2])
)


@settings(max_examples=200, deadline=None)
@given(shapes, st.integers(0, 3), st.integers(0, 5))
def test_an_epoch_is_the_streams_cut_in_chunks(shape, epoch, seed):
    batch, bptt, length = shape
    batches = StreamBatches(Numbers(length), batch, bptt, seed)
    first = epoch * batches.chunks_per_epoch
    chunks = [batches.chunk(first + k) for k in range(batches.chunks_per_epoch)]
    inputs = np.concatenate([x for x, _ in chunks])
    targets = np.concatenate([y for _, y in chunks])
    assert inputs.shape == (batches.stream_length, batch)
    assert np.array_equal(targets, inputs + 1)
    assert (np.diff(inputs, axis=0) == 1).all()  # contiguous across the borders of chunks
    assert len(np.unique(inputs)) == inputs.size  # nothing is read twice
    assert all(len(x) == bptt for x, _ in chunks[:-1])
    assert length - inputs.size <= batch + 1 + min(bptt, length // batch // 10 + 1)  # hardly anything is left out


def test_the_last_short_chunk_is_used():
    batches = StreamBatches(Numbers(1 + 3 * 25), 3, 10, 0)
    assert [len(batches.chunk(k)[0]) for k in range(batches.chunks_per_epoch)][-1] < 10


def test_the_offset_is_a_function_of_seed_and_epoch():
    def offsets(seed):
        return [StreamBatches(Numbers(100_000), 4, 50, seed).offset(epoch) for epoch in range(20)]

    assert offsets(1) == offsets(1)
    assert offsets(1) != offsets(2)
    assert len(set(offsets(1))) > 10
    assert max(offsets(1)) < 50


def test_the_cursor_is_all_the_state():
    batches = StreamBatches(Numbers(5000), 4, 30, 1)
    for cursor in (0, 7, batches.chunks_per_epoch, 3 * batches.chunks_per_epoch + 2):
        again = StreamBatches(Numbers(5000), 4, 30, 1)
        assert all(np.array_equal(a, b) for a, b in zip(batches.chunk(cursor), again.chunk(cursor), strict=True))
    assert batches.starts_epoch(batches.chunks_per_epoch)
    assert not batches.starts_epoch(1)


def test_too_short_a_text_is_refused():
    with pytest.raises(DataError, match="--batch"):
        StreamBatches(Numbers(64), 32, 10, 0)
