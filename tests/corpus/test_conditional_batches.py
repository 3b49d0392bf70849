"""Batches of documents with conditions: a condition is read, whole and in the first chunk, and is no target."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.corpus import byte_fallback
from charlm.corpus.batches import IGNORE_INDEX, Conditions, Cursor, DocumentBatches, make_batches
from charlm.corpus.preparation import prepare
from charlm.corpus.prepared import longest_prefix
from charlm.corpus.splitting import DocumentOptions
from charlm.corpus.tables import TableOptions, open_table
from charlm.tokenizer.conditions import prefix_ids, prefix_mask

END_ID, SEPARATOR_ID = 999_999, 888_888
LENGTHS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 15) | st.just(70)), min_size=1, max_size=60)
"""Of documents: the ids of the condition, with its separator, and those of the text, with its end."""


class Stored(SimpleNamespace):
    """What ``DocumentBatches`` needs of an ``IdFile``."""

    def __len__(self):
        return len(self.all)

    def cache(self):
        pass

    def read(self, start, stop):
        return self.all[start:stop]


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 5), st.integers(1, 30), st.integers(0, 3))
def test_conditions_are_read_and_texts_are_predicted(lengths, batch, bptt, seed):
    before, after = np.array(lengths).T
    ends = np.cumsum(before + after)
    ids = np.arange(int(ends[-1]))
    ids[ends - 1], ids[ends - after - 1] = END_ID, SEPARATOR_ID
    longest = int(before.max()) + 2
    batches = DocumentBatches(
        Stored(all=ids), Stored(all=ends), END_ID, batch, bptt, seed, Conditions(SEPARATOR_ID, longest)
    )
    cursor, done, rows = Cursor(), [], []
    while batches.epochs(cursor) < 1:
        chunk = batches.chunk(cursor)
        if chunk.fresh:
            done, rows = done + rows, [([], []) for _ in chunk.inputs_TB.T]
        assert len(chunk.inputs_TB) <= bptt + (longest if chunk.fresh else 0)
        assert chunk.inputs_TB.size <= max(batch * bptt, len(chunk.inputs_TB))
        assert batches.carried_rows(cursor) == (0 if chunk.fresh else chunk.inputs_TB.shape[1])
        assert chunk.predictions == (chunk.targets_TB != IGNORE_INDEX).sum() > 0
        for row, targets in enumerate(chunk.targets_TB.T):
            length = int(np.flatnonzero(targets != IGNORE_INDEX)[-1]) + 1
            rows[row][0].extend(chunk.inputs_TB[:length, row].tolist())
            rows[row][1].extend(target for target in chunk.targets_TB[:, row].tolist() if target != IGNORE_INDEX)
        cursor = batches.next_cursor(cursor)
    documents = [ids[end - b - a : end].tolist() for end, b, a in zip(ends, before, after, strict=True)]
    expected = [([END_ID, *document[:-1]], document[-a:]) for document, a in zip(documents, after, strict=True)]
    assert sorted(done + rows) == sorted(expected)


def test_batches_of_a_corpus_predict_what_its_sizes_say(table_corpus):
    batches, cursor, predictions = make_batches(table_corpus, 4, 16, 1), Cursor(), 0
    assert longest_prefix(table_corpus) == len("far east") + 1
    while batches.epochs(cursor) < 1:
        predictions += batches.chunk(cursor).predictions
        cursor = batches.next_cursor(cursor)
    size = table_corpus.sizes["train"]
    assert predictions == size.ids - size.prefix_ids
    regions = table_corpus.table.counts
    assert sum(regions.values()) == size.documents
    assert size.prefix_ids == sum(count * (len(region) + 1) for region, count in regions.items())


def test_conditions_are_not_encoded_as_bytes(table_file, tmp_path, monkeypatch):
    """Byte fallback changes characters of the training text, but never those of a condition."""
    monkeypatch.setattr(byte_fallback, "UNKNOWN_INTERVAL", 3)
    monkeypatch.setattr(byte_fallback, "RARE_COUNT", 10**6)
    source = open_table([str(table_file)], TableOptions("the name", given="region"))
    corpus = prepare(tmp_path / "corpus", source, documents=DocumentOptions("rows", conditional=True))
    ids = corpus.ids("train").read(0, corpus.sizes["train"].ids)
    assert corpus.tokenizer.unknown(ids).mean() > 0.1
    read_only = prefix_mask(corpus.tokenizer, ids)
    documents = np.split(ids[read_only], np.flatnonzero(ids[read_only] == corpus.tokenizer.separator_id) + 1)[:-1]
    expected = {prefix_ids(corpus.tokenizer, value).tobytes(): n for value, n in corpus.table.counts.items()}
    assert Counter(document.astype(np.int64).tobytes() for document in documents) == expected
