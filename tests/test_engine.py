import numpy as np
import pytest
import torch

from charlm.config import ModelConfig
from charlm.engine import create_engine
from charlm.errors import UsageError
from charlm.model import CharLM, cross_entropy

CONFIGS = [ModelConfig(30, 1, 20, 20), ModelConfig(30, 3, 20, 12)]


@pytest.fixture(params=CONFIGS, ids=str)
def model(request):
    return CharLM(request.param, seed=2)


@pytest.fixture
def engine(model):
    return create_engine(model.config, model.weights(), device="cpu")


IDS_TB = np.random.default_rng(0).integers(30, size=(25, 3)).astype(np.uint16)


def test_forward_equals_the_model(engine, model):
    logits, _ = engine.forward(IDS_TB, engine.start(3))
    expected, _ = model(torch.from_numpy(IDS_TB.astype(np.int64)), model.initial_state(3))
    np.testing.assert_allclose(logits, expected.detach().numpy(), rtol=1e-6, atol=1e-6)
    assert logits.dtype == np.float32


def test_step_equals_sequence(engine):
    whole, _ = engine.forward(IDS_TB, engine.start(3))
    state = engine.start(3)
    for ids_B, expected in zip(IDS_TB, whole, strict=True):
        logits, state = engine.step(ids_B, state)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    after_step, _ = engine.forward(IDS_TB[:4], state)
    after_forward, _ = engine.forward(np.concatenate([IDS_TB, IDS_TB[:4]]), engine.start(3))
    np.testing.assert_allclose(after_step, after_forward[-4:], rtol=1e-4, atol=1e-5)


def test_losses_are_the_cross_entropy_of_forward(engine, model):
    inputs, targets = IDS_TB[:-1], IDS_TB[1:]
    nats, _ = engine.losses(inputs, targets, engine.start(3))
    logits, _ = engine.forward(inputs, engine.start(3))
    expected = cross_entropy(torch.from_numpy(logits), torch.from_numpy(targets.astype(np.int64)))
    np.testing.assert_allclose(nats, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_calls_leave_a_given_state_as_it_was(engine):
    _, state = engine.forward(IDS_TB, engine.start(3))
    first, _ = engine.step(IDS_TB[0], state)
    engine.forward(IDS_TB, state)
    again, _ = engine.step(IDS_TB[0], state)
    assert np.array_equal(first, again)


def test_bfloat16_is_near(model):
    engine = create_engine(model.config, model.weights(), device="cpu", precision="bf16")
    exact = create_engine(model.config, model.weights(), device="cpu")
    near, _ = engine.losses(IDS_TB[:-1], IDS_TB[1:], engine.start(3))
    nats, _ = exact.losses(IDS_TB[:-1], IDS_TB[1:], exact.start(3))
    np.testing.assert_allclose(near, nats, atol=0.05)
    assert not np.array_equal(near, nats)


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "meta"])
def test_devices_that_are_not_there(model, device):
    with pytest.raises(UsageError, match="--device"):
        create_engine(model.config, model.weights(), device=device)
