import json
import shutil

import numpy as np
import pytest

from charlm.corpus import prepared as prepared_module
from charlm.corpus.preparation import prepare
from charlm.corpus.prepared import open_corpus, parse_split
from charlm.corpus.text import open_source
from charlm.errors import DataError, MissingInputError, UsageError


def prepared(folder, text):
    path = folder / "text.txt"
    path.write_text(text)
    return prepare(folder / "corpus", open_source([str(path)]))


def test_an_opened_corpus_equals_the_prepared_one(corpus):
    again = open_corpus(corpus.folder)
    assert again.sizes == corpus.sizes
    assert again.description == corpus.description
    again.check_ids()


def test_reading_by_position(corpus):
    ids = corpus.ids("train")
    whole = ids.read(0, len(ids))
    for start, stop in ((0, 1), (5, 50), (len(ids) - 3, len(ids))):
        assert np.array_equal(ids.read(start, stop), whole[start:stop])


def test_a_cached_file_reads_the_same_ids(corpus):
    ids, cached = corpus.ids("train"), corpus.ids("train")
    cached.cache()
    assert np.array_equal(cached.read(7, 70), ids.read(7, 70))


def test_a_changed_text_is_noticed(tmp_path, text):
    corpus = prepared(tmp_path, text)
    path = tmp_path / "text.txt"
    assert not corpus.changed_sources()
    path.touch()
    assert not corpus.changed_sources()  # another modification time, the same content
    path.write_text(text[:-1] + "!")
    assert corpus.changed_sources()
    path.unlink()
    assert not corpus.changed_sources()  # the ids are in the run; the text is no longer needed


def test_damaged_corpora_are_refused(tmp_path, text):
    corpus = prepared(tmp_path, text)
    ids = corpus.folder / "train.ids"
    good = ids.read_bytes()
    ids.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    with pytest.raises(DataError, match="damaged"):
        corpus.check_ids()
    ids.write_bytes(good[:-2])
    with pytest.raises(DataError, match="size"):
        corpus.ids("train")
    (corpus.folder / "corpus.json").write_text('{"format": 1}')
    with pytest.raises(DataError):
        open_corpus(corpus.folder)
    (corpus.folder / "corpus.json").unlink()
    with pytest.raises(MissingInputError):
        open_corpus(corpus.folder)


@pytest.mark.parametrize("name", ["train.ids", "test.ids"])
def test_ids_beyond_the_vocabulary_are_refused(tmp_path, text, name):
    corpus = prepared(tmp_path, text)
    path = corpus.folder / name
    path.write_bytes(path.read_bytes()[:-2] + b"\xff\xff")
    ids = corpus.ids(name.partition(".")[0])
    ids.read(0, len(ids) - 1)
    with pytest.raises(DataError, match="out of range"):
        ids.read(len(ids) - 3, len(ids))
    with pytest.raises(DataError, match="out of range"):
        ids.cache()


@pytest.mark.parametrize("positions", [[5, 3], [4, 4], [9, 10**15]])
def test_positions_of_documents_must_ascend_to_the_last_id(tmp_path, document_corpus, positions):
    folder = tmp_path / "corpus"
    shutil.copytree(document_corpus.folder, folder)
    corpus = open_corpus(folder)
    whole = np.fromfile(folder / "train.ends", "<u8")
    whole[10:12] = positions
    whole.tofile(folder / "train.ends")
    corpus.ends("train").read(0, 10)
    with pytest.raises(DataError, match="out of range"):
        corpus.ends("train").read(10, 12)


@pytest.mark.parametrize("key", ["ids", "characters", "bytes"])
@pytest.mark.parametrize("number", [-1, 2**60, None])
def test_sizes_out_of_range_are_refused(tmp_path, text, key, number):
    corpus = prepared(tmp_path, text)
    description = json.loads((corpus.folder / "corpus.json").read_text())
    description["splits"]["valid"][key] = number
    (corpus.folder / "corpus.json").write_text(json.dumps(description))
    with pytest.raises(DataError, match="damaged"):
        open_corpus(corpus.folder)


def test_a_forged_corpus_cannot_make_charlm_read_a_whole_machine(tmp_path, text, monkeypatch):
    corpus = prepared(tmp_path, text)
    monkeypatch.setattr(prepared_module, "_MAX_TEXT_BYTES", 10_000)
    assert not corpus.changed_sources()
    (tmp_path / "big").mkdir()
    for number in range(9):
        (tmp_path / "big" / f"{number}.txt").write_bytes(b"x" * 10 * len(text.encode()))
    monkeypatch.setattr(prepared_module, "open_source", None)  # it must not be reached
    corpus.description["sources"] = [[str(tmp_path / "big")]]
    with pytest.raises(DataError, match="far larger than this corpus"):
        corpus.changed_sources()


def test_parse_split():
    assert parse_split("90/5/5") == pytest.approx((0.9, 0.05, 0.05))
    assert parse_split("90/10") == pytest.approx((0.9, 0.1, 0.0))
    for wrong in ("90", "90/20/0", "a/b/c", "0/50/50", "-10/60/50", "nan/50/50", "100/0/0/0"):
        with pytest.raises(UsageError, match="--split"):
            parse_split(wrong)
