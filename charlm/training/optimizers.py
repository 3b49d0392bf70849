"""The optimizers, and their state as plain arrays for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.config import TrainingConfig
from charlm.errors import DataError
from charlm.model.char_lm import CharLM
from charlm.training.muon import Muon

_PREFIX = "optimizer"
_ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")
_STATE = {"Adam": _ADAM_STATE, "AdamW": _ADAM_STATE, "RMSprop": ("step", "square_avg"), "SGD": ("momentum_buffer",)}
"""The state that each optimizer of torch keeps for a parameter."""
_NEVER_NEGATIVE = (".step", ".exp_avg_sq", ".square_avg")


def make_optimizer(model: CharLM, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer that ``config`` names; weight decay applies to matrices, never to biases."""
    lr, betas = config.lr, (0.9, config.beta2)
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    if config.optimizer == "muon":
        matrices = [weight for layer in model.layers() for weight in (layer.weight_ih, layer.weight_hh)]
        others = [p for p in model.parameters() if p is model.embedding.weight], vectors
        decay, precision = config.weight_decay, config.precision
        return Muon(
            matrices, others, lr=lr, momentum=config.momentum, betas=betas, weight_decay=decay, precision=precision
        )
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    # One fused kernel for all parameters, on the devices for which torch has one.
    fused = torch.device(config.device).type in ("cpu", "cuda")
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, fused=fused)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=lr, alpha=0.95)
    adam = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    # Capturable: its steps can be part of a CUDA graph.
    return adam(groups, lr=lr, betas=betas, fused=fused, capturable=torch.device(config.device).type == "cuda")


def optimizer_arrays(optimizer: torch.optim.Optimizer) -> dict[str, NDArray[Any]]:
    """Every state tensor of the optimizer, by parameter number and name."""
    return {
        f"{_PREFIX}.{number}.{name}": tensor.detach().cpu().numpy()
        for number, tensors in optimizer.state_dict()["state"].items()
        for name, tensor in tensors.items()
        if isinstance(tensor, torch.Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, arrays: Mapping[str, NDArray[Any]], where: str) -> None:
    """Restore ``optimizer_arrays``. Raises ``DataError`` for those of another model or optimizer."""
    parameters = [(p, names) for group, names in _groups(optimizer) for p in group["params"]]
    given = {name: array for name, array in arrays.items() if name.startswith(_PREFIX)}
    expected = {
        f"{_PREFIX}.{number}.{name}": () if name == "step" else tuple(parameter.shape)
        for number, (parameter, names) in enumerate(parameters)
        for name in names
    }
    # Before the first step an optimizer has no state.
    if given and {name: array.shape for name, array in given.items()} != expected:
        raise DataError(f"{where} does not hold the state of this optimizer and model; use an earlier step")
    if not all(array.dtype == np.float32 for array in given.values()):
        raise DataError(f"{where}: the optimizer's state is not float32; use an earlier step")
    if any((array < 0).any() for name, array in given.items() if name.endswith(_NEVER_NEGATIVE)):
        raise DataError(f"{where}: the optimizer's state has a negative step or mean square; use an earlier step")
    state = {
        number: {name: torch.from_numpy(given[f"{_PREFIX}.{number}.{name}"].copy()) for name in names}
        for number, (_, names) in enumerate(parameters if given else [])
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _groups(optimizer: torch.optim.Optimizer) -> list[tuple[dict[str, Any], tuple[str, ...]]]:
    """Each group of parameters with the names of the state that the optimizer keeps for them."""
    if isinstance(optimizer, Muon):
        matrices, *others = optimizer.param_groups
        return [(matrices, ("momentum_buffer",)), *((group, _ADAM_STATE) for group in others)]
    names = _STATE[type(optimizer).__name__]
    return [(group, names) for group in optimizer.param_groups]
