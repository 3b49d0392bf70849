"""Engines compute with the weights of a trained model: the protocol they share, and ``create_engine``.

Inputs and outputs are numpy arrays. The state is opaque: it goes in and comes out of every call. Shapes: T time steps,
B streams, V vocabulary, H width of a layer, N generated ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from charlm.arguments import check_device_name, check_integer
from charlm.config import ModelConfig, SamplingConfig
from charlm.errors import UsageError
from charlm.native import find_library, unavailable_reason
from charlm.tokenizer.protocol import Constraint

EngineState = Any
FloatArray = NDArray[np.float32]
PRECISIONS = ("fp32", "bf16", "int8")
MAX_PRECISION_COST = 1e-3
"""Nats per character that rounding may cost at most where ``precision`` "auto" chooses a faster precision."""
MAX_THREADS = 1024


class LossEngine(Protocol):
    """What computes the losses of a text. No call modifies the state that it is given."""

    def initial_state(self, batch: int) -> EngineState:
        """The state of ``batch`` streams before the first id."""
        ...

    def gather(self, parts: Sequence[tuple[EngineState, NDArray[np.int64]]]) -> EngineState:
        """The state of selected streams: for each part its rows with the given indices, concatenated.

        An index may occur several times.
        """
        ...

    def losses(
        self, ids_TB: NDArray[Any], targets_TB: NDArray[Any], state: EngineState
    ) -> tuple[FloatArray, EngineState]:
        """Negative log-probabilities [T, B] of the targets in nats, and the state after the last id."""
        ...


class Engine(LossEngine, Protocol):
    """A trained model that reads ids and predicts the next one."""

    name: str
    """Which code runs and at what precision, for display."""

    def forward(self, ids_TB: NDArray[Any], state: EngineState) -> tuple[FloatArray, EngineState]:
        """Logits [T, B, V] after each id, and the state after the last."""
        ...

    def step(self, ids_B: NDArray[Any], state: EngineState) -> tuple[FloatArray, EngineState]:
        """Logits [B, V] after one more id in each stream. The same as ``forward`` with T = 1, but faster."""
        ...


class LayerState(NamedTuple):
    """The state of one layer for B streams, both [B, H]. May be a view: do not write to it."""

    hidden_BH: FloatArray
    cell_BH: FloatArray


@runtime_checkable
class StateEngine(Engine, Protocol):
    """An engine of a single model, whose state can be read."""

    def layer_states(self, state: EngineState) -> list[LayerState]:
        """The state of each layer, first to last, in float32."""
        ...


@runtime_checkable
class GenerationEngine(Engine, Protocol):
    """An engine that also samples, many ids in one call."""

    def generate(
        self,
        logits_BV: FloatArray,
        state: EngineState,
        constraint_state_B: NDArray[np.int64],
        uniform_NB: NDArray[np.float64],
        config: SamplingConfig,
        constraint: Constraint,
    ) -> tuple[NDArray[np.int64], FloatArray, EngineState, NDArray[np.int64]]:
        """Samples N ids in each stream as ``sampling.next_ids`` does, and reads each id before it samples the next.

        Returns the ids [N, B], and what the next call needs: the logits [B, V] after the last id (minus infinity for
        an id that no state of the constraint allows), the engine's state, and the constraint's states [B].
        """
        ...


def check_engine_options(device: str, precision: str, threads: int | None) -> None:
    """Raise ``UsageError`` for invalid arguments of ``create_engine``, also for a device that this machine lacks."""
    if precision not in (*PRECISIONS, "auto"):
        raise UsageError(f"--precision must be auto, fp32, bf16 or int8, not {precision!r:.40}")
    if threads is not None:
        check_integer("--threads", threads, 1, f"an integer, 1 to {MAX_THREADS}")
        if threads > MAX_THREADS:
            raise UsageError(f"--threads must be 1 to {MAX_THREADS}, not {threads}")
    check_device_name(device)
    if device not in ("auto", "cpu"):
        from charlm.system.devices import choose_device

        choose_device(device)


def create_engine(
    config: ModelConfig,
    weights: Mapping[str, FloatArray],
    device: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    costs: Mapping[str, float] = MappingProxyType({}),
) -> Engine:
    """Create an engine for these weights: native on a CPU if the native engine was built, otherwise torch.

    ``device`` "auto" is the CPU if the native engine was built, otherwise a GPU if torch can use one. ``precision`` is
    "fp32", "bf16", "int8" (native engine only) or "auto": the fastest precision whose entry in ``costs``, in nats per
    character, is at most ``MAX_PRECISION_COST``, otherwise fp32. ``threads`` None uses all cores. Raises
    ``UsageError`` for an invalid argument, and for a device or precision that this machine does not have.
    """
    check_engine_options(device, precision, threads)
    library = find_library() if device in ("cpu", "auto") else None
    if library is not None:
        from charlm.engine.native import NativeEngine

        cheap = (name for name in ("int8", "bf16") if abs(costs.get(name, np.inf)) <= MAX_PRECISION_COST)
        precision = next(cheap, "fp32") if precision == "auto" else precision
        return NativeEngine(library, config, weights, precision, threads)
    from charlm.engine.torch import TorchEngine

    engine = TorchEngine.from_weights(config, weights, device, "fp32" if precision == "auto" else precision, threads)
    if engine.device.type == "cpu" and unavailable_reason():
        engine.name += f" (not native: {unavailable_reason()})"
    return engine
