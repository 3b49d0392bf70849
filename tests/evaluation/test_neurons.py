"""Cells that follow a property of the text: the probes, and the search, against numpy's correlation."""

import numpy as np
import pytest

import charlm
from charlm.engine import LayerState
from charlm.errors import UsageError
from charlm.evaluation.neurons import PROBES, find_neurons, probe_values, probed_documents, probed_streams
from charlm.tokenizer.bytes import ByteTokenizer
from charlm.tokenizer.characters import CharTokenizer

TOKENIZER = CharTokenizer.build({ord(c): 30 for c in 'abcAB"()\n '})


@pytest.mark.parametrize(
    ("probe", "text", "values"),
    [
        ("quotes", 'a "b" c', "0011000"),
        ("quotes", "“a” «b» 'c", "1100110000"),
        ("quotes", '"a\nb\n\nc', "1111100"),
        ("quotes", '"a\n\r\nb"', "1111001"),
        ("line", "ab\nc\n\nde", "12010012"),
        ("upper", "aBÉ1ß", "01100"),
        ("parentheses", "a(b[c])d)(", "0112210001"),
    ],
)
def test_probes(probe, text, values):
    found = PROBES[probe](text)
    assert found.astype(int).tolist() == [*map(int, values)]


class ToyEngine:
    """Two layers of three cells. Layer 1, cell 2 tells whether the number of quotes is odd; cell 0 is its negative,
    with noise; the others are noise. The state is the number of ids read and of quotes, for each stream."""

    name = "toy"

    def __init__(self):
        self.noise = np.random.default_rng(0).normal(size=(100_000, 6)).astype(np.float32)
        self.quote = int(TOKENIZER.encode('"')[0])

    def initial_state(self, batch):
        return np.zeros((batch, 2), np.int64)

    def gather(self, parts):
        return np.concatenate([state[rows] for state, rows in parts])

    def step(self, ids_B, state):
        return None, state + np.stack([np.ones_like(ids_B), ids_B == self.quote], axis=1)

    def layer_states(self, state):
        noise_BC = self.noise[state[:, 0] * 7 % 100_000] * 0.3
        odd_B = (state[:, 1] % 2) * 2.0 - 1
        cell_BC = np.concatenate([noise_BC[:, :3], np.stack([noise_BC[:, 3] - odd_B, noise_BC[:, 4], odd_B], 1)], 1)
        return [LayerState(cell_BC[:, :3] * 0, cell_BC[:, :3]), LayerState(cell_BC[:, 3:] * 0, cell_BC[:, 3:])]


def quoted_text(count):
    draw = np.random.default_rng(1)
    return "".join('"' if draw.random() < 0.1 else draw.choice([*"abcAB("]) for _ in range(count))


def test_the_cell_that_follows_a_probe_is_found():
    text = quoted_text(900)  # one stream, so that the toy has seen all quotes
    probes = {"quotes": PROBES["quotes"], "never": lambda text: [0] * len(text), "upper": PROBES["upper"]}
    found = find_neurons(ToyEngine(), list(probed_streams(TOKENIZER, text, probes)), list(probes), 2)
    assert [(each.probe, each.layer, each.cell) for each in found[:2]] == [("quotes", 1, 2), ("quotes", 1, 0)]
    assert found[0].correlation == pytest.approx(1.0)
    assert -1 < found[1].correlation < -0.8
    assert [each.probe for each in found[2:]] == ["upper", "upper"]
    assert all(abs(each.correlation) < 0.3 for each in found[2:])


def test_documents_are_read_from_the_initial_state():
    texts = [quoted_text(60 + number) for number in range(30)]
    probed = probed_documents(TOKENIZER, texts, [], {"quotes": PROBES["quotes"]})
    (best,) = find_neurons(ToyEngine(), list(probed), ["quotes"], 1)
    assert (best.layer, best.cell, best.correlation) == (1, 2, pytest.approx(1.0))


@pytest.mark.parametrize("tokenizer", [TOKENIZER, ByteTokenizer()], ids=["characters", "bytes"])
def test_streams_cover_each_character_once(tokenizer):
    text = quoted_text(5000) + "ü" * 200
    probes = {"place": lambda text: np.arange(len(text)), "upper": PROBES["upper"]}
    streams = list(probed_streams(tokenizer, text, probes))
    assert len(streams) > 1
    places = np.concatenate([stream.values_PT[0][stream.counted_T] for stream in streams])
    assert places.tolist() == [*range(len(text))]
    upper = np.concatenate([stream.values_PT[1][stream.counted_T] for stream in streams])
    assert upper.tolist() == [character.isupper() for character in text]
    for stream in streams:
        assert stream.values_PT.shape[1] == len(stream.ids) == len(stream.counted_T) == len(stream.half_T)
    halves = np.concatenate([stream.half_T[stream.counted_T] for stream in streams])
    assert halves.tolist() == sorted(halves)
    assert abs(halves.mean() - 0.5) < 0.05


def test_correlations_are_those_of_the_activations(trained_run):
    model = charlm.load(trained_run)
    text = "the cat saw naïve dogs\nand a mat; " * 20
    probes = {"vowel": lambda text: [character in "aeiouï" for character in text]}
    found = model.find_neurons(text, probes, top=48)
    activations = model.activations(text)
    values = np.array(probes["vowel"](text), float)
    # The halves are of ids, and ï has one.
    halves = np.arange(len(text)) >= len(text) / 2
    first = [np.corrcoef(values[~halves], activation[~halves])[0, 1] for activation in activations.T]
    second = [np.corrcoef(values[halves], activation[halves])[0, 1] for activation in activations.T]
    assert [each.cell for each in found[:3]] == np.argsort(-np.abs(first))[:3].tolist()
    assert {each.cell for each in found} == {*range(48)}
    assert [each.correlation for each in found] == pytest.approx([second[each.cell] for each in found], abs=1e-4)
    assert {each.layer for each in found} == {0}
    assert abs(found[0].correlation) > 0.4


def test_a_model_of_documents_and_one_with_conditions(document_run, table_run):
    model = charlm.load(document_run)
    found = model.find_neurons("the cat sat\non a mat\nand\n" * 20, top=2)
    assert {each.probe for each in found} == {"line"}
    found = charlm.load(table_run).find_neurons("Bjorsven\nGulrik\nMundstein\nSvenrik\n", given="north", top=1)
    assert [each.probe for each in found] == ["line", "upper"]


def test_invalid_probes_and_ensembles(trained_run):
    model = charlm.load(trained_run)
    for probe in (lambda text: [1, 2], lambda text: "abc", lambda text: None, lambda text: [["a"]]):
        with pytest.raises(UsageError, match="the probe 'mine'"):
            model.find_neurons("the cat", {"mine": probe})
    with pytest.raises(UsageError, match="ensemble"):
        type(model).ensemble([model, model]).find_neurons("the cat")
    assert probe_values("", PROBES).shape == (4, 0)
