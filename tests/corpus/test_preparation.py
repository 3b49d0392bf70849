import gzip
import itertools

import numpy as np
import pytest

from charlm.corpus import byte_fallback
from charlm.corpus.preparation import prepare
from charlm.corpus.splitting import DocumentOptions
from charlm.corpus.text import open_source
from charlm.errors import DataError


def prepared(folder, content, kind="char", **options):
    path = folder / "text.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return prepare(folder / "corpus", open_source([str(path)]), kind, **options)


def decoded(corpus, split):
    ids = corpus.ids(split)
    return corpus.tokenizer.decode(ids.read(0, len(ids)))


@pytest.fixture
def without_unknown_characters(monkeypatch):
    monkeypatch.setattr(byte_fallback, "UNKNOWN_INTERVAL", 10**18)


@pytest.mark.usefixtures("without_unknown_characters")
@pytest.mark.parametrize("kind", ["char", "byte"])
def test_the_splits_together_are_the_text(tmp_path, text, kind):
    corpus = prepared(tmp_path, text, kind, split=(0.7, 0.2, 0.1))
    parts = [decoded(corpus, split) for split in ("train", "valid", "test")]
    assert "".join(parts) == text
    if kind == "char":
        assert [len(p) for p in parts] == [corpus.sizes[s].characters for s in ("train", "valid", "test")]
        assert [len(p) for p in parts[:2]] == [round(len(text) * 0.7), round(len(text) * 0.9) - round(len(text) * 0.7)]
    assert sum(size.bytes for size in corpus.sizes.values()) == len(text.encode())


@pytest.mark.usefixtures("without_unknown_characters")
def test_ids_do_not_depend_on_the_block_size(tmp_path, monkeypatch, text):
    monkeypatch.setattr("charlm.corpus.byte_fallback.RARE_COUNT", 0)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    whole = prepared(tmp_path / "one", text)
    monkeypatch.setattr("charlm.corpus.text.BLOCK_BYTES", 701)
    pieces = prepared(tmp_path / "two", text)
    for split in ("train", "valid", "test"):
        assert whole.description["splits"][split] == pieces.description["splits"][split]


def test_the_vocabulary_comes_from_the_training_text_alone(tmp_path):
    corpus = prepared(tmp_path, "ab" * 450 + "ü" * 100, split=(0.9, 0.1, 0.0))
    assert set(corpus.tokenizer.characters) == {"a", "b"}
    ids = corpus.ids("valid").read(0, corpus.sizes["valid"].ids)
    assert corpus.tokenizer.unknown(ids).all()
    assert corpus.sizes["valid"].characters == 100


def test_byte_fallback_is_rare_in_the_training_text(tmp_path):
    text = "the cat sat on the mat. " * 20_000 + "é" * 10
    corpus = prepared(tmp_path, text * 2, split=(1.0, 0.0, 0.0))
    ids = corpus.ids("train").read(0, corpus.sizes["train"].ids)
    tokenizer = corpus.tokenizer
    in_bytes = np.isin(ids, tokenizer.byte_ids) & tokenizer.starts_character[ids]
    expected = len(text) * 2 / byte_fallback.UNKNOWN_INTERVAL
    assert 0.5 * expected < in_bytes.sum() < 2 * expected
    assert corpus.sizes["train"].characters == len(text) * 2
    wrong = sum(a != b for a, b in zip(tokenizer.decode(ids), text * 2, strict=True))
    assert wrong <= in_bytes.sum()


def test_validation_and_test_texts_have_no_byte_fallback(tmp_path):
    text = "the cat sat on the mat. " * 40_000
    corpus = prepared(tmp_path, text, split=(0.2, 0.4, 0.4))
    assert decoded(corpus, "valid") + decoded(corpus, "test") == text[round(len(text) * 0.2) :]


def test_separate_validation_and_test_texts(tmp_path, text):
    (tmp_path / "v.txt").write_text("the cat" * 30)
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(b"a mat" * 30))
    others = {"valid": open_source([str(tmp_path / "v.txt")]), "test": open_source([str(tmp_path / "t.txt.gz")])}
    corpus = prepared(tmp_path, text, others=others)
    assert corpus.sizes["train"].characters == len(text)
    assert (decoded(corpus, "valid"), decoded(corpus, "test")) == ("the cat" * 30, "a mat" * 30)


@pytest.mark.parametrize("content", ["aaaa" * 100, "\n" * 50])
def test_one_distinct_character_is_nothing_to_learn(tmp_path, content):
    with pytest.raises(DataError, match="distinct"):
        prepared(tmp_path, content)


def test_characters_that_cannot_be_pieces_are_kept(tmp_path):
    text = "a\0b\u2581c\u2585" * 500
    corpus = prepared(tmp_path, text, split=(0.5, 0.5, 0.0))
    assert decoded(corpus, "valid") == text[1500:]
    ids = corpus.ids("valid").read(0, corpus.sizes["valid"].ids)
    assert not corpus.tokenizer.unknown(ids).any()


