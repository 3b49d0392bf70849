import numpy as np
import pytest
import torch
from conftest import DROPOUTS
from torch import nn

from charlm.config import ModelConfig
from charlm.model.char_lm import CharLM, _Dropout, activation_penalty, cross_entropy, detach
from charlm.model.lstm import native_runs

SHAPES = [
    ModelConfig(50, 1, 24, 24),
    ModelConfig(50, 2, 24, 24),
    ModelConfig(50, 3, 32, 20),
]


def ids(length, batch, vocabulary=50, seed=0):
    return torch.randint(vocabulary, (length, batch), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", SHAPES, ids=str)
@pytest.mark.parametrize("chunk", [1, 7, 128, 150])
def test_chunked_equals_whole(config, chunk):
    model, sequence = CharLM(config, seed=1), ids(150, 3)
    whole, end = model(sequence, model.initial_state(3))
    state, pieces = model.initial_state(3), []
    for start in range(0, 150, chunk):
        logits, state = model(sequence[start : start + chunk], state)
        state = detach(state)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=1e-5, atol=1e-6)
    for layer, layer_end in zip(state, end, strict=True):
        torch.testing.assert_close(layer, layer_end, rtol=1e-5, atol=1e-6)
    losses = [cross_entropy(logits, sequence).sum() for logits in (torch.cat(pieces), whole)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=0)


def test_one_layer_equals_torch_lstm():
    model = CharLM(ModelConfig(50, 2, 24, 24), seed=3)
    reference = nn.LSTM(24, 24, 2)
    with torch.no_grad():
        for number, layer in enumerate(model.layers()):
            getattr(reference, f"weight_ih_l{number}").copy_(layer.weight_ih)
            getattr(reference, f"weight_hh_l{number}").copy_(layer.weight_hh)
            getattr(reference, f"bias_ih_l{number}").copy_(layer.bias)
            getattr(reference, f"bias_hh_l{number}").zero_()
    sequence = ids(40, 4)
    expected = reference(model.embedding(sequence))[0] @ model.embedding.weight.T + model.decoder.bias
    torch.testing.assert_close(model(sequence, model.initial_state(4))[0], expected, rtol=1e-5, atol=1e-6)


def test_decoder_and_embedding_are_one_tensor():
    config = ModelConfig(50, 2, 24, 16)
    model = CharLM(config)
    assert model.decoder.weight is model.embedding.weight
    assert {name: array.shape for name, array in model.weights().items()} == config.parameter_shapes()
    assert sum(p.numel() for p in model.parameters()) == config.parameter_count()
    model(ids(5, 2), model.initial_state(2))[0].sum().backward()
    assert model.embedding.weight.grad is not None


def test_forget_gate_bias_is_one_and_other_biases_are_zero():
    for layer in CharLM(ModelConfig(50, 2, 24, 16)).layers():
        width = layer.width
        assert (layer.bias[width : 2 * width] == 1).all()
        assert layer.bias.sum() == width


def test_loaded_weights_give_the_same_logits():
    config = ModelConfig(50, 2, 24, 16)
    model, other = CharLM(config, 1), CharLM(config, 2)
    other.load_weights(model.weights())
    sequence = ids(9, 2)
    assert torch.equal(model(sequence, model.initial_state(2))[0], other(sequence, other.initial_state(2))[0])


@pytest.mark.parametrize("name", DROPOUTS)
def test_each_dropout_needs_a_generator_and_repeats_with_its_seed(name):
    model = CharLM(ModelConfig(50, 2, 24, 24, **{name: 0.5}), seed=1)
    sequence, start = ids(12, 2), model.initial_state(2)

    def logits(seed=None):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return model(sequence, start, generator)[0]

    assert torch.equal(logits(), logits())
    assert not torch.equal(logits(1), logits())
    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))


def test_output_dropout_mask_is_the_same_at_every_time_step():
    model = CharLM(ModelConfig(50, 1, 24, 24, dropout_output=0.5), seed=1)
    with torch.no_grad():
        model.decoder.bias.zero_()
        model.embedding.weight.copy_(torch.eye(50, 24))  # the logits are then the outputs themselves
        model.layers()[0].bias.normal_(generator=torch.Generator().manual_seed(0))
    logits = model(ids(30, 2), model.initial_state(2), torch.Generator().manual_seed(0))[0]
    dropped = logits[:, :, :24] == 0
    assert (dropped == dropped[0]).all()
    assert 0.2 < dropped[0].float().mean() < 0.8


def test_embedding_dropout_drops_every_occurrence_of_a_character():
    model = CharLM(ModelConfig(50, 1, 24, 24, dropout_embedding=0.5), seed=1)
    sequence, generator = ids(60, 3), torch.Generator().manual_seed(4)
    rows, index = model._first_input(sequence, _Dropout(generator))
    read = rows if index is None else rows[index]
    gone = (read == 0).all(2)
    assert 0.2 < gone.float().mean() < 0.8
    for character in sequence.unique():
        assert len(gone[sequence == character].unique()) == 1


@pytest.mark.parametrize("dropouts", [{}, {"dropout_input": 0.5}])
def test_number_of_distinct_rows_is_padded_to_few_values(dropouts):
    model, generator = CharLM(ModelConfig(5000, 1, 24, 24, **dropouts), seed=1), torch.Generator().manual_seed(4)
    if not native_runs(model.embedding.weight):
        pytest.skip("the native engine was not built")
    sizes, distinct = set(), set()
    for seed in range(20):
        sequence = ids(60, 3, 5000, seed)
        rows, index = model._first_input(sequence, _Dropout(generator))
        sizes.add(len(rows))
        distinct.add(len(sequence.unique()))
        assert index.shape == sequence.shape
        if not dropouts:
            assert (rows[index] == model.embedding.weight[sequence]).all()
    assert sizes == {192}
    assert len(distinct) > 4


def test_padding_rows_get_no_gradient():
    model, sequence = CharLM(ModelConfig(50, 1, 24, 24), seed=1), ids(20, 3)
    sequence[sequence == 0] = 1
    output = model.read(sequence, model.initial_state(3), None, None)[0]
    output.square().sum().backward()
    gradient = model.embedding.weight.grad
    assert (gradient[0] == 0).all()
    assert (gradient[1] != 0).any()


def test_activation_penalty_agrees_with_its_definition():
    generator = torch.Generator().manual_seed(0)
    output, dropped = (torch.randn(5, 2, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    real = torch.ones(5, 2, dtype=torch.bool)
    real[3:, 1] = False  # the second stream ends after three steps
    level = np.mean([dropped[t, b].square().mean() for t in range(5) for b in range(2) if real[t, b]])
    steps = [output[t, b] - output[t - 1, b] for t in range(1, 5) for b in range(2) if real[t, b]]
    change = np.mean([step.square().mean() for step in steps])
    found = activation_penalty(output, dropped, real, 2.0, 3.0)
    assert float(found) == pytest.approx(2.0 * level + 3.0 * change, rel=1e-6)


def test_dropout_preserves_the_mean():
    model = CharLM(ModelConfig(50, 1, 24, 24, dropout_output=0.3), seed=1)
    sequence, start = ids(6, 2), model.initial_state(2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        mean = torch.stack([model(sequence, start, generator)[0] for _ in range(4000)]).mean(0)
        exact = model(sequence, start)[0]
    assert (mean - exact).abs().max() < 0.05
