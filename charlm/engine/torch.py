"""The engine that runs on torch: on any of torch's devices, in float32 or with bfloat16 autocast.

Shapes: T time steps, B streams, V vocabulary, E input width, H hidden width, G = 4 H gates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.config import ModelConfig
from charlm.engine import FloatArray, LayerState
from charlm.errors import UsageError
from charlm.model.char_lm import CharLM, State, cross_entropy
from charlm.model.lstm import cell
from charlm.system.devices import autocast, choose_device, make_reproducible

# A single step of few streams is faster with elementary operations than with torch's LSTM kernel: on a CPU they are
# faster at 8 streams and slower at 64.
_MAX_ELEMENTARY_STREAMS = 16


class TorchEngine:
    """Implements ``StateEngine`` with a ``CharLM``, whose weights may change between calls, as they do in training."""

    def __init__(self, model: CharLM, precision: str = "fp32") -> None:
        self.model = model
        self.precision = precision
        self.device = model.embedding.weight.device
        self.name = f"torch {torch.__version__}, {self.device.type}, {precision}"

    @classmethod
    def from_weights(
        cls, config: ModelConfig, weights: Mapping[str, FloatArray], device: str, precision: str, threads: int | None
    ) -> TorchEngine:
        """Create an engine for a checkpoint's weights. Raises ``UsageError`` for a missing device or precision."""
        if precision == "int8":
            raise UsageError("precision 'int8' needs the native engine on a CPU; charlm info says why it does not run")
        torch_device = choose_device(device)
        make_reproducible(torch_device)
        if threads is not None:
            torch.set_num_threads(threads)
        model = CharLM(config)
        model.load_weights(weights)
        return cls(model.to(torch_device), precision)

    def initial_state(self, batch: int) -> State:
        return self.model.initial_state(batch)

    @torch.inference_mode()
    def gather(self, parts: Sequence[tuple[State, NDArray[np.int64]]]) -> State:
        indexed = [(state, torch.from_numpy(rows).to(self.device)) for state, rows in parts]
        return tuple(
            (
                torch.cat([state[layer][0][rows] for state, rows in indexed]),
                torch.cat([state[layer][1][rows] for state, rows in indexed]),
            )
            for layer in range(len(self.model.layers()))
        )

    def layer_states(self, state: State) -> list[LayerState]:
        return [LayerState(_array(h_BH), _array(c_BH)) for h_BH, c_BH in state]

    @torch.inference_mode()
    def forward(self, ids_TB: NDArray[Any], state: State) -> tuple[FloatArray, State]:
        with autocast(self.device.type, self.precision):
            logits_TBV, state = self.model(self._ids(ids_TB), state)
        return _array(logits_TBV), state

    @torch.inference_mode()
    def step(self, ids_B: NDArray[Any], state: State) -> tuple[FloatArray, State]:
        if len(ids_B) > _MAX_ELEMENTARY_STREAMS:
            logits_TBV, state = self.forward(ids_B[None], state)
            return logits_TBV[0], state
        model = self.model
        x_BE = model.embedding(self._ids(ids_B))
        new_state = []
        for layer, (h_BH, c_BH) in zip(model.layers(), state, strict=True):
            gates_BG = torch.addmm(torch.addmm(layer.bias, x_BE, layer.weight_ih.t()), h_BH, layer.weight_hh.t())
            new_state.append(cell(gates_BG, c_BH))
            x_BE = new_state[-1][0]
        return _array(model.decoder(x_BE)), tuple(new_state)

    @torch.inference_mode()
    def losses(self, ids_TB: NDArray[Any], targets_TB: NDArray[Any], state: State) -> tuple[FloatArray, State]:
        with autocast(self.device.type, self.precision):
            logits_TBV, state = self.model(self._ids(ids_TB), state)
        return _array(cross_entropy(logits_TBV, self._ids(targets_TB))), state

    def _ids(self, ids: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(ids.astype(np.int64)).to(self.device)


def _array(tensor: torch.Tensor) -> FloatArray:
    array: FloatArray = tensor.float().cpu().numpy()
    return array
