import itertools
import threading

import numpy as np
import pytest
import torch
from conftest import INSTRUCTION_SETS, environment, library, needs_native
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.config import ModelConfig, SamplingConfig
from charlm.engine import GenerationEngine, StateEngine, create_engine
from charlm.engine.native import NativeEngine
from charlm.engine.torch import TorchEngine
from charlm.errors import UsageError
from charlm.model.char_lm import CharLM, cross_entropy
from charlm.tokenizer.protocol import Constraint

CONFIGS = [ModelConfig(30, 1, 20, 20), ModelConfig(30, 3, 20, 12), ModelConfig(70, 2, 48, 64)]
KINDS = ["torch", *INSTRUCTION_SETS]
IDS_TB = np.random.default_rng(0).integers(30, size=(25, 3)).astype(np.uint16)


@pytest.fixture(params=CONFIGS, ids=str)
def model(request):
    return CharLM(request.param, seed=2)


def make(model, kind, precision="fp32", threads=1):
    with environment(CHARLM_ENGINE="torch" if kind == "torch" else None, CHARLM_ISA=None if kind == "torch" else kind):
        return create_engine(model.config, model.weights(), "cpu", precision, threads)


@pytest.fixture(params=KINDS)
def engine(model, request):
    return make(model, request.param)


def test_each_engine_is_the_requested_one(model):
    assert isinstance(make(model, "torch"), TorchEngine)
    for kind in INSTRUCTION_SETS:
        assert kind in make(model, kind).name


