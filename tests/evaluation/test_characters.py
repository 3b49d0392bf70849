"""Surprisal, entropy and rank of characters, and the surprisal of words, against a model that is read step by step."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import charlm
from charlm.config import ModelConfig
from charlm.engine import create_engine
from charlm.evaluation.characters import CharacterScores, joined, score_characters, score_words
from charlm.evaluation.scoring import surprisals
from charlm.model.char_lm import CharLM
from charlm.tokenizer.bytes import ByteTokenizer
from charlm.tokenizer.characters import CharTokenizer
from charlm.tokenizer.documents import DocumentTokenizer

INNER = CharTokenizer.build({ord(c): 30 for c in "abcé \n"})
TOKENIZER = DocumentTokenizer(INNER, "lines")


def make_engine(tokenizer):
    model = CharLM(ModelConfig(tokenizer.vocabulary_size, 2, 20, 12), seed=5)
    return create_engine(model.config, model.weights(), device="cpu")


ENGINE = make_engine(TOKENIZER)


def step_by_step(ids):
    """(bits, entropy, rank) of each id, from probabilities that are computed one id at a time."""
    state, previous = ENGINE.initial_state(1), TOKENIZER.start_id
    for target in ids.tolist():
        logits, state = ENGINE.step(np.array([previous]), state)
        p = np.exp(logits[0].astype(np.float64))
        p /= p.sum()
        entropy = -sum(each * math.log2(each) for each in p.tolist())
        yield -math.log2(p[target]), entropy, 1 + sorted(-p).index(-p[target])
        previous = target


def with_end(text):
    return np.append(TOKENIZER.encode(text), TOKENIZER.end_id)


@pytest.mark.parametrize("text", ["", "a", "abc é", "xü a", "ab cé\n" * 90])
def test_scores_are_those_of_the_probabilities(text):
    ids = with_end(text)
    found = joined(score_characters(ENGINE, TOKENIZER, ids))
    assert found.characters == [*text, ""]
    expected = list(step_by_step(ids))
    starts = [*np.flatnonzero(TOKENIZER.starts_character[ids]).tolist(), len(ids)]
    for place, (start, stop) in enumerate(itertools.pairwise(starts)):
        bits = sum(each[0] for each in expected[start:stop])
        assert found.bits[place] == pytest.approx(bits, rel=1e-4)
        assert found.entropy[place] == pytest.approx(expected[start][1], rel=1e-4)
        assert found.rank[place] == expected[start][2]
    assert found.unknown.tolist() == [character in "xü" and character != "" for character in found.characters]


def test_pieces_hold_whole_characters_wherever_the_chunks_end(monkeypatch):
    ids = with_end("aü" * 40)
    whole = joined(score_characters(ENGINE, TOKENIZER, ids))
    for size in (1, 2, 3, 7):
        monkeypatch.setattr("charlm.evaluation.characters.CHUNK", size)
        pieces = list(score_characters(ENGINE, TOKENIZER, ids))
        assert len(pieces) > 1
        found = joined(pieces)
        assert found.characters == whole.characters
        assert found.bits == pytest.approx(whole.bits, rel=1e-5)
        assert (found.rank == whole.rank).all()


def test_a_prefix_is_read_and_not_scored():
    before = [TOKENIZER.encode("abc" * 200), TOKENIZER.encode("é")]
    found = joined(score_characters(ENGINE, TOKENIZER, with_end("ab"), before))
    expected = list(step_by_step(np.concatenate([*before, with_end("ab")])))[-3:]
    assert found.characters == ["a", "b", ""]
    assert found.bits == pytest.approx([bits for bits, _, _ in expected], rel=1e-4)


def test_surprisals_have_the_same_entropy_and_rank():
    ids = with_end("abc xü é")
    found = joined(score_characters(ENGINE, TOKENIZER, ids))
    for place, surprisal in enumerate(surprisals(ENGINE, TOKENIZER, ids)):
        assert surprisal.nats == pytest.approx(found.bits[place] * math.log(2), rel=1e-6)
        assert surprisal.entropy == pytest.approx(found.entropy[place] * math.log(2), rel=1e-6)
        assert surprisal.rank == found.rank[place]


def scores(text, ended):
    characters = [*text, *([""] if ended else [])]
    bits = np.arange(1.0, len(characters) + 1)
    return CharacterScores(characters, bits, bits, bits.astype(np.int64), bits > 0)


@settings(deadline=None)
@given(st.text(alphabet="ab,\n \t\u3000é", max_size=30), st.booleans(), st.integers(0, 30))
def test_the_bits_of_a_word_are_the_sum_of_its_characters(text, ended, cut):
    whole = scores(text, ended)
    pieces = [CharacterScores(*(column[:cut] for column in whole)), CharacterScores(*(c[cut:] for c in whole))]
    words = list(score_words(pieces))
    assert [word.text for word in words] == text.split()
    for word in words:
        stop = word.start + len(word.text)
        assert text[word.start : stop] == word.text
        assert word.characters == len(word.text)
        assert word.bits == pytest.approx(sum(range(word.start + 1, stop + 1)))
        assert word.bits_after == (stop + 1 if stop < len(whole.characters) else None)


def test_words_of_bytes_are_texts():
    tokenizer = ByteTokenizer()
    engine = make_engine(tokenizer)
    ids = tokenizer.encode("né \udcffa")
    found = joined(score_characters(engine, tokenizer, ids))
    assert [word.text for word in score_words([found])] == ["né", "\udcffa"]
    assert [word.characters for word in score_words([found])] == [3, 2]


def test_a_model_scores_characters_and_words(trained_run, document_run, table_run):
    text = "the cat saw naïve dogs"
    for run, ended in ((trained_run, 0), (document_run, 1)):
        model = charlm.load(run)
        found = model.score_characters(text)
        assert found.characters[: len(text)] == [*text]
        assert len(found.characters) == len(text) + ended
        assert found.bits[: len(text)] == pytest.approx(-model.score(text) / math.log(2), rel=1e-4, abs=1e-5)
        words = model.score_words(text)
        assert [word.text for word in words] == text.split()
        spaces = sum(found.bits[place] for place, character in enumerate([*text, ""][: len(found.bits)])
                     if not character.strip())  # fmt: skip
        assert sum(word.bits for word in words) + spaces == pytest.approx(found.bits.sum())
    model = charlm.load(table_run)
    north, south = (model.score_characters("Bjorsven", given=region).bits.sum() for region in ("north", "south"))
    assert north < south
