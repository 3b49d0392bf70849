"""The engine on charlm's own C++ (charlm/native): numpy in and out, no torch, for CPUs.

Whatever the number of threads, of streams beside one another, or of steps in a call, the same ids give the same logits,
bit by bit; they differ only between precisions and, for fp32 and bf16, between instruction sets.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm import native
from charlm.config import ModelConfig, SamplingConfig
from charlm.cores import cores
from charlm.engine import FloatArray, Grammar
from charlm.errors import OutOfMemoryError

NativeState = tuple[FloatArray, FloatArray]
"""h and c of all layers, each layer [B, padded width], one after the other in one array."""


class NativeEngine:
    """See ``Engine`` for the calls. Weights are packed once, at ``precision`` "fp32", "bf16" or "int8".

    In int8 the LSTM's weights (a scale for each row) and the hidden states are 8-bit integers, multiplied exactly; cell
    states, the first layer's inputs and logits are not.
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
        self._generator: tuple[Grammar, NDArray[np.int64], native.Generator] | None = None

    def start(self, batch: int) -> NativeState:
        size = batch * self._model.state_size
        return np.zeros(size, np.float32), np.zeros(size, np.float32)

    def gather(self, parts: Sequence[tuple[NativeState, NDArray[np.int64]]]) -> NativeState:
        h, c = (np.concatenate(self._gathered([(state[which], rows) for state, rows in parts])) for which in (0, 1))
        return h, c

    def _gathered(self, parts: list[tuple[FloatArray, NDArray[np.int64]]]) -> list[FloatArray]:
        """Of a batch each layer is a block of rows, one layer after the other."""
        bounds = [0, *self._model.layer_bounds, self._model.state_size]
        blocks = []
        for start, stop in itertools.pairwise(bounds):
            for array, rows in parts:
                batch = len(array) // self._model.state_size
                block_BH = array[start * batch : stop * batch].reshape(batch, stop - start)
                blocks.append(block_BH[rows].reshape(-1))
        return blocks

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
        """Ids as the library takes them; what is no id would be read as memory."""
        wide = np.ascontiguousarray(ids, np.int64)
        if wide.size and (wide.min() < 0 or wide.max() >= self.vocabulary_size):
            raise IndexError(f"ids must be 0 to {self.vocabulary_size - 1}")
        return wide

    def write(
        self,
        logits_BV: FloatArray,
        state: NativeState,
        place_B: NDArray[np.int64],
        uniform_NB: NDArray[np.float64],
        config: SamplingConfig,
        grammar: Grammar,
    ) -> tuple[NDArray[np.int64], FloatArray, NativeState, NDArray[np.int64]]:
        candidates_C, generator = self._generator_for(grammar)
        h, c = (array.copy() for array in state)
        logits_BC = np.ascontiguousarray(logits_BV[:, candidates_C], np.float32)
        place_B = np.array(place_B, np.int64)
        sampling = native.Sampling(config.temperature, config.top_k, config.top_p, config.min_p)
        ids_NB = generator.generate(sampling, h, c, logits_BC, place_B, np.ascontiguousarray(uniform_NB, np.float64))
        after_BV = np.full((len(place_B), self.vocabulary_size), -np.inf, np.float32)
        after_BV[:, candidates_C] = logits_BC
        return ids_NB, after_BV, (h, c), place_B

    def _generator_for(self, grammar: Grammar) -> tuple[NDArray[np.int64], native.Generator]:
        if self._generator is None or self._generator[0] is not grammar:
            allowed_SV, following_SV = grammar
            candidates_C = np.flatnonzero(allowed_SV.any(axis=0))
            generator = native.Generator(
                self._model,
                candidates_C.astype(np.int64),
                np.ascontiguousarray(allowed_SV[:, candidates_C], np.uint8),
                np.ascontiguousarray(following_SV[:, candidates_C], np.int64),
            )
            self._generator = grammar, candidates_C, generator
        _, candidates_C, generator = self._generator
        return candidates_C, generator
