import math
from collections import Counter

import numpy as np
import pytest

from charlm.config import ModelConfig
from charlm.engine import create_engine
from charlm.errors import DataError
from charlm.evaluation.measure import evaluate, evaluate_streams
from charlm.evaluation.metrics import Tally
from charlm.model.char_lm import CharLM
from charlm.tokenizer.characters import CharTokenizer


@pytest.fixture(scope="module")
def setting(text):
    tokenizer = CharTokenizer.build(Counter(map(ord, text.replace("ï", "i"))))
    model = CharLM(ModelConfig(tokenizer.vocabulary_size, 2, 24, 16), seed=4)
    return create_engine(model.config, model.weights(), device="cpu"), tokenizer, text[:3000]


def step_by_step(engine, tokenizer, text):
    """The sum of -log p over ids from the definition, one step at a time, in float64."""
    state, previous, total = engine.initial_state(1), tokenizer.start_id, 0.0
    for target in tokenizer.encode(text):
        logits, state = engine.step(np.array([previous]), state)
        row = logits[0].astype(np.float64)
        total -= row[target] - (row.max() + math.log(np.exp(row - row.max()).sum()))
        previous = target
    return total


def test_eval_equals_the_sum_of_single_steps(setting):
    engine, tokenizer, text = setting
    evaluation = evaluate(engine, tokenizer, [tokenizer.encode(text)])
    assert evaluation.nats == pytest.approx(step_by_step(engine, tokenizer, text), rel=1e-6)
    assert abs(evaluation.nats_per_char - step_by_step(engine, tokenizer, text) / len(text)) < 1e-4
    assert evaluation.characters == len(text)
    assert evaluation.predictions == len(tokenizer.encode(text)) > len(text)
    assert evaluation.bytes == len(text.encode())


@pytest.mark.parametrize("size", [1, 7, 128, 1000])
def test_the_size_of_blocks_does_not_matter(setting, size):
    engine, tokenizer, text = setting
    ids = tokenizer.encode(text)
    whole = evaluate(engine, tokenizer, [ids])
    blocks = evaluate(engine, tokenizer, (ids[i : i + size] for i in range(0, len(ids), size)))
    assert blocks.nats == pytest.approx(whole.nats, rel=1e-6)
    assert (blocks.characters, blocks.unknown_characters) == (whole.characters, whole.unknown_characters)
    assert blocks.unknown_nats == pytest.approx(whole.unknown_nats, rel=1e-6)
    assert blocks.standard_error == pytest.approx(whole.standard_error, rel=1e-5)


def test_unknown_characters_are_counted_separately(setting):
    engine, tokenizer, text = setting
    evaluation = evaluate(engine, tokenizer, [tokenizer.encode(text)])
    assert evaluation.unknown_characters == text.count("ï") > 0
    known = evaluation.nats_per_known_char * (evaluation.characters - evaluation.unknown_characters)
    assert known + evaluation.unknown_nats == pytest.approx(evaluation.nats)


def test_metrics_are_consistent(setting):
    engine, tokenizer, text = setting
    e = evaluate(engine, tokenizer, [tokenizer.encode(text)])
    assert e.bits_per_char == pytest.approx(e.nats_per_char / math.log(2))
    assert e.perplexity == pytest.approx(math.exp(e.nats_per_char))
    assert e.bits_per_byte * e.bytes == pytest.approx(e.bits_per_char * e.characters)


def test_parallel_streams_are_nearly_exact(setting):
    engine, tokenizer, text = setting
    ids = tokenizer.encode(text)
    exact = evaluate(engine, tokenizer, [ids])
    one = evaluate_streams(engine, tokenizer, ids, streams=1)
    many = evaluate_streams(engine, tokenizer, ids, streams=5, warmup=100)
    assert one.nats == pytest.approx(exact.nats, rel=1e-6)
    assert many.nats == pytest.approx(exact.nats, rel=1e-3)
    assert (many.characters, many.predictions) == (exact.characters, exact.predictions)


def test_crops_are_windows_from_the_initial_state(setting):
    engine, tokenizer, text = setting
    ids = tokenizer.encode(text.replace("ï", "i"))
    window = 64
    crops = evaluate(engine, tokenizer, (ids[i : i + 100] for i in range(0, len(ids), 100)), window)
    total = count = 0
    for start in range(0, len(ids) - window, window):
        crop = ids[start : start + window + 1, None]
        nats, _ = engine.losses(crop[:-1], crop[1:], engine.initial_state(1))
        total, count = total + nats.sum(), count + nats.size
    assert crops.predictions == count
    assert crops.nats == pytest.approx(total, rel=1e-5)


def test_too_little_text(setting):
    engine, tokenizer, _ = setting
    with pytest.raises(DataError):
        evaluate(engine, tokenizer, [])
    with pytest.raises(DataError):
        evaluate(engine, tokenizer, [tokenizer.encode("short")], 64)
    assert evaluate(engine, tokenizer, [tokenizer.encode("x")]).standard_error is None


def test_parallel_streams_have_the_standard_error_of_the_text_in_order(setting):
    """The rows of streams are put one after another again, so that what is near in the text is near in the sum."""
    engine, tokenizer, text = setting
    ids = tokenizer.encode(text)
    exact = evaluate(engine, tokenizer, [ids])
    assert evaluate_streams(engine, tokenizer, ids, 5, 100).standard_error == pytest.approx(
        exact.standard_error, rel=0.02
    )


def test_the_interval():
    tokenizer = CharTokenizer.build({97: 1, 98: 1})
    tally = Tally(tokenizer)
    tally.add(np.full(30_000, tokenizer.encode("a")[0]), np.random.default_rng(0).normal(2.0, 0.5, 30_000))
    found = tally.result()
    low, high = found.interval
    assert (low + high) / 2 == pytest.approx(found.nats_per_char)
    assert (high - low) / 2 == pytest.approx(2.306 * found.standard_error, rel=1e-3)  # 8 degrees of freedom
    facts = found.as_dict()
    assert (facts["interval_95"], facts["standard_error"]) == (found.interval, found.standard_error)
    assert facts["standard_error_is_rough"] is False
