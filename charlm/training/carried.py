"""The state of the LSTM that is carried from one chunk to the next: which rows go on, and which start again.

Of several processes, each carries the rows that it trains on; a checkpoint holds those of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from charlm.corpus.batches import Batches, Chunk
from charlm.model.char_lm import State
from charlm.system.devices import copy_to
from charlm.system.processes import Group
from charlm.training.state import TrainingState

_RESET_KEY = 0x5E7


class CarriedRows:
    """Keeps ``state.carried`` for the next chunk of ``batches``."""

    def __init__(self, state: TrainingState, batches: Batches, group: Group) -> None:
        self._state = state
        self._batches = batches
        self._group = group

    def prepare(self, chunk: Chunk) -> None:
        """Start all rows of a fresh ``chunk`` from zeros; else reset a few at random.

        The resets teach the model to start from a zero state as well. They depend on the seed and the step only.
        """
        state, rows = self._state, chunk.inputs_TB.shape[1]
        if chunk.fresh:
            state.carried = state.model.initial_state(self._group.count(rows))
            return
        random = np.random.Generator(np.random.Philox(key=[state.config.seed ^ _RESET_KEY, state.progress.step]))
        reset_B = np.asarray(random.random(rows) < state.config.state_reset)[self._group.rows(rows)]
        if reset_B.any():
            keep_B1 = copy_to(state.device, ~reset_B)[:, None]
            state.carried = tuple((h_BH * keep_B1, c_BH * keep_B1) for h_BH, c_BH in state.carried)

    def keep(self, after: State) -> None:
        """Keep those rows of the state ``after`` a chunk that the next one continues."""
        rows = self._group.count(self._rows())
        self._state.carried = tuple((h_BH[:rows], c_BH[:rows]) for h_BH, c_BH in after)

    def take_own(self) -> None:
        """After a checkpoint has been restored, which holds the rows of all processes."""
        rows = self._group.rows(self._rows())
        self._state.carried = tuple((h_BH[rows], c_BH[rows]) for h_BH, c_BH in self._state.carried)

    @contextmanager
    def of_all(self) -> Iterator[None]:
        """A context in which the state has the rows of all processes."""
        own, rows, gather = self._state.carried, self._rows(), self._group.gather_rows
        self._state.carried = tuple((gather(h_BH, rows), gather(c_BH, rows)) for h_BH, c_BH in own)
        try:
            yield
        finally:
            self._state.carried = own

    def _rows(self) -> int:
        """How many rows the next chunk continues, those of all processes."""
        return self._batches.carried_rows(self._state.progress.cursor)
