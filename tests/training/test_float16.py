"""float16 on CUDA, emulated on the CPU: why the loss is scaled before its gradient is computed."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from charlm.training.update import LOSS_SCALE

PREDICTIONS = 16_384
"""Of a step on a GPU, 128 streams of 128 characters, over which the loss is a mean. Here are fewer."""
LENGTH, BATCH, WIDTH, VOCABULARY = 32, 16, 64, 66


class Half(torch.autograd.Function):
    """A value that is stored in float16, as is its gradient. Products are accumulated in float32."""

    @staticmethod
    def forward(ctx, x):
        return x.half().float()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.half().float()


def gradients(half, scale):
    """Those of an LSTM's weights, divided by ``scale`` again."""
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape, std):
        return (std * torch.randn(shape, generator=generator)).requires_grad_()

    embedding = drawn(VOCABULARY, WIDTH, std=0.2)
    weight_ih, weight_hh = (drawn(4 * WIDTH, WIDTH, std=WIDTH**-0.5) for _ in range(2))
    ids_TB = torch.randint(VOCABULARY, (LENGTH + 1, BATCH), generator=generator)
    h_BH = c_BH = torch.zeros(BATCH, WIDTH)
    loss = 0.0
    for inputs_B, targets_B in itertools.pairwise(ids_TB):
        x_BH = half(F.embedding(inputs_B, half(embedding)))
        i, f, g, o = half(F.linear(x_BH, half(weight_ih)) + F.linear(h_BH, half(weight_hh))).chunk(4, 1)
        c_BH = f.sigmoid() * c_BH + i.sigmoid() * g.tanh()
        h_BH = half(o.sigmoid() * c_BH.tanh())
        logits_BV = half(F.linear(h_BH, half(embedding)))
        loss = loss + F.cross_entropy(logits_BV, targets_B, reduction="sum") / PREDICTIONS
    (loss * scale).backward()
    return torch.cat([weight.grad.flatten() / scale for weight in (embedding, weight_ih, weight_hh)])


@pytest.fixture(scope="module")
def exact():
    return gradients(lambda x: x, 1.0)


def error(found, exact):
    return float((found - exact).norm() / exact.norm())


def test_the_scaled_gradient_has_an_error_below_a_thousandth(exact):
    assert error(gradients(Half.apply, LOSS_SCALE), exact) < 1e-3


def test_without_scale_the_error_would_be_larger(exact):
    assert error(gradients(Half.apply, 1.0), exact) > 3 * error(gradients(Half.apply, LOSS_SCALE), exact)
