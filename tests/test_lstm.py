import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.lstm import cell, fused_recurrence, plain_recurrence


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 20), st.integers(1, 20), st.integers(0, 1000))
def test_fused_equals_plain_in_value_and_gradient(length, batch, width_in, width, seed):
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


def test_a_cell_is_the_equations():
    i, f, g, o, c = (torch.tensor([[v]]) for v in (0.3, -0.2, 0.7, 1.1, 0.5))
    h_new, c_new = cell(torch.cat([i, f, g, o], dim=1), c)
    expected = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    assert torch.equal(c_new, expected)
    assert torch.equal(h_new, torch.sigmoid(o) * torch.tanh(expected))
