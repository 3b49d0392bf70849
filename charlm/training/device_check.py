"""Whether a device computes the right gradients. Some versions of torch do not, for an LSTM on Apple's GPUs."""

from __future__ import annotations

import logging
import math

import torch

from charlm.config import ModelConfig
from charlm.errors import UsageError
from charlm.model.char_lm import CharLM, cross_entropy

logger = logging.getLogger("charlm")

_UNTRUSTED = ("mps",)
MAX_ERROR = 1e-3
"""Of the gradients, relative to those on the CPU; float32 differs by about 1e-6."""
_MODEL = ModelConfig(20, 2, 32, 16)


def trusted_device(device: torch.device, asked_for: str) -> torch.device:
    """``device``, or the CPU if it computes wrong gradients and the user has not asked for it.

    Raises ``UsageError`` if the user has.
    """
    if device.type not in _UNTRUSTED or (error := gradient_error(device)) <= MAX_ERROR:
        return device
    found = f"this torch ({torch.__version__}) computes wrong gradients on {device.type} (error {error:.1%})"
    if asked_for != "auto":
        raise UsageError(f"--device {asked_for}: {found}; use --device cpu, or another version of torch")
    logger.warning("%s; training on the CPU", found)
    return torch.device("cpu")


def gradient_error(device: torch.device) -> float:
    """The largest error of a parameter's gradient on ``device``, relative to its norm on the CPU."""
    errors = [
        float((found - expected).norm() / expected.norm())
        for found, expected in zip(_gradients(device), _gradients(torch.device("cpu")), strict=True)
    ]
    return max(math.inf if math.isnan(error) else error for error in errors)


def _gradients(device: torch.device) -> list[torch.Tensor]:
    """The gradients of all parameters for a chunk that continues another one."""
    model = CharLM(_MODEL, seed=1).to(device)
    ids_TB = torch.arange(40).view(10, 4).mul(7).remainder(20).to(device)
    state = tuple((h_BH + 0.1, c_BH - 0.2) for h_BH, c_BH in model.initial_state(4))
    logits_TBV, _ = model(ids_TB, state)
    cross_entropy(logits_TBV, ids_TB.flip(0)).mean().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return [parameter.grad.cpu() for parameter in model.parameters() if parameter.grad is not None]
