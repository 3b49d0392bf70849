"""Updates: decided on the host or on the device, they are the same; a non-finite one changes nothing."""

import copy

import numpy as np
import pytest
import torch

from charlm.config import ModelConfig, TrainingConfig
from charlm.corpus.batches import Chunk
from charlm.corpus.soft_targets import Soft
from charlm.training.state import TrainingState
from charlm.training.update import LOSS_SCALE, DeviceUpdate, Update

MODEL = ModelConfig(17, 2, 32, 16, dropout_hidden=0.2, dropout_output=0.3)


def chunks(count, length=6, batch=4):
    random = np.random.default_rng(1)
    return [
        Chunk(*(random.integers(17, size=(length, batch)) for _ in range(2)), fresh=number == 0)
        for number in range(count)
    ]


class Undecided:
    """The soft targets of a teacher that finds two ids equally likely everywhere."""

    def of(self, chunk):
        ids_TBK = np.stack([chunk.targets_TB, (chunk.targets_TB + 1) % 17], axis=2)
        return Soft(ids_TBK, np.full(ids_TBK.shape, 0.5, np.float32))


def trained(update_class, count=8, poisoned=(), queued=1, **options):
    """The state, losses and norms, and the carried state after ``count`` updates; ``poisoned`` ones read NaN.

    The results of ``queued`` updates are read together. With a ``soft_weight``, a teacher takes part.
    """
    state = TrainingState.create(MODEL, TrainingConfig(batch=4, bptt=6, **options))
    update = update_class(state, soft_targets=Undecided() if options.get("soft_weight") else None)
    carried, losses = state.model.initial_state(4), []
    for number, chunk in enumerate(chunks(count)):
        if number in poisoned:
            carried = tuple((h_BH * np.nan, c_BH) for h_BH, c_BH in carried)
        carried = update.apply(chunk, carried, lr=2.0 ** -(7 + number % 3))  # exact in float32, too
        if (number + 1) % queued == 0:
            losses += update.results()
    return state, losses + update.results(), carried


def memory(state):
    return [tensor for entry in state.optimizer.state_dict()["state"].values() for tensor in entry.values()]


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "adam"])
@pytest.mark.parametrize("poisoned", [(), (3,), (0, 1, 5)])
@pytest.mark.parametrize("queued", [1, 3, 16])
def test_deciding_on_the_device_gives_the_same_weights_as_deciding_on_the_host(optimizer, poisoned, queued):
    options = {"poisoned": poisoned, "optimizer": optimizer, "weight_decay": 0.12525}
    options["soft_weight"] = 0.75 if queued == 3 else 0.0
    host, host_losses, host_carried = trained(Update, **options)
    device, device_losses, device_carried = trained(DeviceUpdate, queued=queued, **options)
    assert len(host_losses) == 8
    np.testing.assert_array_equal(host_losses, device_losses)
    assert all(torch.equal(a, b) for a, b in zip(host.model.parameters(), device.model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(memory(host), memory(device), strict=True))
    for ours, theirs in zip(host_carried, device_carried, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("update_class", [Update, DeviceUpdate])
def test_a_non_finite_update_changes_no_weight_and_resets_the_state(update_class):
    before, _, _ = trained(update_class, count=3)
    after, losses, carried = trained(update_class, count=4, poisoned=(3,))
    assert np.isnan(losses[-1].loss)
    assert all(torch.equal(a, b) for a, b in zip(before.model.parameters(), after.model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(memory(before), memory(after), strict=True))
    assert not any(tensor.any() for pair in carried for tensor in pair)


def test_the_loss_scale_is_undone_before_clipping():
    """A power of two changes no bit of a float32 gradient."""
    state = TrainingState.create(MODEL, TrainingConfig(batch=4, bptt=6, clip=0.05))
    plain, scaled = Update(state), Update(copy.copy(state))
    scaled._scale = LOSS_SCALE
    gradients = []
    for update in (plain, scaled):
        state.generator.manual_seed(1)
        _, norm, _ = update._gradients(update._batch(chunks(1)[0]), state.model.initial_state(4))
        gradients.append([norm, *(parameter.grad.clone() for parameter in state.model.parameters())])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
