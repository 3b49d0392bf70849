"""The optimizers, and their state as plain arrays for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from charlm.config import TrainingConfig
from charlm.errors import DataError

_PREFIX = "optimizer"
_STATE_TENSORS = {
    "Adam": ("step", "exp_avg", "exp_avg_sq"),
    "AdamW": ("step", "exp_avg", "exp_avg_sq"),
    "RMSprop": ("step", "square_avg"),
    "SGD": ("momentum_buffer",),
}
"""The state that each optimizer of torch keeps for a parameter."""


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer that ``config`` names; weight decay applies to matrices, never to biases."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    # One fused kernel for all parameters, on the devices for which torch has one.
    fused = torch.device(config.device).type in ("cpu", "cuda")
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, fused=fused)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=config.lr, alpha=0.95)
    adam = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    # Capturable: its steps can be part of a CUDA graph.
    return adam(groups, lr=config.lr, fused=fused, capturable=torch.device(config.device).type == "cuda")


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
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    given = {name: array for name, array in arrays.items() if name.startswith(_PREFIX)}
    names = _STATE_TENSORS[type(optimizer).__name__]
    expected = {
        f"{_PREFIX}.{number}.{name}": () if name == "step" else tuple(parameter.shape)
        for number, parameter in enumerate(parameters)
        for name in names
    }
    # Before the first step an optimizer has no state.
    if given and {name: array.shape for name, array in given.items()} != expected:
        raise DataError(f"{where} does not hold the state of this optimizer and model; use an earlier step")
    if not all(array.dtype == np.float32 for array in given.values()):
        raise DataError(f"{where}: the optimizer's state is not float32; use an earlier step")
    state = {
        number: {name: torch.from_numpy(given[f"{_PREFIX}.{number}.{name}"].copy()) for name in names}
        for number in range(len(parameters) if given else 0)
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
