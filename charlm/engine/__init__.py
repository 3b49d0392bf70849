"""What computes with the weights of a trained model: a small protocol, and the way to get an engine.

Everything goes in and out as numpy arrays; the state is the engine's own affair and passed along unopened. Shapes:
T characters in time, B streams, V ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from charlm.config import ModelConfig

EngineState = Any
FloatArray = NDArray[np.float32]


class Engine(Protocol):
    """A trained model that reads ids and says what may follow. Calls never change a state that they were given."""

    name: str
    """For people: which code runs and at what precision."""

    def start(self, batch: int) -> EngineState:
        """The state of ``batch`` streams that have read nothing."""
        ...

    def forward(self, ids_TB: NDArray[Any], state: EngineState) -> tuple[FloatArray, EngineState]:
        """Logits [T, B, V] after each id, and the state after the last."""
        ...

    def step(self, ids_B: NDArray[Any], state: EngineState) -> tuple[FloatArray, EngineState]:
        """Logits [B, V] after one more id in each stream: ``forward`` with T = 1, faster."""
        ...

    def losses(
        self, ids_TB: NDArray[Any], targets_TB: NDArray[Any], state: EngineState
    ) -> tuple[FloatArray, EngineState]:
        """Negative log-probabilities [T, B] of the targets in nats, and the state after the last id."""
        ...


def create_engine(
    config: ModelConfig,
    weights: Mapping[str, FloatArray],
    device: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
) -> Engine:
    """The fastest engine here for these weights. Raises ``UsageError`` for a device this machine lacks.

    ``precision`` is "fp32", "bf16" or "auto" (the faster of the two here); ``threads`` None takes torch's own choice.
    """
    from charlm.engine.torch import TorchEngine

    return TorchEngine.from_weights(config, weights, device, precision, threads)
