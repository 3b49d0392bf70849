import pytest
import torch
from conftest import INSTRUCTION_SETS, environment, needs_native
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm import native
from charlm.model import lstm
from charlm.model.lstm import cell, fused_recurrence, native_recurrence, plain_recurrence, torch_has_bfloat16


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 20), st.integers(1, 20), st.integers(0, 1000))
def test_fused_recurrence_equals_plain_in_values_and_gradients(length, batch, width_in, width, seed):
    random = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    results = []
    inputs = [draw(length, batch, width_in), draw(batch, width), draw(batch, width), draw(4 * width, width_in),
              draw(4 * width, width), draw(4 * width)]  # fmt: skip
    weigh = draw(length, batch, width)
    for recurrence in (fused_recurrence, plain_recurrence):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        x, h, c, *weights = leaves
        output, (h_end, c_end) = recurrence(x, (h, c), *weights)
        ((output * weigh).sum() + h_end.sum() + (c_end**2).sum()).backward()
        results.append([output, h_end, c_end, *(leaf.grad for leaf in leaves)])
    for fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-9)


def test_cell_agrees_with_the_lstm_equations():
    i, f, g, o, c = (torch.tensor([[v]]) for v in (0.3, -0.2, 0.7, 1.1, 0.5))
    h_new, c_new = cell(torch.cat([i, f, g, o], dim=1), c)
    expected = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    assert torch.equal(c_new, expected)
    assert torch.equal(h_new, torch.sigmoid(o) * torch.tanh(expected))


def gradients(recurrence, inputs, weigh, dtype, **more):
    """Outputs, end state, and the gradient for every input of a loss that depends on all of them."""
    leaves = [tensor.detach().to(dtype, copy=True).requires_grad_() for tensor in inputs]
    x, h, c, *weights = leaves
    output, (h_end, c_end) = recurrence(x, (h, c), *weights, **more)
    loss = (output * weigh.to(output.dtype)).sum() + h_end.sum() + (c_end**2).sum()
    loss.backward()
    return [output.detach(), h_end.detach(), c_end.detach(), *(leaf.grad for leaf in leaves)]


def draw_inputs(length, batch, width_in, width, seed, rows=None):
    """x [T, B, I] (or [rows, I]), h, c, W_ih, W_hh, bias of usual magnitudes, and weights [T, B, H] for the loss."""
    random = torch.Generator().manual_seed(seed)
    shapes = [(length, batch, width_in) if rows is None else (rows, width_in), (batch, width), (batch, width),
              (4 * width, width_in), (4 * width, width), (4 * width,)]  # fmt: skip
    scales = [1.0, 0.5, 1.0, width_in**-0.5, width**-0.5, 1.0]
    inputs = [
        s * torch.randn(*shape, generator=random, dtype=torch.float64) for s, shape in zip(scales, shapes, strict=True)
    ]
    index = torch.randint(rows or 1, (length, batch), generator=random)
    return inputs, torch.randn(length, batch, width, generator=random, dtype=torch.float64), index


def errors(found, expected):
    """For each tensor: the norm of the difference divided by the norm."""
    return [float((a.double() - b).norm() / b.norm().clamp_min(1e-30)) for a, b in zip(found, expected, strict=True)]


def whole_error(found, expected, state):
    """The larger error of two vectors: all outputs concatenated, and all gradients concatenated.

    A tensor of a random shape may hold one number, the difference of larger ones, which float32 cannot represent
    exactly: a new cell state is f c + i g. So the norm of the outputs includes the ``state`` [2, B, H] they depend on.
    """
    outputs, gradients_ = (
        [torch.cat([tensor.double().flatten() for tensor in side[part]]) for side in (found, expected)]
        for part in (slice(0, 3), slice(3, None))
    )
    size = torch.cat([outputs[1], torch.stack(state).flatten()]).norm()
    return max(float((outputs[0] - outputs[1]).norm() / size), *errors([gradients_[0]], [gradients_[1]]))


SHAPES = st.tuples(
    st.integers(1, 12), st.integers(1, 15), st.integers(1, 40), st.integers(1, 70), st.integers(0, 10_000)
)


@needs_native
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(SHAPES)
def test_native_recurrence_agrees_to_a_millionth(instruction_set, shape):
    inputs, weigh, _ = draw_inputs(*shape)
    exact = gradients(plain_recurrence, inputs, weigh, torch.float64)
    with environment(CHARLM_ISA=instruction_set):
        found = gradients(native_recurrence, inputs, weigh, torch.float32)
    assert whole_error(found, exact, inputs[1:3]) <= 1e-6