# ---------------------------------------------------------------------------------------------------- documents


def lines_of(corpus, split):
    """The documents of a split, cut where ``ends`` says."""
    ids, ends = corpus.ids(split), corpus.ends(split)
    whole, bounds = ids.read(0, len(ids)), [0, *ends.read(0, len(ends)).tolist()]
    assert np.array_equal(np.flatnonzero(whole == corpus.tokenizer.end_id) + 1, bounds[1:])
    return [corpus.tokenizer.decode(whole[a:b]) for a, b in itertools.pairwise(bounds)]


@pytest.mark.usefixtures("without_unknown_characters")
@pytest.mark.parametrize("kind", ["char", "byte"])
def test_documents_are_split_whole_and_not_lost(tmp_path, kind):
    texts = [f"line {number} {'é' * (number % 5)}" for number in range(1000)]
    corpus = prepared(tmp_path, "\n".join(texts), kind, split=(0.7, 0.2, 0.1), documents=DocumentOptions("lines"))
    parts = {split: lines_of(corpus, split) for split in ("train", "valid", "test")}
    assert [len(part) for part in parts.values()] == [700, 200, 100]
    assert sorted(itertools.chain(*parts.values())) == sorted(texts)
    for split, part in parts.items():
        size = corpus.sizes[split]
        assert size.documents == len(part)
        assert size.bytes == sum(len(text.encode()) for text in part)
        assert size.characters == (size.bytes if kind == "byte" else sum(map(len, part)))


def test_the_seed_shuffles_documents_into_splits(tmp_path):
    texts = [f"text {number}" for number in range(300)]

    def valid(seed):
        (tmp_path / str(seed)).mkdir(exist_ok=True)
        return lines_of(
            prepared(tmp_path / str(seed), "\n".join(texts), documents=DocumentOptions("lines", seed)), "valid"
        )

    assert valid(1) == valid(1) != valid(2)
    assert valid(1) != texts[270:285]


@pytest.mark.usefixtures("without_unknown_characters")
def test_documents_do_not_depend_on_the_block_size(tmp_path, monkeypatch, text):
    monkeypatch.setattr("charlm.corpus.byte_fallback.RARE_COUNT", 0)
    found = []
    for size in (1 << 20, 701, 13):
        (tmp_path / str(size)).mkdir()
        monkeypatch.setattr("charlm.corpus.text.BLOCK_BYTES", size)
        corpus = prepared(tmp_path / str(size), text.replace("why? ", "\r\n"), documents=DocumentOptions("lines"))
        found.append((corpus.description["splits"], corpus.fingerprints().tolist()))
    assert found[0] == found[1] == found[2]


def test_repeated_documents_are_counted_or_left_out(tmp_path):
    texts = [f"name {number % 150}" for number in range(300)]
    for distinct in (False, True):
        (tmp_path / str(distinct)).mkdir()
        choices = DocumentOptions("lines", 1, distinct)
        corpus = prepared(tmp_path / str(distinct), "\n".join(texts), split=(0.5, 0.25, 0.25), documents=choices)
        parts = [set(lines_of(corpus, split)) for split in ("train", "valid", "test")]
        sizes = [corpus.sizes[split].documents for split in ("train", "valid", "test")]
        repeated = [corpus.description["splits"][split]["repeated"] for split in ("valid", "test")]
        if distinct:
            assert sizes == [len(part) for part in parts] == [75, 37, 38]
            assert repeated == [0, 0]
            assert not parts[0] & (parts[1] | parts[2])
        else:
            assert sum(sizes) == 300
            in_train = [sum(text in parts[0] for text in lines_of(corpus, split)) for split in ("valid", "test")]
            assert repeated == in_train
            assert min(repeated) > 0


def test_files_and_separate_texts_as_documents(tmp_path):
    (tmp_path / "many").mkdir()
    for number in range(20):
        (tmp_path / "many" / f"{number:02}.txt").write_text(f"file {number}\n\nsecond paragraph\n" * (number > 0))
    (tmp_path / "valid.txt").write_text("validation text\n\n")
    source, other = open_source([str(tmp_path / "many")]), open_source([str(tmp_path / "valid.txt")])
    corpus = prepare(
        tmp_path / "corpus", source, others={"valid": other}, documents=DocumentOptions("files"), kind="byte"
    )
    assert lines_of(corpus, "train")[2] == "file 3\n\nsecond paragraph\n"
    assert corpus.sizes["train"].documents == 19  # without the empty file
    assert lines_of(corpus, "valid") == ["validation text\n\n"]


def test_damaged_ends_are_noticed(tmp_path):
    corpus = prepared(tmp_path, "some text\n" * 300, documents=DocumentOptions("lines"))
    corpus.check_ids()
    ends = corpus.folder / "train.ends"
    ends.write_bytes(bytes([ends.read_bytes()[0] ^ 1]) + ends.read_bytes()[1:])
    with pytest.raises(DataError, match=r"train\.ends is damaged"):
        corpus.check_ids()
