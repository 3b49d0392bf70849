"""What computes with the weights of a trained model: a small protocol, and the way to get an engine.

Everything goes in and out as numpy arrays; the state is the engine's own affair and passed along unopened. Shapes:
T characters in time, B streams, V ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from charlm.config import ModelConfig, SamplingConfig
from charlm.errors import UsageError
from charlm.native import find_library, unavailable_reason

EngineState = Any
FloatArray = NDArray[np.float32]
Grammar = tuple[NDArray[np.bool_], NDArray[np.int64]]
"""``allowed`` and ``following`` [S, V]: which ids may be written in which place, as ``Tokenizer.grammar`` says."""
PRECISIONS = ("fp32", "bf16", "int8")
MOST_COST = 1e-3
"""Nats per character that rounding may cost where a faster precision is chosen without being asked for."""


class Engine(Protocol):
    """A trained model that reads ids and says what may follow. Calls never change a state that they were given."""

    name: str
    """For people: which code runs and at what precision."""

    def start(self, batch: int) -> EngineState:
        """The state of ``batch`` streams that have read nothing."""
        ...

    def gather(self, parts: Sequence[tuple[EngineState, NDArray[np.int64]]]) -> EngineState:
        """The state of streams picked from others: of each part those with the given numbers, as often as named."""
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


@runtime_checkable
class WritingEngine(Engine, Protocol):
    """An engine that also draws, many ids in one call."""

    def write(
        self,
        logits_BV: FloatArray,
        state: EngineState,
        place_B: NDArray[np.int64],
        uniform_NB: NDArray[np.float64],
        config: SamplingConfig,
        grammar: Grammar,
    ) -> tuple[NDArray[np.int64], FloatArray, EngineState, NDArray[np.int64]]:
        """N ids [N, B] drawn one after the other as ``sampling.next_ids`` draws them, each read before the next.

        Also the logits [B, V] (minus infinity where the grammar allows an id nowhere), the state and the places after
        them, with which the next call goes on.
        """
        ...


def create_engine(
    config: ModelConfig,
    weights: Mapping[str, FloatArray],
    device: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    costs: Mapping[str, float] = MappingProxyType({}),
) -> Engine:
    """The engine for these weights: native on a CPU where it was built, else torch.

    ``device`` "auto" is a GPU that torch can use, else the CPU. ``precision`` is "fp32", "bf16", "int8" (native engine
    only) or "auto": the fastest whose cost in nats per character, as ``costs`` tells it, is known to be at most
    ``MOST_COST``; else fp32. ``threads`` None takes all cores. Raises ``UsageError`` for a device or precision that
    this machine lacks.
    """
    if precision not in (*PRECISIONS, "auto"):
        raise UsageError(f"--precision must be auto, fp32, bf16 or int8, not {precision!r}")
    library = find_library() if device == "cpu" or (device == "auto" and not _gpu_may_be_here()) else None
    if library is not None:
        from charlm.engine.native import NativeEngine

        safe = (name for name in ("int8", "bf16") if abs(costs.get(name, np.inf)) <= MOST_COST)
        return NativeEngine(library, config, weights, next(safe, "fp32") if precision == "auto" else precision, threads)
    from charlm.engine.torch import TorchEngine

    engine = TorchEngine.from_weights(config, weights, device, "fp32" if precision == "auto" else precision, threads)
    if engine.device.type == "cpu" and unavailable_reason():
        engine.name += f" (not native: {unavailable_reason()})"
    return engine


def _gpu_may_be_here() -> bool:
    """Whether it is worth a second to load torch and ask it for a GPU."""
    return any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))
