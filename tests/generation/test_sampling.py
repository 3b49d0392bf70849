from collections import Counter

import numpy as np
import pytest
from conftest import INSTRUCTION_SETS, environment, needs_native
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.config import ModelConfig, SamplingConfig
from charlm.engine import create_engine
from charlm.errors import UsageError
from charlm.generation.sampling import next_ids, uniform_generators
from charlm.generation.streams import IdStream, IdStreams, ReadPrompt, read_prompt
from charlm.model.char_lm import CharLM
from charlm.tokenizer.characters import CharTokenizer

PROBABILITIES = np.array([0.05, 0.4, 0.1, 0.25, 0.2])
LOGITS = np.log(PROBABILITIES)[None] + 3.0


def support(config, allowed=None):
    """The ids sampled over a fine grid of uniform numbers, and their frequencies."""
    u = (np.arange(20_000) + 0.5) / 20_000
    ids = next_ids(np.repeat(LOGITS, len(u), axis=0), u, config, allowed)
    return {int(i): np.mean(ids == i) for i in np.unique(ids)}


def test_plain_sampling_follows_the_distribution():
    assert support(SamplingConfig()) == pytest.approx(dict(enumerate(PROBABILITIES)), abs=1e-3)


def test_temperature():
    sharp = PROBABILITIES**2 / (PROBABILITIES**2).sum()
    assert support(SamplingConfig(temperature=0.5)) == pytest.approx(dict(enumerate(sharp)), abs=1e-3)
    assert support(SamplingConfig(temperature=0)) == {1: 1.0}


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.39}, {1}),
        ({"top_p": 0.41}, {1, 3}),
        ({"top_p": 0.84}, {1, 3, 4}),
        ({"min_p": 0.3}, {1, 3, 4}),
        ({"top_k": 4, "top_p": 0.9, "min_p": 0.55}, {1, 3}),
        ({"top_k": 4, "top_p": 0.8}, {1, 3, 4}),
    ],
)
def test_filters_keep_the_right_ids_in_the_right_proportions(options, kept):
    expected = {i: PROBABILITIES[i] / sum(PROBABILITIES[j] for j in kept) for i in kept}
    assert support(SamplingConfig(**options)) == pytest.approx(expected, abs=1e-3)


def test_ids_that_are_not_allowed_are_never_sampled():
    allowed = np.array([[True, False, True, False, False]])
    assert set(support(SamplingConfig(), allowed)) == {0, 2}
    assert set(support(SamplingConfig(temperature=0), allowed)) == {2}


def test_ties_favour_the_lower_id():
    logits = np.zeros((1, 6))
    assert next_ids(logits, np.array([0.999]), SamplingConfig(top_k=2))[0] == 1
    assert next_ids(logits, np.array([0.5]), SamplingConfig(temperature=0))[0] == 0


@settings(max_examples=200)
@given(
    st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=30),
    st.floats(0, 1, exclude_max=True),
    st.floats(0.01, 100),
    st.integers(0, 40),
    st.floats(0.01, 1),
    st.floats(0, 1),
)
def test_any_logits_give_a_valid_id(logits, u, temperature, top_k, top_p, min_p):
    config = SamplingConfig(temperature, top_k, top_p, min_p)
    rows = np.array([logits, logits])
    ids = next_ids(rows, np.array([u, np.nextafter(1.0, 0.0)]), config)
    weights = np.exp((rows[0] - rows[0].max()) / temperature)
    assert all(0 <= i < len(logits) and weights[i] > 0 for i in ids)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"temperature": float("nan")}, {"temperature": float("inf")}, {"top_k": -1},
              {"top_p": 0}, {"top_p": 1.1}, {"min_p": -0.1}, {"min_p": float("nan")}]
)  # fmt: skip
def test_invalid_settings_are_refused(wrong):
    with pytest.raises(UsageError, match=f"^{next(iter(wrong))} must be"):
        SamplingConfig(**wrong)


@pytest.fixture(scope="module")
def setting():
    tokenizer = CharTokenizer.build(Counter(map(ord, "abc\u2581\0\n" * 5)))
    model = CharLM(ModelConfig(tokenizer.vocabulary_size, 1, 16, 16), seed=1)
    return create_engine(model.config, model.weights(), device="cpu"), tokenizer


class StepByStep:
    """An engine without its ``generate``, so that ids are sampled by ``next_ids``."""

    def __init__(self, engine):
        self.initial_state, self.gather = engine.initial_state, engine.gather
        self.step, self.forward = engine.step, engine.forward
        self.losses, self.name = engine.losses, engine.name


