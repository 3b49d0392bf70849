import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.corpus.batches import IGNORE_INDEX, Cursor, DocumentBatches, StreamBatches
from charlm.errors import DataError


class Numbers:
    """Ids 0, 1, 2, ...: every id is its position."""

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
def test_the_chunks_of_an_epoch_are_its_streams(shape, epoch, seed):
    batch, bptt, length = shape
    batches = StreamBatches(Numbers(length), batch, bptt, seed)
    chunks = [batches.chunk(Cursor(epoch, k)) for k in range(batches.chunks_per_epoch)]
    assert [chunk.fresh for chunk in chunks] == [True] + [False] * (len(chunks) - 1)
    chunks = [(chunk.inputs_TB, chunk.targets_TB) for chunk in chunks]
    inputs = np.concatenate([x for x, _ in chunks])
    targets = np.concatenate([y for _, y in chunks])
    assert inputs.shape == (batches.stream_length, batch)
    assert np.array_equal(targets, inputs + 1)
    assert (np.diff(inputs, axis=0) == 1).all()  # contiguous across chunk boundaries
    assert len(np.unique(inputs)) == inputs.size  # nothing is read twice
    assert all(len(x) == bptt for x, _ in chunks[:-1])
    assert length - inputs.size <= batch + 1 + min(bptt, length // batch // 10 + 1)  # hardly anything is left out


@settings(max_examples=200, deadline=None)
@given(shapes, st.integers(0, 3), st.integers(0, 5))
def test_jitter_does_not_change_the_streams(shape, epoch, seed):
    batch, bptt, length = shape
    plain, moved = (StreamBatches(Numbers(length), batch, bptt, seed, jitter) for jitter in (0, int(0.4 * bptt)))
    assert moved.chunks_per_epoch == plain.chunks_per_epoch
    whole, cut = ([b.chunk(Cursor(epoch, k)) for k in range(b.chunks_per_epoch)] for b in (plain, moved))
    for name in ("inputs_TB", "targets_TB"):
        assert np.array_equal(*(np.concatenate([getattr(chunk, name) for chunk in chunks]) for chunks in (whole, cut)))
    assert all(len(chunk.inputs_TB) <= bptt + 2 * moved.jitter for chunk in cut)


def test_jitter_differs_between_epochs():
    batches = StreamBatches(Numbers(5000), 4, 50, 1, 20)
    lengths = [[len(batches.chunk(Cursor(epoch, k)).inputs_TB) for k in range(20)] for epoch in range(3)]
    assert len(set(map(tuple, lengths))) == 3
    assert len(set(lengths[0])) > 5
    assert lengths[0] == [len(batches.chunk(Cursor(0, k)).inputs_TB) for k in reversed(range(20))][::-1]


def test_the_last_short_chunk_is_used():
    batches = StreamBatches(Numbers(1 + 3 * 25), 3, 10, 0)
    assert [len(batches.chunk(Cursor(0, k)).inputs_TB) for k in range(batches.chunks_per_epoch)][-1] < 10


def test_the_offset_is_a_function_of_seed_and_epoch():
    def offsets(seed):
        return [StreamBatches(Numbers(100_000), 4, 50, seed).offset(epoch) for epoch in range(20)]

    assert offsets(1) == offsets(1)
    assert offsets(1) != offsets(2)
    assert len(set(offsets(1))) > 10
    assert max(offsets(1)) < 50


def test_the_cursor_is_the_whole_state():
    batches, cursor = StreamBatches(Numbers(5000), 4, 30, 1), Cursor()
    for step in range(3 * batches.chunks_per_epoch + 2):
        assert batches.epochs(cursor) == pytest.approx(step / batches.chunks_per_epoch)
        chunk, again = batches.chunk(cursor), StreamBatches(Numbers(5000), 4, 30, 1).chunk(cursor)
        assert np.array_equal(chunk.inputs_TB, again.inputs_TB)
        assert chunk.fresh == (step % batches.chunks_per_epoch == 0)
        assert batches.carried_rows(cursor) == (0 if chunk.fresh else 4)
        cursor = batches.next_cursor(cursor)
    assert cursor == Cursor(3, 2)


def test_a_text_that_is_too_short_is_refused():
    with pytest.raises(DataError, match="--batch"):
        StreamBatches(Numbers(64), 32, 10, 0)


class Ids(Numbers):
    """Documents as a corpus stores them: every id is its position, and 999,999 ends a document."""

    END_ID = 999_999

    def __init__(self, lengths):
        super().__init__(int(np.sum(lengths)))
        self.ends = np.cumsum(lengths)
        self.all = np.arange(self.length)
        self.all[self.ends - 1] = self.END_ID

    def cache(self):
        pass

    def read(self, start, stop):
        assert 0 <= start < stop <= self.length
        return self.all[start:stop]


class Ends(Numbers):
    def __init__(self, ends):
        super().__init__(len(ends))
        self.all = ends

    def cache(self):
        pass

    def read(self, start, stop):
        return self.all[start:stop]


def document_batches(lengths, batch, bptt, seed=1):
    ids = Ids(np.array(lengths, np.int64))
    return DocumentBatches(ids, Ends(ids.ends), Ids.END_ID, batch, bptt, seed), ids


def epoch_of(batches, cursor=None):
    """The chunks of one epoch with their cursors, and the cursor after them."""
    cursor, chunks = cursor or Cursor(), []
    epoch = int(batches.epochs(cursor))
    while batches.epochs(cursor) < epoch + 1:
        chunks.append((cursor, batches.chunk(cursor)))
        cursor = batches.next_cursor(cursor)
    assert batches.epochs(cursor) == epoch + 1
    return chunks, cursor


def lengths_of(chunk):
    """The number of targets of each row."""
    return (chunk.targets_TB != IGNORE_INDEX).sum(axis=0)


def documents_read(chunks):
    """The documents that the rows have read, as lists of (input, target)."""
    done, rows = [], []
    for _, chunk in chunks:
        if chunk.fresh:
            done += rows
            rows = [[] for _ in range(chunk.inputs_TB.shape[1])]
        assert chunk.inputs_TB.shape[1] <= len(rows)
        for row, length in enumerate(lengths_of(chunk)):
            assert length > 0
            assert (chunk.targets_TB[length:, row] == IGNORE_INDEX).all()
            rows[row] += zip(chunk.inputs_TB[:length, row], chunk.targets_TB[:length, row], strict=True)
    return done + rows


lengths_of_documents = st.lists(st.integers(1, 12), min_size=1, max_size=80).flatmap(
    lambda lengths: st.sampled_from([lengths, [*lengths, 150]])
)


@settings(max_examples=100, deadline=None)
@given(lengths_of_documents, st.integers(1, 5), st.integers(1, 30), st.integers(0, 3))
def test_an_epoch_reads_every_document_once_from_its_beginning_to_its_end(lengths, batch, bptt, seed):
    batches, ids = document_batches(lengths, batch, bptt, seed)
    cursor = Cursor()
    for _ in range(2):
        chunks, cursor = epoch_of(batches, cursor)
        read = documents_read(chunks)
        expected = [ids.all[end - length : end].tolist() for end, length in zip(ids.ends, lengths, strict=True)]
        assert sorted([target for _, target in document] for document in read) == sorted(expected)
        for document in read:
            assert [i for i, _ in document] == [Ids.END_ID, *(target for _, target in document[:-1])]
        for place, chunk in chunks:
            assert len(chunk.inputs_TB) <= bptt
            assert chunk.inputs_TB.size <= max(batch * bptt, len(chunk.inputs_TB))
            assert batches.carried_rows(place) == (0 if chunk.fresh else chunk.inputs_TB.shape[1])
            assert (np.diff(lengths_of(chunk)) <= 0).all()
            assert chunk.predictions == (chunk.targets_TB != IGNORE_INDEX).sum()


def test_the_order_depends_on_epoch_and_seed():
    lengths = np.random.default_rng(0).integers(1, 30, 3000)

    def first_targets(seed, part):
        batches, _ = document_batches(lengths, 4, 32, seed)
        return batches.chunk(Cursor(part, 0)).targets_TB[0].tolist()

    assert first_targets(1, 0) == first_targets(1, 0)
    assert first_targets(1, 0) != first_targets(2, 0)
    batches, _ = document_batches(lengths, 4, 32)
    _, second = epoch_of(batches)
    assert second.part > 1  # several pools an epoch
    assert first_targets(1, second.part) != first_targets(1, 0)


def test_hardly_anything_is_padding():
    lengths = np.random.default_rng(0).integers(11, 82, 5000)
    batches, _ = document_batches(lengths, 32, 128)
    chunks, _ = epoch_of(batches)
    places = sum(chunk.inputs_TB.size for _, chunk in chunks)
    assert places < 1.03 * lengths.sum()


def test_a_corpus_without_documents_is_refused():
    with pytest.raises(DataError, match="--documents"):
        document_batches([], 4, 32)
