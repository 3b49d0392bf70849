"""The optimizers, and their memory as plain arrays that a checkpoint can keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from charlm.config import TrainingConfig
from charlm.errors import DataError

_PREFIX = "optimizer"


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer that ``config`` names; weight decay applies to matrices, never to biases."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    # One fused kernel over all parameters, where torch has it for the device.
    fused = torch.device(config.device).type in ("cpu", "cuda")
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, fused=fused)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=config.lr, alpha=0.95)
    adam = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return adam(groups, lr=config.lr, fused=fused)


def optimizer_arrays(optimizer: torch.optim.Optimizer) -> dict[str, NDArray[Any]]:
    """Every tensor the optimizer remembers, by parameter number and name."""
    return {
        f"{_PREFIX}.{number}.{name}": tensor.detach().cpu().numpy()
        for number, memory in optimizer.state_dict()["state"].items()
        for name, tensor in memory.items()
        if isinstance(tensor, torch.Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, arrays: Mapping[str, NDArray[Any]], where: str) -> None:
    """Put ``optimizer_arrays`` back. Raises ``DataError`` where they belong to another model or optimizer."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, array in arrays.items():
        prefix, _, rest = key.partition(".")
        if prefix != _PREFIX:
            continue
        number, _, name = rest.partition(".")
        if not number.isdigit() or int(number) >= len(parameters):
            raise DataError(f"{where}: {key!r:.60} belongs to no parameter of this model")
        if array.shape not in ((), tuple(parameters[int(number)].shape)):
            raise DataError(f"{where}: {key!r:.60} has not the shape of its parameter")
        state.setdefault(int(number), {})[name] = torch.from_numpy(array.copy())
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