CONFIGS = [
    SamplingConfig(),
    SamplingConfig(0),
    SamplingConfig(50),
    SamplingConfig(1e-6),
    SamplingConfig(5, top_k=3),
    SamplingConfig(2, top_p=0.7),
    SamplingConfig(3, min_p=0.4),
    SamplingConfig(3, 8, 0.9, 0.1),
]


@needs_native
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_native_engine_samples_the_same_ids(setting, instruction_set, config):
    _, tokenizer = setting
    model = CharLM(ModelConfig(tokenizer.vocabulary_size, 2, 40, 24), seed=1)
    with environment(CHARLM_ISA=instruction_set):
        engine = create_engine(model.config, model.weights(), "cpu", "int8", 2)
    whole = draw((engine, tokenizer), "ab", range(5), 300, config=config)
    assert np.array_equal(draw((StepByStep(engine), tokenizer), "ab", range(5), 300, config=config), whole)
    one_by_one = IdStream(engine, tokenizer, [tokenizer.encode("ab")], config, uniform_generators(5, range(5)))
    assert np.array_equal(np.concatenate([one_by_one.draw(1) for _ in range(300)]), whole)
    assert np.array_equal(draw((engine, tokenizer), "ab", [3], 300, config=config)[:, 0], whole[:, 3])


def draw(setting, prompt, samples, count=60, seed=5, config=None, size=None):
    engine, tokenizer = setting
    ids = tokenizer.encode(prompt)
    size = size or max(1, len(ids))
    blocks = (ids[i : i + size] for i in range(0, len(ids), size))
    stream = IdStream(engine, tokenizer, blocks, config or SamplingConfig(), uniform_generators(seed, samples))
    return drawn(stream, count)


def drawn(stream, count):
    pieces = []
    while (missing := count - sum(map(len, pieces))) > 0:
        pieces.append(stream.draw(missing))
    return np.concatenate(pieces)


def test_same_seed_same_ids(setting):
    assert np.array_equal(draw(setting, "ab", [0]), draw(setting, "ab", [0]))
    assert not np.array_equal(draw(setting, "ab", [0]), draw(setting, "ab", [0], seed=6))


def test_a_sample_does_not_depend_on_the_others(setting):
    together = draw(setting, "ab", range(7))
    for number in (0, 3, 6):
        assert np.array_equal(draw(setting, "ab", [number])[:, 0], together[:, number])
    assert len({tuple(column) for column in together.T}) == 7


def test_streams_after_different_prompts_join_and_leave(setting):
    """Three streams after two prompts, of which one leaves and another joins, have the ids that each has alone."""
    engine, tokenizer = setting
    prompts = [ReadPrompt(*[*read_prompt(engine, tokenizer, [tokenizer.encode(text)])][-1]) for text in ("ab", "bca")]
    generators = uniform_generators(5, range(4))
    streams = IdStreams(engine, tokenizer, SamplingConfig())
    streams.join(np.zeros(0, np.int64), [(prompts[0], generators[:2]), (prompts[1], generators[2:3])])
    first = drawn(streams, 20)
    streams.join(np.array([2, 0]), [(prompts[1], generators[3:])])
    second = drawn(streams, 40)
    assert np.array_equal(np.concatenate([first[:, 0], second[:, 1]]), draw(setting, "ab", [0])[:, 0])
    assert np.array_equal(first[:, 1], draw(setting, "ab", [1], 20)[:, 0])
    assert np.array_equal(np.concatenate([first[:, 2], second[:, 0]]), draw(setting, "bca", [2])[:, 0])
    assert np.array_equal(second[:, 2], draw(setting, "bca", [3], 40)[:, 0])


def test_the_prompt_may_come_in_pieces(setting):
    assert np.array_equal(draw(setting, "abcab" * 90, [0]), draw(setting, "abcab" * 90, [0], size=7))


def test_only_characters_of_the_corpus_are_generated(setting):
    _, tokenizer = setting
    config = SamplingConfig(temperature=50.0)  # at this temperature an untrained model is nearly uniform
    written = "".join(tokenizer.decode(column) for column in draw(setting, "", range(20), 100, config=config).T)
    assert set(written) - {"\ufffd"} == set("abc\u2581\0\n")
    assert written.count("\ufffd") <= 20  # only where a column was cut inside a character
