"""The average of the weights over training steps, which is evaluated and saved instead of the last ones.

At a high learning rate the weights scatter around an optimum; their mean is closer to it than the weights of any single
step (Polyak and Juditsky 1992). "ema" is an exponential moving average from the first step on, "triggered" the
arithmetic mean since the validation loss stopped improving (NT-ASGD, Merity et al. 2018).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.config import TrainingConfig
from charlm.errors import DataError
from charlm.model.char_lm import CharLM
from charlm.training.schedule import Plateau

_PREFIX = "last."
_WARM_UP = 10
"""Early in training an exponential average of t steps covers about the last t / 10 of them."""


class Average:
    """The average of the weights of ``model``. Before its first step it equals the model's own weights."""

    def __init__(self, model: CharLM, config: TrainingConfig) -> None:
        self._model = model
        self._kind = config.average
        self._decay = config.average_decay
        self._steps = 0
        self._plateau = Plateau()
        self._mean: list[torch.Tensor] = []

    @property
    def steps(self) -> int:
        """Number of averaged steps; 0 without an average."""
        return self._steps

    def observe(self, loss: float) -> None:
        """Record a validation loss. "triggered" starts once it has not improved for several evaluations in a row."""
        if self._kind == "triggered":
            self._plateau.observe(loss)

    @property
    def _is_active(self) -> bool:
        return self._kind == "ema" or (self._kind == "triggered" and self._plateau.reductions > 0)

    def update(self, skipped: bool | torch.Tensor = False) -> None:
        """Add the model's current weights to the average, unless the step was ``skipped``; it counts nevertheless.

        A tensor, 1 for a skipped step and else 0, is not read, so that nothing waits for a device.
        """
        if not self._is_active:
            return
        weights = self._weights()
        if not self._mean:
            self._mean = [torch.empty_like(weight) for weight in weights]
        self._steps += 1
        if self._steps == 1:
            torch._foreach_copy_(self._mean, weights)
        elif isinstance(skipped, torch.Tensor):
            share = (1.0 - skipped) * self._share()
            for mean, weight in zip(self._mean, weights, strict=True):
                mean.lerp_(weight, share)
        elif not skipped:
            torch._foreach_lerp_(self._mean, weights, self._share())

    def _share(self) -> float:
        """The weight of the newest step in the average."""
        if self._kind == "triggered":
            return 1.0 / self._steps
        return max(1.0 - self._decay, _WARM_UP / (_WARM_UP + self._steps))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Swap the averaged weights into the model while entered. Do not train meanwhile."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for parameter, number in zip(self._model.parameters(), range(len(self._mean)), strict=False):
            parameter.data, self._mean[number] = self._mean[number], parameter.data

    def _weights(self) -> list[torch.Tensor]:
        return [parameter.detach() for parameter in self._model.parameters()]

    def last_weights(self) -> dict[str, NDArray[Any]]:
        """The last weights of the model, which a checkpoint keeps with the averaged ones; empty without an average."""
        return {f"{_PREFIX}{name}": array for name, array in self._model.weights().items()} if self.steps else {}

    def state(self) -> dict[str, Any]:
        """Everything else that changes, as JSON values."""
        return {"steps": self._steps, "plateau": self._plateau.state()}

    def restore(
        self, weights: Mapping[str, NDArray[Any]], tensors: Mapping[str, NDArray[Any]], state: Any, where: str
    ) -> None:
        """Restore the averaged ``weights``, the ``last_weights`` among ``tensors``, and ``state``.

        Raises ``DataError`` where they do not fit together.
        """
        # The first checkpoints of format 1 have no average.
        steps, plateau = (0, Plateau()) if state is None else _parsed(state, where)
        if steps and self._kind == "none":
            raise DataError(f"{where} has an average, but its training has none")
        self._steps, self._plateau, self._mean = steps, plateau, []
        self._model.load_weights(weights)
        if steps:
            self._mean = [weight.clone() for weight in self._weights()]
            self._model.load_weights(_last_weights(weights, tensors, where))


def _parsed(state: Any, where: str) -> tuple[int, Plateau]:
    if not isinstance(state, dict) or set(state) != {"steps", "plateau"}:
        raise DataError(f"{where} lacks the steps and plateau of the average; use another step")
    steps = state["steps"]
    if type(steps) is not int or not 0 <= steps < 2**63:
        raise DataError(f"{where} has an average of {steps!r:.40} steps, which is not a valid number")
    return steps, Plateau.restored(state["plateau"], where)


def _last_weights(
    weights: Mapping[str, NDArray[Any]], tensors: Mapping[str, NDArray[Any]], where: str
) -> dict[str, NDArray[Any]]:
    last = {name: tensors.get(f"{_PREFIX}{name}") for name in weights}
    found = {name: array for name, array in last.items() if array is not None and array.dtype == np.float32}
    if {name: array.shape for name, array in found.items()} != {name: array.shape for name, array in weights.items()}:
        raise DataError(f"{where}: the last weights in addition to the averaged ones are missing or of another model")
    return found