@needs_native
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(SHAPES, st.integers(1, 9))
def test_native_recurrence_by_index_agrees_with_gathered_rows(instruction_set, shape, rows):
    inputs, weigh, index = draw_inputs(*shape, rows=rows)

    def looked_up(x, *others):
        return plain_recurrence(x[index], *others)

    exact = gradients(looked_up, inputs, weigh, torch.float64)
    with environment(CHARLM_ISA=instruction_set):
        found = gradients(native_recurrence, inputs, weigh, torch.float32, index_TB=index)
    assert whole_error(found, exact, inputs[1:3]) <= 1e-6


@needs_native
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_native_bfloat16_is_at_least_as_exact_as_autocast(instruction_set):
    inputs, weigh, _ = draw_inputs(40, 12, 96, 96, 1)
    exact = gradients(plain_recurrence, inputs, weigh, torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        torchs = gradients(fused_recurrence if torch_has_bfloat16() else plain_recurrence, inputs, weigh, torch.float32)
        with environment(CHARLM_ISA=instruction_set):
            found = gradients(native_recurrence, inputs, weigh, torch.float32)
    assert sum(errors(found, exact)) < sum(errors(torchs, exact))
    assert max(errors(found, exact)) < 2e-2


def test_without_a_bfloat16_lstm_in_torch_float32_is_used(monkeypatch):
    inputs, weigh, _ = draw_inputs(6, 3, 16, 16, 1)
    exact = gradients(plain_recurrence, inputs, weigh, torch.float64)
    monkeypatch.setattr(lstm, "torch_has_bfloat16", lambda: False)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(fused_recurrence, inputs, weigh, torch.float32)
    assert max(errors(found, exact)) < 1e-5


@needs_native
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("shape", [(20, 8, 32, 64), (7, 5, 33, 47), (1, 4, 24, 100), (30, 1, 17, 24)], ids=str)
def test_every_gradient_is_exact_to_a_millionth(instruction_set, shape):
    inputs, weigh, _ = draw_inputs(*shape, seed=3)
    exact = gradients(plain_recurrence, inputs, weigh, torch.float64)
    with environment(CHARLM_ISA=instruction_set):
        found = gradients(native_recurrence, inputs, weigh, torch.float32)
    assert max(errors(found, exact)) <= 1e-6


@needs_native
def test_threads_and_batch_size_do_not_change_a_bit():
    inputs, weigh, _ = draw_inputs(9, 7, 32, 48, 4)
    one = gradients(native_recurrence, inputs, weigh, torch.float32)
    torch.set_num_threads(3)
    try:
        three = gradients(native_recurrence, inputs, weigh, torch.float32)
    finally:
        torch.set_num_threads(1)
    for a, b in zip(one, three, strict=True):
        assert torch.equal(a, b)
    x, h, c, *weights = (tensor.float() for tensor in inputs)
    alone, _ = native_recurrence(x[:, 3:4], (h[3:4], c[3:4]), *weights)
    assert torch.equal(alone, one[0][:, 3:4])


@needs_native
def test_nan_inputs_give_nan_outputs():
    inputs, _, _ = draw_inputs(5, 3, 16, 16, 0)
    inputs[0][2, 1] = torch.nan
    x, h, c, *weights = (tensor.float() for tensor in inputs)
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output, (h_end, c_end) = native_recurrence(x, (h, c), *weights)
        assert output[2:, 1].isnan().all()
        assert h_end[1].isnan().all()
        assert c_end[1].isnan().all()
        assert output[:2].isfinite().all()
        assert output[:, [0, 2]].isfinite().all()


@needs_native
def test_result_without_gradients_is_the_same():
    inputs, weigh, _ = draw_inputs(6, 3, 20, 24, 2)
    with_gradients = gradients(native_recurrence, inputs, weigh, torch.float32)
    x, h, c, *weights = (tensor.float() for tensor in inputs)
    with torch.no_grad():
        output, (h_end, c_end) = native_recurrence(x, (h, c), *weights)
    for a, b in zip((output, h_end, c_end), with_gradients, strict=False):
        assert torch.equal(a, b)


@needs_native
def test_gradients_of_only_the_end_state_or_only_the_outputs():
    inputs, _, _ = draw_inputs(6, 3, 20, 24, 2)
    for use in (lambda out, end: out.sum(), lambda out, end: end[0].sum(), lambda out, end: end[1].sum()):
        results = []
        for recurrence, dtype in ((plain_recurrence, torch.float64), (native_recurrence, torch.float32)):
            leaves = [tensor.detach().to(dtype, copy=True).requires_grad_() for tensor in inputs]
            x, h, c, *weights = leaves
            use(*recurrence(x, (h, c), *weights)).backward()
            results.append([leaf.grad for leaf in leaves])
        assert max(errors(results[1], results[0])) <= 1e-6


def test_environment_variable_disables_the_native_engine():
    with environment(CHARLM_ENGINE="torch"):
        assert native.find_library() is None
