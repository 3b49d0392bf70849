import numpy as np
import pytest
import torch

from charlm.config import ModelConfig, TrainingConfig
from charlm.errors import DataError
from charlm.model.char_lm import CharLM
from charlm.training.averaging import Average

SHAPE = ModelConfig(20, 1, 8, 8)


def walk(config, steps, observe=lambda average, step: None):
    """A random walk of weights: the model, its average, and the weights of each step."""
    model = CharLM(SHAPE, 1)
    average = Average(model, config)
    generator, seen = torch.Generator().manual_seed(2), []
    for step in range(steps):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        average.update()
        observe(average, step)
        seen.append(model.weights())
    return model, average, seen


def averaged(model, average):
    with average.applied():
        return model.weights()


def close(found, expected):
    return all(np.allclose(found[name], expected[name], rtol=1e-4, atol=1e-5) for name in expected)


def test_ema_agrees_with_its_definition():
    decay = 0.9
    model, average, seen = walk(TrainingConfig(average="ema", average_decay=decay), 150)
    expected = {name: array.astype(np.float64) for name, array in seen[0].items()}
    for step, weights in enumerate(seen[1:], start=2):
        share = max(1 - decay, 10 / (10 + step))
        expected = {name: (1 - share) * expected[name] + share * weights[name] for name in expected}
    assert close(averaged(model, average), expected)
    assert not close(seen[-1], expected)


def test_triggered_average_is_the_mean_since_the_loss_stopped_improving():
    losses = [3.0, 2.0, 2.1, 2.0, 2.2, 1.0, 1.1, 1.2, 1.3, 1.4, 0.5, 0.4]  # four bad ones in a row after 1.0

    def observe(average, step):
        if step < len(losses):
            assert average.steps == max(0, step - 9)
            average.observe(losses[step])

    model, average, seen = walk(TrainingConfig(average="triggered"), 30, observe)
    since = seen[10:]
    assert average.steps == len(since)
    assert close(averaged(model, average), {name: np.mean([w[name] for w in since], axis=0) for name in seen[0]})


def test_without_an_average_the_last_weights_are_used():
    model, average, seen = walk(TrainingConfig(average="none"), 5)
    assert average.steps == 0
    assert average.last_weights() == {}
    assert close(averaged(model, average), seen[-1])


def test_applying_the_average_restores_the_weights_afterwards():
    model, average, seen = walk(TrainingConfig(average="ema"), 5)
    with average.applied():
        assert not close(model.weights(), seen[-1])
    assert all(np.array_equal(model.weights()[name], seen[-1][name]) for name in seen[-1])
    assert model.decoder.weight is model.embedding.weight


def test_restored_average_continues_identically():
    config = TrainingConfig(average="ema", average_decay=0.8)
    model, average, _ = walk(config, 7)
    other = CharLM(SHAPE, 5)
    again = Average(other, config)
    again.restore(averaged(model, average), average.last_weights(), average.state(), "here")
    for one, kept in ((model, average), (other, again)):
        with torch.no_grad():
            one.embedding.weight.mul_(2.0)
        kept.update()
    first, second = averaged(model, average), averaged(other, again)
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tensors, state: tensors.pop("last.decoder.bias"),
        lambda tensors, state: tensors.update({"last.decoder.bias": np.zeros(3, np.float32)}),
        lambda tensors, state: tensors.update({"last.decoder.bias": tensors["last.decoder.bias"].astype(np.float16)}),
        lambda tensors, state: state.update(steps=-1),
        lambda tensors, state: state.update(steps="7"),
        lambda tensors, state: state.update(wrong=1),
    ],
)
def test_inconsistent_tensors_and_state_are_refused(spoil):
    config = TrainingConfig(average="ema")
    model, average, _ = walk(config, 3)
    tensors, state = average.last_weights(), average.state()
    spoil(tensors, state)
    with pytest.raises(DataError):
        Average(CharLM(SHAPE), config).restore(averaged(model, average), tensors, state, "here")


def test_saved_average_is_refused_by_a_training_without_one():
    model, average, _ = walk(TrainingConfig(average="ema"), 3)
    with pytest.raises(DataError, match="its training has none"):
        Average(CharLM(SHAPE), TrainingConfig(average="none")).restore(
            averaged(model, average), average.last_weights(), average.state(), "here"
        )
