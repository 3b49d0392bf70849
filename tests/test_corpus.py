import gzip

import numpy as np
import pytest

from charlm import corpus as corpus_module
from charlm.corpus import open_corpus, parse_split, prepare
from charlm.errors import DataError, MissingInputError, UsageError
from charlm.text import open_source


def prepared(folder, content, kind="char", **options):
    path = folder / "text.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return prepare(folder / "corpus", open_source([str(path)]), kind, **options)


def decoded(corpus, split):
    ids = corpus.ids(split)
    return corpus.tokenizer.decode(ids.read(0, len(ids)))


@pytest.fixture
def without_strangers(monkeypatch):
    monkeypatch.setattr(corpus_module, "FOREIGN_RATE", 10**18)


@pytest.mark.usefixtures("without_strangers")
@pytest.mark.parametrize("kind", ["char", "byte"])
def test_the_splits_together_are_the_text(tmp_path, text, kind):
    corpus = prepared(tmp_path, text, kind, split=(0.7, 0.2, 0.1))
    parts = [decoded(corpus, split) for split in ("train", "valid", "test")]
    assert "".join(parts) == text
    if kind == "char":
        assert [len(p) for p in parts] == [corpus.sizes[s].characters for s in ("train", "valid", "test")]
        assert [len(p) for p in parts[:2]] == [round(len(text) * 0.7), round(len(text) * 0.9) - round(len(text) * 0.7)]
    assert sum(size.bytes for size in corpus.sizes.values()) == len(text.encode())


@pytest.mark.usefixtures("without_strangers")
def test_blocks_do_not_show_in_the_ids(tmp_path, monkeypatch, text):
    monkeypatch.setattr("charlm.corpus.RARE_COUNT", 0)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    whole = prepared(tmp_path / "one", text)
    monkeypatch.setattr("charlm.text.BLOCK_BYTES", 701)
    pieces = prepared(tmp_path / "two", text)
    for split in ("train", "valid", "test"):
        assert whole.description["splits"][split] == pieces.description["splits"][split]


def test_the_vocabulary_comes_from_the_training_text_alone(tmp_path):
    corpus = prepared(tmp_path, "ab" * 450 + "ü" * 100, split=(0.9, 0.1, 0.0))
    assert set(corpus.tokenizer.characters) == {"a", "b"}
    ids = corpus.ids("valid").read(0, corpus.sizes["valid"].ids)
    assert corpus.tokenizer.unknown(ids).all()
    assert corpus.sizes["valid"].characters == 100


def test_rare_characters_are_spelt_now_and_then_and_strangers_are_few(tmp_path):
    text = "the cat sat on the mat. " * 20_000 + "é" * 10
    corpus = prepared(tmp_path, text * 2, split=(1.0, 0.0, 0.0))
    ids = corpus.ids("train").read(0, corpus.sizes["train"].ids)
    tokenizer = corpus.tokenizer
    in_bytes = np.isin(ids, tokenizer.byte_ids) & tokenizer.starts_character[ids]
    expected = len(text) * 2 / corpus_module.FOREIGN_RATE
    assert 0.5 * expected < in_bytes.sum() < 2 * expected
    assert corpus.sizes["train"].characters == len(text) * 2
    wrong = sum(a != b for a, b in zip(tokenizer.decode(ids), text * 2, strict=True))
    assert wrong <= in_bytes.sum()


def test_validation_and_test_texts_are_never_altered(tmp_path):
    text = "the cat sat on the mat. " * 40_000
    corpus = prepared(tmp_path, text, split=(0.2, 0.4, 0.4))
    assert decoded(corpus, "valid") + decoded(corpus, "test") == text[round(len(text) * 0.2) :]


def test_own_validation_and_test_texts(tmp_path, text):
    (tmp_path / "v.txt").write_text("the cat" * 30)
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(b"a mat" * 30))
    others = {"valid": open_source([str(tmp_path / "v.txt")]), "test": open_source([str(tmp_path / "t.txt.gz")])}
    corpus = prepared(tmp_path, text, others=others)
    assert corpus.sizes["train"].characters == len(text)
    assert (decoded(corpus, "valid"), decoded(corpus, "test")) == ("the cat" * 30, "a mat" * 30)


def test_opened_again_it_is_the_same(corpus):
    again = open_corpus(corpus.folder)
    assert again.sizes == corpus.sizes
    assert again.description == corpus.description
    again.check_ids()


def test_reading_by_position(corpus):
    ids = corpus.ids("train")
    whole = ids.read(0, len(ids))
    for start, stop in ((0, 1), (5, 50), (len(ids) - 3, len(ids))):
        assert np.array_equal(ids.read(start, stop), whole[start:stop])


def test_a_changed_text_is_noticed(tmp_path, text):
    corpus = prepared(tmp_path, text)
    path = tmp_path / "text.txt"
    assert not corpus.changed_sources()
    path.touch()
    assert not corpus.changed_sources()  # another time, the same content
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


@pytest.mark.parametrize("content", ["aaaa" * 100, "\n" * 50])
def test_one_distinct_character_is_nothing_to_learn(tmp_path, content):
    with pytest.raises(DataError, match="distinct"):
        prepared(tmp_path, content)


def test_parse_split():
    assert parse_split("90/5/5") == pytest.approx((0.9, 0.05, 0.05))
    assert parse_split("90/10") == pytest.approx((0.9, 0.1, 0.0))
    for wrong in ("90", "90/20/0", "a/b/c", "0/50/50", "-10/60/50", "nan/50/50", "100/0/0/0"):
        with pytest.raises(UsageError, match="--split"):
            parse_split(wrong)


def test_characters_without_their_own_piece_are_kept(tmp_path):
    text = "a\0b\u2581c\u2585" * 500
    corpus = prepared(tmp_path, text, split=(0.5, 0.5, 0.0))
    assert decoded(corpus, "valid") == text[1500:]
    ids = corpus.ids("valid").read(0, corpus.sizes["valid"].ids)
    assert not corpus.tokenizer.unknown(ids).any()
