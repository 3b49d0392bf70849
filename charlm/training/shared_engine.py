"""``SharedEngine``: the processes of a group compute the losses of a text together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.engine import EngineState, FloatArray, LossEngine
from charlm.system.processes import Group


class SharedEngine:
    """Implements ``LossEngine``. Each process computes its rows of a batch, and gets the losses of all.

    The state is that of the own rows. Shapes: T time steps, B streams.
    """

    def __init__(self, engine: LossEngine, group: Group) -> None:
        self._engine = engine
        self._group = group

    def initial_state(self, batch: int) -> EngineState:
        return self._engine.initial_state(self._group.count(batch))

    def gather(self, parts: Sequence[tuple[EngineState, NDArray[np.int64]]]) -> EngineState:
        ((state, indices),) = parts
        own = indices[self._group.rows(len(indices))]
        assert (own % self._group.size == self._group.rank).all(), "rows cannot move to another process"
        return self._engine.gather([(state, own // self._group.size)])

    def losses(
        self, ids_TB: NDArray[Any], targets_TB: NDArray[Any], state: EngineState
    ) -> tuple[FloatArray, EngineState]:
        total = ids_TB.shape[1]
        rows = self._group.rows(total)
        nats_TB = np.zeros((len(ids_TB), 0), np.float32)
        if self._group.count(total):
            nats_TB, state = self._engine.losses(ids_TB[:, rows], targets_TB[:, rows], state)
        nats_BT = self._group.gather_rows(torch.from_numpy(np.ascontiguousarray(nats_TB.T)), total)
        array: FloatArray = nats_BT.numpy().T
        return array, state
