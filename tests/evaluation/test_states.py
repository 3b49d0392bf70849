"""Vectors of texts and activations of cells, against a model that reads one text at a time."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import charlm
from charlm.config import ModelConfig
from charlm.engine import create_engine
from charlm.errors import UsageError
from charlm.evaluation import states
from charlm.evaluation.states import activations, embed, last_states, read_side_by_side
from charlm.model.char_lm import CharLM
from charlm.tokenizer.characters import CharTokenizer

TOKENIZER = CharTokenizer.build({ord(c): 30 for c in "abcé \n"})
MODEL = CharLM(ModelConfig(TOKENIZER.vocabulary_size, 2, 20, 12), seed=5)
ENGINE = create_engine(MODEL.config, MODEL.weights(), device="cpu")
TEXTS = st.lists(st.text(alphabet="abéx ", max_size=40), min_size=1, max_size=12)
START = np.array([TOKENIZER.start_id])


def states_of(text, before=START):
    """The states of the layers after each id of ``before`` and the text, which is read alone."""
    state, found = ENGINE.initial_state(1), []
    for id_ in np.concatenate([before, TOKENIZER.encode(text)]).tolist():
        _, state = ENGINE.step(np.array([id_]), state)
        found.append(ENGINE.layer_states(state))
    return found


@settings(max_examples=40, deadline=None)
@given(TEXTS, st.integers(1, 5))
def test_texts_side_by_side_have_the_states_of_each_alone(texts, streams):
    ids = [TOKENIZER.encode(text) for text in texts]
    seen = [0] * len(texts)
    alone = [states_of(text, START[:0]) for text in texts]
    for time, rows, layers in read_side_by_side(ENGINE, ids, streams):
        for place, row in enumerate(rows.tolist()):
            assert time == seen[row]
            seen[row] += 1
            for layer, expected in zip(layers, alone[row][time], strict=True):
                np.testing.assert_allclose(layer.hidden_BH[place], expected.hidden_BH[0], rtol=1e-4, atol=1e-6)
                np.testing.assert_allclose(layer.cell_BH[place], expected.cell_BH[0], rtol=1e-4, atol=1e-6)
    assert seen == [len(each) for each in ids]


@pytest.mark.parametrize("chunk", [1, 3, 256])
def test_last_states_do_not_depend_on_the_chunks(monkeypatch, chunk):
    monkeypatch.setattr(states, "CHUNK", chunk)
    texts = ["", "ab", "abé", "c" * 9, "ab", "xa" * 8, "b" * 700]
    ids = [TOKENIZER.encode(text) for text in texts]
    found = {row: [each.cell_BH[place] for each in layers] for rows, layers in last_states(ENGINE, ids)
             for place, row in enumerate(rows.tolist())}  # fmt: skip
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    for row, layers in found.items():
        for cell, expected in zip(layers, states_of(texts[row], START[:0])[-1], strict=True):
            np.testing.assert_allclose(cell, expected.cell_BH[0], rtol=1e-4, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(TEXTS, st.booleans())
def test_a_vector_is_the_last_state_or_the_mean_over_the_text(texts, mean):
    before = np.concatenate([START, TOKENIZER.encode("ab")])
    found = embed(ENGINE, 12, ((before, TOKENIZER.encode(text)) for text in texts), mean)
    assert (found.shape, found.dtype) == ((len(texts), 12), np.float32)
    for vector, text in zip(found, texts, strict=True):
        hidden = np.stack([layers[-1].hidden_BH[0] for layers in states_of(text, before)])
        of_text = hidden[len(before) :] if text else hidden[-1:]
        expected = of_text.mean(axis=0) if mean else hidden[-1]
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("limits", [(3, 1 << 20), (1 << 20, 30)])
def test_pools_do_not_matter_and_keep_the_order(monkeypatch, limits):
    texts = ["abc " * (number % 5) + "b" for number in range(20)]
    pairs = [(START, TOKENIZER.encode(text)) for text in texts]
    whole = embed(ENGINE, 12, pairs, False)
    monkeypatch.setattr(states, "_MAX_POOL_TEXTS", limits[0])
    monkeypatch.setattr(states, "_MAX_POOL_IDS", limits[1])
    calls = []
    monkeypatch.setattr(states, "_embed_pool", lambda *a, of=states._embed_pool: calls.append(len(a[2])) or of(*a))
    np.testing.assert_allclose(embed(ENGINE, 12, iter(pairs), False), whole, rtol=1e-5, atol=1e-6)
    assert len(calls) > 3
    assert embed(ENGINE, 12, [], True).shape == (0, 12)


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_activations_follow_each_character(layer):
    text = "abxé"
    before = [TOKENIZER.encode("ca")]
    found = np.stack(list(activations(ENGINE, TOKENIZER, TOKENIZER.encode(text), layer, before)))
    everything = states_of(text, np.concatenate([START, *before]))
    ends = [3, 4, 5, 6]  # x is one byte piece
    expected = np.stack([np.tanh(everything[place][layer].cell_BH[0]) for place in ends])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_an_unknown_character_has_the_activation_after_its_last_byte():
    found = list(activations(ENGINE, TOKENIZER, TOKENIZER.encode("aüb"), 0))
    everything = states_of("aüb")
    assert len(everything) == 5
    assert len(found) == 3
    np.testing.assert_allclose(found[1], np.tanh(everything[3][0].cell_BH[0]), rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------------------ of a model


def test_a_model_embeds_texts(trained_run, document_run, table_run):
    for run in (trained_run, document_run):
        model = charlm.load(run)
        vectors = model.embed(["the cat", "", "the dogs", "the cat"])
        assert (vectors.shape, vectors.dtype) == ((4, model.config.embedding), np.float32)
        np.testing.assert_allclose(vectors[0], vectors[3], rtol=1e-5, atol=1e-6)
        assert np.abs(vectors[0] - vectors[2]).max() > 0.01
        assert np.abs(vectors - model.embed(["the cat", "", "the dogs", "the cat"], "mean")).max() > 0.01
    model = charlm.load(table_run)
    north, south = (model.embed(["Marco"], given=region)[0] for region in ("north", "south"))
    assert np.abs(north - south).max() > 0.01
    with pytest.raises(UsageError, match="given"):
        model.embed(["Marco"])


def test_activations_of_a_model(trained_run):
    model = charlm.load(trained_run)
    found = model.activations("the naïve cat")
    assert found.shape == (13, model.config.layer_widths()[0][1])
    assert np.abs(found).max() <= 1
    np.testing.assert_allclose(model.activations("the"), found[:3], rtol=1e-4, atol=1e-6)
    assert model.activations("").shape == (0, found.shape[1])


def test_invalid_arguments(trained_run):
    model = charlm.load(trained_run)
    for call, hint in [
        (lambda: model.embed("one text"), "not one string"),
        (lambda: model.embed(["a", 3]), r"texts\[1\]"),
        (lambda: model.embed(["a"], "max"), "last or mean"),
        (lambda: model.activations("a", 1), "layer must be 0 to 0"),
        (lambda: model.activations("a", True), "layer must be"),
        (lambda: type(model).ensemble([model, model]).embed(["a"]), "ensemble"),
    ]:
        with pytest.raises(UsageError, match=hint):
            call()


LINES = """the time of our lives is short; the king shall have his crown, and i will speak of love and honour to the
court; let me not to the marriage of true minds admit impediments; she walks in the garden with her brother, and the
soldiers of the duke are sleeping by the river; no man that is wise would follow him into the dark; come hither, my
good lord, and tell me what news there is from the city; the heavens are full of stars tonight, and every one is mine"""


def test_vectors_tell_two_languages_apart():
    """English, and a language with the same letters as often: English with each word reversed."""
    draw = random.Random(3)
    words = [word.strip(";,") for word in LINES.split()]
    texts = [" ".join(draw.choices(words, k=8)) for _ in range(80)]
    reversed_texts = [" ".join(word[::-1] for word in text.split()) for text in texts]
    labels = np.repeat([0, 1], 80)
    known = np.tile(np.arange(80) < 40, 2)
    model = charlm.load("shakespeare")
    for pooling in ("last", "mean"):
        vectors = model.embed([*texts, *reversed_texts], pooling)
        assert nearest_centroid(vectors, labels, known) >= 0.9
    letters = np.array([[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz "]
                        for text in [*texts, *reversed_texts]])  # fmt: skip
    assert nearest_centroid(letters, labels, known) <= 0.6, "the letters alone do not tell"


def nearest_centroid(vectors, labels, known):
    """The accuracy on what is not ``known``."""
    centroids = np.stack([vectors[known & (labels == label)].mean(axis=0) for label in (0, 1)])
    distances = np.linalg.norm(vectors[~known][:, None] - centroids[None], axis=2)
    return float((distances.argmin(axis=1) == labels[~known]).mean())
