import gzip
import itertools

import numpy as np
import pytest

from charlm.corpus import byte_fallback
from charlm.corpus.encodings import Decoding
from charlm.corpus.preparation import log_warnings, prepare
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
    monkeypatch.setattr("charlm.corpus.blocks.BLOCK_BYTES", 701)
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
        monkeypatch.setattr("charlm.corpus.blocks.BLOCK_BYTES", size)
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


# ---------------------------------------------------------------------------------------------------- what is reported


def test_invalid_bytes_are_replaced_or_their_documents_left_out(tmp_path, caplog):
    lines = [f"line {number} é".encode() for number in range(300)]
    lines[7], lines[100] = b"seven \xff\xfe", b"\xc3"
    content = b"\n".join(lines)
    for errors in ("replace", "skip-document"):
        caplog.clear()
        path, folder = tmp_path / "text.txt", tmp_path / errors
        path.write_bytes(content)
        source = open_source([str(path)], decoding=Decoding(errors=errors))
        corpus = prepare(folder, source, split=(0.5, 0.25, 0.25), documents=DocumentOptions("lines"))
        log_warnings(corpus)
        documents = sorted(itertools.chain(*(lines_of(corpus, split) for split in ("train", "valid", "test"))))
        replaced = sorted(line.decode("utf-8", "replace") for line in lines)
        if errors == "replace":
            assert corpus.description["replaced"] == 3
            assert caplog.messages == ["invalid bytes replaced by U+FFFD: 3"]
            assert len(documents) == 300
            assert sum("\ufffd" in line for line in replaced) == 2
        else:
            assert corpus.description["skipped_documents"] == 2
            assert caplog.messages == ["documents skipped for invalid bytes: 2"]
            assert len(documents) == 298
        held_out = [*lines_of(corpus, "valid"), *lines_of(corpus, "test")]
        assert set(held_out) <= set(replaced)
        assert errors == "replace" or "\ufffd" not in "".join(documents)


def test_a_text_of_invalid_documents_only_is_refused(tmp_path):
    (tmp_path / "text.txt").write_bytes(b"a\xff\nb\xff\n" * 50)
    source = open_source([str(tmp_path / "text.txt")], decoding=Decoding(errors="skip-document"))
    with pytest.raises(DataError, match="no character"):
        prepare(tmp_path / "corpus", source, documents=DocumentOptions("lines"))


def test_duplicates_and_invalid_documents_are_both_left_out(tmp_path):
    (tmp_path / "text.txt").write_bytes(
        b"".join(b"line %d\n" % (number % 60) for number in range(90)) + b"bad\xff\n" * 2
    )
    source = open_source([str(tmp_path / "text.txt")], decoding=Decoding(errors="skip-document"))
    options = DocumentOptions("lines", distinct=True)
    corpus = prepare(tmp_path / "corpus", source, split=(0.5, 0.25, 0.25), documents=options)
    assert [corpus.sizes[split].documents for split in ("train", "valid", "test")] == [30, 15, 15]
    assert corpus.description["skipped_documents"] == 2


def test_a_normal_form_is_kept_and_its_changes_are_counted(tmp_path):
    (tmp_path / "text.txt").write_text("caf\u00e9 cafe\u0301 " * 200)
    source = open_source([str(tmp_path / "text.txt")], decoding=Decoding(normalization="nfc"))
    corpus = prepare(tmp_path / "corpus", source, split=(0.5, 0.5, 0.0))
    assert corpus.description["normalized"] == 400
    assert corpus.tokenizer.normalization == "nfc"
    assert "\u0301" not in corpus.tokenizer.characters
    assert decoded(corpus, "valid") == "caf\u00e9 " * 200


def test_what_was_not_asked_for_is_not_in_the_description(tmp_path, text):
    corpus = prepared(tmp_path, text)
    assert not {"errors", "replaced", "skipped_documents", "normalized"} & corpus.description.keys()


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("one line only " * 10, {"documents": DocumentOptions("lines")}, "one document (--documents lines)"),
        ("one line only " * 10, {"documents": DocumentOptions("start", start="^x")}, "one document (--document-start)"),
        ("ab\ncd\nef\n", {"documents": DocumentOptions("lines")}, "too few documents for a validation and a test part"),
        ("abcdefgh", {}, "too few characters for a test part"),
        ("abcdefgh", {"split": (1.0, 0.0, 0.0)}, None),
        ("ab\n" * 100, {"documents": DocumentOptions("lines")}, None),
    ],
)  # fmt: skip
def test_one_document_and_empty_parts_are_said_in_one_line(tmp_path, caplog, content, options, message):
    log_warnings(prepared(tmp_path, content, **options))
    assert len(caplog.messages) == (message is not None)
    assert message is None or message in caplog.messages[0]


def test_a_text_that_changes_while_it_is_read_is_refused(tmp_path):
    path, passed = tmp_path / "text.txt", []

    def progress(count):
        passed.append(count)
        if len(passed) == 2:
            path.write_text("other text\n" * 2000)

    path.write_text("some text\n" * 2000)
    source = open_source([str(path)])
    with pytest.raises(DataError, match="changed while it was read"):
        prepare(tmp_path / "corpus", source, progress=progress)


def test_documents_of_many_files_are_those_of_each_file(tmp_path):
    (tmp_path / "many").mkdir()
    for number in range(250):
        (tmp_path / "many" / f"{number:03}.txt").write_text(f"file {number}\nwith é\n" if number % 50 else "")
    (tmp_path / "many" / "zz.txt").write_text("long\n" * 20_000)
    source = open_source([str(tmp_path / "many")])
    corpus = prepare(tmp_path / "corpus", source, kind="byte", documents=DocumentOptions("files"))
    found = itertools.chain(*(lines_of(corpus, split) for split in ("train", "valid", "test")))
    assert sorted(found) == sorted([f"file {n}\nwith é\n" for n in range(250) if n % 50] + ["long\n" * 20_000])
    corpus = prepare(tmp_path / "running", source, kind="byte", split=(0.5, 0.5, 0.0))
    whole = "".join(path.read_text() for path in sorted((tmp_path / "many").iterdir()))
    assert decoded(corpus, "train") + decoded(corpus, "valid") == whole
