"""The engine that runs on charlm's own C++ (charlm/native), on CPUs: numpy arrays in and out, no torch.

The same ids give bit-identical logits for any number of threads, of streams, and of steps in a call. Logits differ only
between precisions and, for fp32 and bf16, between instruction sets.

Shapes: T time steps, B streams, V vocabulary, N generated ids, H padded width of a layer, S states of the constraint,
C ids that any of these states allows.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm import native
from charlm.config import ModelConfig, SamplingConfig
from charlm.engine import FloatArray, LayerState
from charlm.errors import OutOfMemoryError
from charlm.system.cores import cores
from charlm.tokenizer.protocol import Constraint

_MAX_GENERATORS = 4
"""Generators that are kept. One is made for each constraint, and a tokenizer has one."""

NativeState = tuple[FloatArray, FloatArray]
"""h and c of all layers. Each is one flat array of the layers' blocks [B, H], one after another."""


class NativeEngine:
    """Implements ``GenerationEngine`` and ``StateEngine``.

    Weights are packed once, at ``precision`` "fp32", "bf16" or "int8". With int8 the weights of the LSTM (one scale per
    row) and the hidden states are 8-bit integers, whose products are summed exactly. Cell states, the inputs of the
    first layer and the logits stay in floating point.
    """

    def __init__(
        self,
        library: native.Library,
        config: ModelConfig,
        weights: Mapping[str, FloatArray],
        precision: str = "fp32",
        threads: int | None = None,
    ) -> None:
        names = [
            f"lstm.{layer}.{part}" for layer in range(config.layers) for part in ("weight_ih", "weight_hh", "bias")
        ]
        widths = [config.embedding, *(width for _, width in config.layer_widths())]
        self._widths = widths[1:]
        self.precision = precision
        self.vocabulary_size = config.vocabulary_size
        threads = cores() if threads is None else threads
        self.name = f"native {library.instruction_set}, {precision}, {threads} thread{'s' if threads > 1 else ''}"
        try:
            self._model = native.Model(
                library, precision, widths, weights["embedding.weight"], weights["decoder.bias"],
                [weights[name] for name in names], threads,
            )  # fmt: skip
        except MemoryError:
            raise OutOfMemoryError("out of memory while packing the model; free some, or use a smaller model") from None
        self._generators: deque[tuple[Constraint, NDArray[np.int64], native.Generator]] = deque(maxlen=_MAX_GENERATORS)

    def initial_state(self, batch: int) -> NativeState:
        size = batch * self._model.state_size
        return np.zeros(size, np.float32), np.zeros(size, np.float32)

    def gather(self, parts: Sequence[tuple[NativeState, NDArray[np.int64]]]) -> NativeState:
        h, c = (self._gather_rows([(state[index], rows) for state, rows in parts]) for index in (0, 1))
        return h, c

    def layer_states(self, state: NativeState) -> list[LayerState]:
        h, c = state
        batch = len(h) // self._model.state_size
        layers = itertools.pairwise([0, *self._model.layer_bounds, self._model.state_size])
        return [
            LayerState(*(each[start * batch : stop * batch].reshape(batch, stop - start)[:, :width] for each in (h, c)))
            for (start, stop), width in zip(layers, self._widths, strict=True)
        ]

    def _gather_rows(self, parts: list[tuple[FloatArray, NDArray[np.int64]]]) -> FloatArray:
        bounds = [0, *self._model.layer_bounds, self._model.state_size]
        blocks = []
        for start, stop in itertools.pairwise(bounds):
            for array, rows in parts:
                batch = len(array) // self._model.state_size
                block_BH = array[start * batch : stop * batch].reshape(batch, stop - start)
                blocks.append(block_BH[rows].reshape(-1))
        return np.concatenate(blocks)

    def forward(self, ids_TB: NDArray[Any], state: NativeState) -> tuple[FloatArray, NativeState]:
        logits_TBV = np.empty((*ids_TB.shape, self.vocabulary_size), np.float32)
        return logits_TBV, self._read(ids_TB, state, logits_TBV)

    def step(self, ids_B: NDArray[Any], state: NativeState) -> tuple[FloatArray, NativeState]:
        logits_TBV, state = self.forward(ids_B[None], state)
        return logits_TBV[0], state

    def losses(
        self, ids_TB: NDArray[Any], targets_TB: NDArray[Any], state: NativeState
    ) -> tuple[FloatArray, NativeState]:
        nats_TB = np.empty(ids_TB.shape, np.float32)
        return nats_TB, self._read(ids_TB, state, targets_TB=targets_TB, nats_TB=nats_TB)

    def _read(
        self,
        ids_TB: NDArray[Any],
        state: NativeState,
        logits_TBV: FloatArray | None = None,
        targets_TB: NDArray[Any] | None = None,
        nats_TB: FloatArray | None = None,
    ) -> NativeState:
        h, c = (array.copy() for array in state)
        targets_TB = None if targets_TB is None else self._checked(targets_TB)
        self._model.forward(self._checked(ids_TB), h, c, logits_TBV, targets_TB, nats_TB)
        return h, c

    def _checked(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """Ids as contiguous int64. Raises ``IndexError`` for one that is out of range: the library does not check."""
        wide = np.ascontiguousarray(ids, np.int64)
        if wide.size and (wide.min() < 0 or wide.max() >= self.vocabulary_size):
            raise IndexError(f"ids must be 0 to {self.vocabulary_size - 1}")
        return wide

    def generate(
        self,
        logits_BV: FloatArray,
        state: NativeState,
        constraint_state_B: NDArray[np.int64],
        uniform_NB: NDArray[np.float64],
        config: SamplingConfig,
        constraint: Constraint,
    ) -> tuple[NDArray[np.int64], FloatArray, NativeState, NDArray[np.int64]]:
        candidates_C, generator = self._generator_for(constraint)
        h, c = (array.copy() for array in state)
        logits_BC = np.ascontiguousarray(logits_BV[:, candidates_C], np.float32)
        constraint_state_B = np.array(constraint_state_B, np.int64)
        sampling = native.Sampling(
            temperature=config.temperature, top_k=config.top_k, top_p=config.top_p, min_p=config.min_p
        )
        uniform_NB = np.ascontiguousarray(uniform_NB, np.float64)
        ids_NB = generator.generate(sampling, h, c, logits_BC, constraint_state_B, uniform_NB)
        next_logits_BV = np.full((len(constraint_state_B), self.vocabulary_size), -np.inf, np.float32)
        next_logits_BV[:, candidates_C] = logits_BC
        return ids_NB, next_logits_BV, (h, c), constraint_state_B

    def _generator_for(self, constraint: Constraint) -> tuple[NDArray[np.int64], native.Generator]:
        """The ids that any state allows, and a generator that samples among them. Kept for the next calls."""
        found = next((kept for kept in self._generators if _are_equal(kept[0], constraint)), None)
        if found is None:
            candidates_C = np.flatnonzero(constraint.allowed_SV.any(axis=0))
            generator = native.Generator(
                self._model,
                candidates_C.astype(np.int64),
                np.ascontiguousarray(constraint.allowed_SV[:, candidates_C], np.uint8),
                np.ascontiguousarray(constraint.transitions_SV[:, candidates_C], np.int64),
            )
            found = constraint, candidates_C, generator
            self._generators.append(found)
        return found[1], found[2]


def _are_equal(first: Constraint, second: Constraint) -> bool:
    return first is second or all(map(np.array_equal, first, second))
