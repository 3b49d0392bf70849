"""Muon: its matrices become orthonormal in blocks, and the native engine takes the same step as torch."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

from charlm import native
from charlm.training.muon import BLOCK_COLUMNS, COEFFICIENTS, ITERATIONS, LR_FACTOR, Muon, orthogonalize

needs_engine = pytest.mark.skipif(native.find_library() is None, reason="the native engine is not built")
SHAPES = [(512, 128), (256, 300), (64, 16), (96, 200), (1024, 256)]


@functools.cache
def random_matrix(rows, columns, seed=0):
    """A matrix whose singular values fall by a factor of 20, as those of gradients do. Do not change it."""
    generator = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(rows, min(rows, columns), generator=generator))
    right, _ = torch.linalg.qr(torch.randn(columns, min(rows, columns), generator=generator))
    return left * torch.logspace(0, -1.3, min(rows, columns)) @ right.mT


def plain_orthogonalization(x_GI):
    """Newton-Schulz iterations of each block in float64, written out."""
    blocks = []
    for first in range(0, x_GI.shape[1], BLOCK_COLUMNS):
        x = x_GI[:, first : first + BLOCK_COLUMNS].double()
        x = x / torch.linalg.svdvals(x).pow(4).sum().pow(0.25)
        for _ in range(ITERATIONS):
            a, b, c = COEFFICIENTS
            x = a * x + b * x @ x.mT @ x + c * x @ x.mT @ x @ x.mT @ x
        blocks.append(x)
    return torch.cat(blocks, dim=1)


def relative_error(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


def optimizer(*matrices, precision="fp32", momentum=0.8, weight_decay=0.1):
    others = [nn.Parameter(torch.ones(3, 2))], [nn.Parameter(torch.ones(2))]
    muon = Muon(
        matrices, others, lr=0.01, momentum=momentum, betas=(0.9, 0.95), weight_decay=weight_decay, precision=precision
    )
    for other in [*others[0], *others[1]]:
        other.grad = torch.full_like(other, 0.5)
    return muon


def stepped(monkeypatch, engine, shape, steps=3, found_inf=None, **options):
    """The weight and the momentum after some steps by the engine, and all other parameters."""
    monkeypatch.setenv("CHARLM_ENGINE", engine)
    weight = nn.Parameter(random_matrix(*shape, seed=100).clone())
    muon = optimizer(weight, **options)
    for step in range(steps):
        weight.grad = random_matrix(*shape, seed=step)
        if found_inf is not None:
            muon.found_inf = torch.tensor(float(step in found_inf))
        muon.step()
    others = [p.detach() for group in muon.param_groups[1:] for p in group["params"]]
    return weight.detach(), muon.state[weight]["momentum_buffer"], *others


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonalizing_is_the_iteration_written_out(shape):
    x_GI = random_matrix(*shape)
    assert relative_error(orthogonalize(x_GI), plain_orthogonalization(x_GI)) < 1e-4


@pytest.mark.parametrize("shape", [(512, 128), (1024, 256), (64, 16)])
def test_the_singular_values_of_each_block_become_about_1(shape):
    for block in orthogonalize(random_matrix(*shape)).split(BLOCK_COLUMNS, dim=1):
        values = torch.linalg.svdvals(block)
        assert values.max() < 1.25
        assert values.median() > 0.65


def test_the_scale_of_the_matrix_does_not_matter_and_zero_stays_zero():
    x_GI = random_matrix(256, 64)
    assert relative_error(orthogonalize(1e-6 * x_GI), orthogonalize(x_GI).double()) < 1e-4
    assert orthogonalize(torch.zeros(64, 32)).count_nonzero() == 0


def test_a_step_is_nesterov_momentum_orthogonalized_and_decoupled_decay(monkeypatch):
    monkeypatch.setenv("CHARLM_ENGINE", "torch")
    weight = nn.Parameter(random_matrix(64, 32, seed=9).clone())
    muon, before = optimizer(weight), weight.detach().double()
    gradients = [random_matrix(64, 32, seed=seed).double() for seed in (1, 2)]
    momentum = torch.zeros(64, 32).double()
    for gradient in gradients:
        weight.grad = gradient.float()
        muon.step()
        momentum = 0.8 * momentum + 0.2 * gradient
        update = plain_orthogonalization(0.8 * momentum + 0.2 * gradient)
        before = before * (1 - 0.01 * 0.1) - 0.01 * LR_FACTOR * update
    assert relative_error(weight.detach(), before) < 1e-5
    assert relative_error(muon.state[weight]["momentum_buffer"], momentum) < 1e-6


@needs_engine
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.06)])
def test_the_native_step_is_torch_s_step(monkeypatch, shape, precision, tolerance):
    ours, our_momentum, *_ = stepped(monkeypatch, "native", shape, precision=precision)
    theirs, their_momentum, *_ = stepped(monkeypatch, "torch", shape)
    start = random_matrix(*shape, seed=100)
    assert relative_error(ours - start, (theirs - start).double()) < tolerance
    assert relative_error(our_momentum, their_momentum.double()) < 1e-6


@needs_engine
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_native_step_does_not_depend_on_the_number_of_threads(monkeypatch, precision):
    results, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(stepped(monkeypatch, "native", (256, 300), precision=precision))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("engine", [pytest.param("native", marks=needs_engine), "torch"])
def test_a_step_with_found_inf_changes_nothing(monkeypatch, engine):
    without = stepped(monkeypatch, engine, (64, 32), steps=2)
    skipped = stepped(monkeypatch, engine, (64, 32), steps=3, found_inf=(2,))
    assert all(torch.equal(a, b) for a, b in zip(without, skipped, strict=True))


@needs_engine
def test_zero_gradients_decay_the_weights_only(monkeypatch):
    monkeypatch.setenv("CHARLM_ENGINE", "native")
    weight = nn.Parameter(random_matrix(64, 32).clone())
    muon, before = optimizer(weight), weight.detach().clone()
    weight.grad = torch.zeros(64, 32)
    muon.step()
    np.testing.assert_allclose(weight.detach(), before * (1 - 0.001), rtol=1e-6)


def test_matrices_that_are_orthogonalized_side_by_side_change_as_if_they_were_alone(monkeypatch):
    monkeypatch.setenv("CHARLM_ENGINE", "torch")
    shapes = [(256, 128), (256, 100), (512, 128), (256, 384)]

    def changed(together):
        weights = [nn.Parameter(random_matrix(*shape, seed=100).clone()) for shape in shapes]
        for muon in [optimizer(*weights)] if together else [optimizer(weight) for weight in weights]:
            for step in range(2):
                for seed, weight in enumerate(weights):
                    weight.grad = random_matrix(*weight.shape, seed=10 * step + seed)
                muon.step()
        return weights

    for one, other in zip(changed(together=True), changed(together=False), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