def test_forward_equals_the_model(engine, model):
    logits, _ = engine.forward(IDS_TB, engine.initial_state(3))
    with environment(CHARLM_ENGINE="torch"):
        expected, _ = model(torch.from_numpy(IDS_TB.astype(np.int64)), model.initial_state(3))
    np.testing.assert_allclose(logits, expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert logits.dtype == np.float32


def test_step_equals_sequence(engine):
    whole, _ = engine.forward(IDS_TB, engine.initial_state(3))
    state = engine.initial_state(3)
    for ids_B, expected in zip(IDS_TB, whole, strict=True):
        logits, state = engine.step(ids_B, state)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    after_step, _ = engine.forward(IDS_TB[:4], state)
    after_forward, _ = engine.forward(np.concatenate([IDS_TB, IDS_TB[:4]]), engine.initial_state(3))
    np.testing.assert_allclose(after_step, after_forward[-4:], rtol=1e-4, atol=1e-5)


def test_losses_are_the_cross_entropy_of_forward(engine):
    inputs, targets = IDS_TB[:-1], IDS_TB[1:]
    nats, _ = engine.losses(inputs, targets, engine.initial_state(3))
    logits, _ = engine.forward(inputs, engine.initial_state(3))
    expected = cross_entropy(torch.from_numpy(logits), torch.from_numpy(targets.astype(np.int64)))
    np.testing.assert_allclose(nats, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_calls_do_not_modify_a_given_state(engine):
    _, state = engine.forward(IDS_TB, engine.initial_state(3))
    first, _ = engine.step(IDS_TB[0], state)
    engine.forward(IDS_TB, state)
    again, _ = engine.step(IDS_TB[0], state)
    assert np.array_equal(first, again)


def test_the_state_of_each_layer_can_be_read(engine, model):
    _, state = engine.forward(IDS_TB, engine.initial_state(3))
    with environment(CHARLM_ENGINE="torch"):
        _, expected = model(torch.from_numpy(IDS_TB.astype(np.int64)), model.initial_state(3))
    assert isinstance(engine, StateEngine)
    found = engine.layer_states(state)
    assert len(found) == model.config.layers
    for layer, (hidden, cell), (_, width) in zip(found, expected, model.config.layer_widths(), strict=True):
        assert layer.hidden_BH.shape == layer.cell_BH.shape == (3, width)
        np.testing.assert_allclose(layer.hidden_BH, hidden.detach().numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(layer.cell_BH, cell.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_repeated_state_equals_that_of_identical_streams(engine):
    _, one = engine.forward(IDS_TB[:, :1], engine.initial_state(1))
    _, three = engine.forward(np.repeat(IDS_TB[:, :1], 3, axis=1), engine.initial_state(3))
    found, _ = engine.step(IDS_TB[0], engine.gather([(one, np.zeros(3, np.int64))]))
    expected, _ = engine.step(IDS_TB[0], three)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_lower_precisions_are_near(model, kind, precision):
    if (kind, precision) == ("torch", "int8"):
        with pytest.raises(UsageError, match="'int8' needs the native engine"):
            make(model, kind, precision)
        return
    engine, exact = make(model, kind, precision), make(model, kind)
    near, _ = engine.losses(IDS_TB[:-1], IDS_TB[1:], engine.initial_state(3))
    nats, _ = exact.losses(IDS_TB[:-1], IDS_TB[1:], exact.initial_state(3))
    np.testing.assert_allclose(near, nats, atol=0.05)
    assert not np.array_equal(near, nats)


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "meta"])
def test_missing_devices(model, device):
    with pytest.raises(UsageError, match="--device"):
        create_engine(model.config, model.weights(), device=device)


def test_invalid_arguments(model):
    with pytest.raises(UsageError, match="precision must be"):
        create_engine(model.config, model.weights(), "cpu", "fp8")
    for threads in (0, -1, 5000):
        with pytest.raises(UsageError, match="threads must be"):
            create_engine(model.config, model.weights(), "cpu", threads=threads)


@needs_native
def test_auto_is_the_fastest_precision_with_a_small_cost(model):
    def chosen(costs):
        return create_engine(model.config, model.weights(), "cpu", "auto", 1, costs).name.split(", ")[1]

    assert chosen({}) == "fp32"
    assert chosen({"int8": 0.0002}) == "int8"
    assert chosen({"int8": 0.02, "bf16": -0.0004}) == "bf16"
    assert chosen({"int8": 0.02, "bf16": 0.0011}) == "fp32"


# ----------------------------------------------------------------------------------------------- native, bit by bit

PRECISIONS = ["fp32", "bf16", "int8"]


def native(instruction_set, config, precision, threads):
    return NativeEngine(library(instruction_set), config, CharLM(config, seed=4).weights(), precision, threads)


@needs_native
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(PRECISIONS),
    st.sampled_from([*CONFIGS, ModelConfig(300, 1, 96, 96), ModelConfig(40, 2, 100, 33)]),
    st.integers(1, 30),
    st.integers(1, 40),
    st.data(),
)
def test_chunks_threads_and_other_streams_do_not_change_a_bit(instruction_set, precision, config, length, batch, data):
    ids_TB = np.random.default_rng(length * batch).integers(config.vocabulary_size, size=(length, batch))
    one = native(instruction_set, config, precision, 1)
    whole, end = one.forward(ids_TB, one.initial_state(batch))
    three = native(instruction_set, config, precision, 3)
    cuts = sorted(data.draw(st.sets(st.integers(0, length), max_size=4)) | {0, length})
    state, pieces = three.initial_state(batch), []
    for start, stop in itertools.pairwise(cuts):
        logits, state = three.forward(ids_TB[start:stop], state)
        pieces.append(logits)
    assert np.array_equal(np.concatenate(pieces), whole)
    assert all(np.array_equal(a, b) for a, b in zip(state, end, strict=True))
    stream = data.draw(st.integers(0, batch - 1))
    alone, _ = one.forward(ids_TB[:, stream : stream + 1], one.initial_state(1))
    assert np.array_equal(alone[:, 0], whole[:, stream])


@needs_native
def test_int8_is_nearly_the_same_on_every_processor():
    """The sums are exact integers; only the floating-point operations between them round differently."""
    config = ModelConfig(30, 2, 64, 48)
    results = [native(name, config, "int8", 1).forward(IDS_TB, native(name, config, "int8", 1).initial_state(3))[0]
               for name in INSTRUCTION_SETS]  # fmt: skip
    for result in results[1:]:
        assert np.abs(result - results[0]).max() < 0.02


@needs_native
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_vocabulary_whose_table_does_not_fit_gives_the_same(precision):
    """Above 256 MB the input sums of the first layer are not looked up but computed as needed."""
    big, small = ModelConfig(40_000, 1, 432, 432), ModelConfig(50, 1, 432, 432)
    weights = CharLM(big, seed=1).weights()
    fewer = {name: array[:50] if name in ("embedding.weight", "decoder.bias") else array
             for name, array in weights.items()}  # fmt: skip
    ids_TB = np.random.default_rng(1).integers(50, size=(9, 2))
    engines = [NativeEngine(library(), config, w, precision, 2) for config, w in ((big, weights), (small, fewer))]
    logits, results = [], []
    for engine in engines:
        logits_TBV, state = engine.forward(ids_TB, engine.initial_state(2))
        logits.append(logits_TBV[..., :50])
        allowed = np.zeros((1, engine.vocabulary_size), np.bool_)
        allowed[0, :50] = True
        constraint = Constraint(allowed, np.zeros((1, engine.vocabulary_size), np.int64))
        uniform_NB = np.random.default_rng(2).random((20, 2))
        results.append(
            engine.generate(logits_TBV[-1], state, np.zeros(2, np.int64), uniform_NB, SamplingConfig(), constraint)
        )
    assert np.array_equal(*logits)
    assert np.array_equal(results[0][0], results[1][0])


@needs_native
def test_ids_out_of_range_are_refused(model):
    engine = make(model, INSTRUCTION_SETS[0])
    for wrong in (-1, model.config.vocabulary_size):
        with pytest.raises(IndexError):
            engine.step(np.array([wrong]), engine.initial_state(1))


@needs_native
def test_two_models_run_in_parallel():
    config = ModelConfig(60, 2, 256, 256)  # large enough for two threads each
    engines = [native("", config, precision, 2) for precision in ("int8", "fp32")]
    uniform_NB = np.random.default_rng(0).random((300, 1))
    constraint = Constraint(np.ones((1, 60), np.bool_), np.zeros((1, 60), np.int64))

    def generate(engine):
        logits, state = engine.step(np.zeros(1, np.int64), engine.initial_state(1))
        return engine.generate(logits, state, np.zeros(1, np.int64), uniform_NB, SamplingConfig(), constraint)[0]

    alone = [generate(engine) for engine in engines]
    together: dict[int, list] = {0: [], 1: []}
    threads = [
        threading.Thread(target=lambda n=n: together[n].extend(generate(engines[n]) for _ in range(5)))
        for n in together
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, texts in together.items():
        assert len(texts) == 5
        assert all(np.array_equal(text, alone[number]) for text in texts)


@needs_native
def test_the_native_engine_generates_and_torch_does_not(model):
    assert isinstance(make(model, INSTRUCTION_SETS[0]), GenerationEngine)
    assert not isinstance(make(model, "torch"), GenerationEngine)
