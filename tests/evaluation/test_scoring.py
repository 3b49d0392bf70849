import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.config import ModelConfig
from charlm.corpus.documents import split_documents
from charlm.corpus.pieces import Piece
from charlm.engine import create_engine
from charlm.errors import DataError
from charlm.evaluation import losses, scoring
from charlm.evaluation.losses import MAX_BATCH_IDS, batched_document_losses, exact_losses
from charlm.evaluation.measure import evaluate
from charlm.evaluation.scoring import document_texts, score_documents, surprisals
from charlm.model.char_lm import CharLM
from charlm.tokenizer.bytes import ByteTokenizer
from charlm.tokenizer.characters import CharTokenizer
from charlm.tokenizer.documents import DocumentTokenizer

ALPHABET = "abcé \n"
INNER = CharTokenizer.build({ord(c): 30 for c in ALPHABET})
TOKENIZER = DocumentTokenizer(INNER, "lines")
BYTES = DocumentTokenizer(ByteTokenizer(), "lines")


def make_engine(tokenizer):
    model = CharLM(ModelConfig(tokenizer.vocabulary_size, 2, 20, 12), seed=5)
    return create_engine(model.config, model.weights(), device="cpu")


ENGINE = make_engine(TOKENIZER)
documents_of_words = st.lists(
    st.one_of(st.text(alphabet="abcéxü", max_size=9), st.integers(250, 530).map(lambda n: "abc" * (n // 3))),
    min_size=1,
    max_size=12,
)


def with_end(text, tokenizer=TOKENIZER):
    return np.append(tokenizer.encode(text), tokenizer.end_id)


def alone(text, tokenizer=TOKENIZER, engine=ENGINE):
    """The losses of one document, read on its own."""
    return np.concatenate([nats for _, nats in exact_losses(engine, tokenizer.start_id, [with_end(text, tokenizer)])])


def cut(texts, sizes):
    """Pieces of ``texts``, cut at ``sizes``."""
    codes = np.array([ord(c) for c in "".join(texts)], np.uint32)
    ends = np.cumsum([len(text) for text in texts])
    bounds = sorted({0, len(codes), *(size for size in sizes if size < len(codes))})
    taken = 0
    for start, stop in itertools.pairwise(bounds):
        here = ends[taken:][ends[taken:] <= stop]
        taken += len(here)
        yield Piece(codes[start:stop], here - start)
    yield Piece(codes[:0], ends[taken:] * 0)  # documents without a character, at the end


@settings(max_examples=60, deadline=None)
@given(documents_of_words)
def test_a_batch_of_documents_equals_one_at_a_time(texts):
    ids = np.concatenate([with_end(text) for text in texts])
    ends = np.flatnonzero(ids == TOKENIZER.end_id) + 1
    found = batched_document_losses(ENGINE, TOKENIZER.start_id, ids, ends)
    expected = np.concatenate([alone(text) for text in texts])
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(documents_of_words, st.integers(1, 400))
def test_an_evaluation_is_the_sum_of_its_documents_for_any_blocks(texts, size):
    ids = np.concatenate([with_end(text) for text in texts])
    blocks = [ids[start : start + size] for start in range(0, len(ids), size)]
    found = evaluate(ENGINE, TOKENIZER, blocks)
    losses = [alone(text).astype(np.float64) for text in texts]
    assert found.nats == pytest.approx(sum(nats.sum() for nats in losses), rel=1e-5)
    assert found.documents == len(texts)
    assert found.characters == sum(len(text) + 1 for text in texts)
    assert found.end_nats == pytest.approx(sum(float(nats[-1]) for nats in losses), rel=1e-5)
    assert found.unknown_characters == sum(text.count("x") + text.count("ü") for text in texts)
    assert found.nats_per_document == pytest.approx(found.nats / len(texts))
    if len(texts) >= 5:
        counts = np.array([len(text) + 1 for text in texts])
        sums = np.array([nats.sum() for nats in losses])
        without = (sums.sum() - sums) / (counts.sum() - counts)  # the jackknife
        error = math.sqrt((len(texts) - 1) / len(texts) * ((without - found.nats_per_char) ** 2).sum())
        assert found.standard_error == pytest.approx(error, rel=1e-3, abs=1e-9)
    else:
        assert found.standard_error is None


def test_a_long_document_is_read_chunk_by_chunk(monkeypatch):
    texts = ["abc", "", "cab" * 400, "b", "a" * 700, "c"]
    ids = np.concatenate([with_end(text) for text in texts])
    whole = evaluate(ENGINE, TOKENIZER, [ids])
    monkeypatch.setattr(losses, "DOCUMENT_POOL", 300)
    largest = []
    original = batched_document_losses
    monkeypatch.setattr(losses, "batched_document_losses", lambda *a: largest.append(len(a[2])) or original(*a))
    for size in (1, 50, 299, 2000):
        found = evaluate(ENGINE, TOKENIZER, [ids[i : i + size] for i in range(0, len(ids), size)])
        assert found.nats == pytest.approx(whole.nats, rel=1e-5)
        assert (found.documents, found.characters) == (len(texts), whole.characters)
        assert found.end_nats == pytest.approx(whole.end_nats, rel=1e-5)
        if size == 50:
            assert max(largest) <= 350


def test_an_evaluation_can_be_stopped_between_chunks():
    """Ctrl-C in training depends on it: the evaluation of all documents may take longer than the user waits."""
    ids = np.concatenate([with_end("abc" * 100) for _ in range(400)])
    steps = []
    evaluate(ENGINE, TOKENIZER, [ids], progress=steps.append)
    assert sum(steps) == len(ids)
    assert max(steps) <= MAX_BATCH_IDS < len(ids)


def test_without_a_document_there_is_nothing_to_evaluate():
    with pytest.raises(DataError):
        evaluate(ENGINE, TOKENIZER, [])


@settings(max_examples=60, deadline=None)
@given(documents_of_words, st.lists(st.integers(1, 600), max_size=5), st.booleans())
def test_a_score_does_not_depend_on_other_documents(texts, sizes, at_once):
    texts = sorted(texts, key=len, reverse=True)  # empty documents last, where ``cut`` puts them
    found = list(itertools.chain(*score_documents(ENGINE, TOKENIZER, cut(texts, sizes), at_once)))
    assert [(scored.number, scored.text) for scored in found] == list(enumerate(texts, start=1))
    for scored in found:
        assert scored.nats == pytest.approx(float(alone(scored.text).sum(dtype=np.float64)), rel=1e-5)
        assert scored.characters == len(scored.text) + 1
        assert scored.unknown_characters == scored.text.count("x") + scored.text.count("ü")
        assert scored.bits_per_char == pytest.approx(scored.nats / math.log(2) / scored.characters)


@given(documents_of_words, st.lists(st.integers(1, 600), max_size=5))
def test_the_texts_of_documents(texts, sizes):
    texts = sorted(texts, key=len, reverse=True)
    assert list(document_texts(TOKENIZER, cut(texts, sizes))) == list(enumerate(texts, start=1))


def test_the_size_of_pools_does_not_matter(monkeypatch):
    texts = [("abc é" * (number % 7)) + "b" for number in range(300)]
    whole = list(itertools.chain(*score_documents(ENGINE, TOKENIZER, cut(texts, []))))
    monkeypatch.setattr(scoring, "DOCUMENT_POOL", 64)
    pools = list(score_documents(ENGINE, TOKENIZER, cut(texts, range(10, 9000, 37))))
    assert len(pools) > 10
    found = list(itertools.chain(*pools))
    assert [s.text for s in found] == texts
    assert [s.nats for s in found] == pytest.approx([s.nats for s in whole], rel=1e-5)


def test_scores_of_bytes_and_of_running_text():
    engine = make_engine(BYTES)
    codes = np.frombuffer(b"ab\xff\nc", np.uint8)
    (found,) = score_documents(engine, BYTES, split_documents([[codes]], "lines"))
    assert [(s.text, s.characters) for s in found] == [("ab\udcff", 4), ("c", 2)]
    assert found[0].nats == pytest.approx(float(alone("ab\udcff", BYTES, engine).sum()), rel=1e-5)

    engine = make_engine(INNER)
    (found,) = score_documents(engine, INNER, cut(["cab", "a", ""], []))
    assert [s.characters for s in found] == [3, 1, 0]
    expected = sum(float(nats.sum()) for _, nats in exact_losses(engine, INNER.start_id, [INNER.encode("cab")]))
    assert found[0].nats == pytest.approx(expected, rel=1e-5)
    assert (found[2].nats, found[2].bits_per_char) == (0.0, 0.0)


def test_ids_of_pieces_are_those_of_documents():
    texts = ["abc", "xé", "b"]
    found = np.concatenate([TOKENIZER.encode_documents(p.codes, p.ends) for p in cut(texts, [1, 4])])
    assert found.tolist() == np.concatenate([with_end(text) for text in texts]).tolist()


@pytest.mark.parametrize("text", ["", "a", "abcxüé" * 100])
def test_surprisals_add_up_to_the_score(text):
    found = list(surprisals(ENGINE, TOKENIZER, with_end(text)))
    assert "".join(s.character for s in found) == text
    assert found[-1].character == ""
    assert len(found) == len(text) + 1
    assert sum(s.nats for s in found) == pytest.approx(float(alone(text).sum(dtype=np.float64)), rel=1e-5)
    for surprisal in found:
        probabilities = [probability for _, probability in surprisal.alternatives]
        assert len(probabilities) == 5
        assert probabilities == sorted(probabilities, reverse=True)
        likely = dict(surprisal.alternatives)
        if surprisal.character in likely and surprisal.character in [*ALPHABET, ""]:
            assert likely[surprisal.character] == pytest.approx(math.exp(-surprisal.nats), rel=1e-6)
