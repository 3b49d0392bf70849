"""A stream of ids, drawn by an engine piece by piece.

Every stream has its own seeded source of uniform numbers, one for each id; see ``sampling``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from charlm.config import SamplingConfig
from charlm.engine import Engine, EngineState, WritingEngine
from charlm.generation.sampling import next_ids
from charlm.tokenizer.protocol import Ids, Tokenizer

# Logits of a prompt are computed and dropped; this many numbers of them at a time keeps memory flat.
_PROMPT_LOGITS = 1 << 22
# Ids are drawn in pieces that take about this many seconds: text appears at once, and Ctrl-C is heard.
_INSTANT = 0.015
_FIRST_PIECE = 8


class Stream:
    """Endless ids for B streams, one for each of ``sources``, all after the same ``prompt``.

    The prompt comes in blocks of any size, so it may be longer than memory; before it stands the tokenizer's start id.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        prompt: Iterable[Ids],
        config: SamplingConfig,
        sources: Sequence[np.random.Generator],
    ) -> None:
        self._engine = engine
        self._config = config
        self._sources = sources
        self._grammar = tokenizer.grammar()
        self._place_B = np.zeros(len(sources), np.int64)
        self._piece = _FIRST_PIECE
        self._prompt_logits_1V, self._prompt_state = _read_prompt(engine, tokenizer, prompt)
        all_rows = np.zeros(len(sources), np.int64)
        self._logits_BV = self._prompt_logits_1V[all_rows]
        self._state = engine.gather([(self._prompt_state, all_rows)])

    def replace(self, kept: NDArray[np.int64], sources: Sequence[np.random.Generator]) -> None:
        """Go on with the streams numbered ``kept`` alone, and after them begin one anew for each of ``sources``."""
        begun = np.zeros(len(sources), np.int64)
        self._sources = [*(self._sources[row] for row in kept), *sources]
        self._place_B = np.concatenate([self._place_B[kept], begun])
        self._logits_BV = np.concatenate([self._logits_BV[kept], self._prompt_logits_1V[begun]])
        self._state = self._engine.gather([(self._state, kept), (self._prompt_state, begun)])

    def draw(self, at_most: int) -> NDArray[np.int64]:
        """The next ids [N, B] of every stream: as many as take an instant, at least one and at most ``at_most``.

        What is drawn does not depend on how many come in one call.
        """
        count = min(at_most, self._piece)
        uniform_NB = np.stack([source.random(count) for source in self._sources], axis=1)
        began = time.monotonic()
        ids_NB = self._write(uniform_NB)
        seconds = time.monotonic() - began
        if count == self._piece and not _INSTANT / 4 < seconds < _INSTANT:
            self._piece = max(1, self._piece * 2 if seconds < _INSTANT else self._piece // 2)
        return ids_NB

    def _write(self, uniform_NB: NDArray[np.float64]) -> NDArray[np.int64]:
        if isinstance(self._engine, WritingEngine):
            ids_NB, self._logits_BV, self._state, self._place_B = self._engine.write(
                self._logits_BV, self._state, self._place_B, uniform_NB, self._config, self._grammar
            )
            return ids_NB
        return np.stack([self._step(u_B) for u_B in uniform_NB])

    def _step(self, u_B: NDArray[np.float64]) -> NDArray[np.int64]:
        allowed_SV, following_SV = self._grammar
        ids_B = next_ids(self._logits_BV, u_B, self._config, allowed_SV[self._place_B])
        self._place_B = following_SV[self._place_B, ids_B]
        self._logits_BV, self._state = self._engine.step(ids_B, self._state)
        return ids_B


def _read_prompt(
    engine: Engine, tokenizer: Tokenizer, prompt: Iterable[Ids]
) -> tuple[NDArray[np.float32], EngineState]:
    """Logits [1, V] after the start id and the prompt, and the state."""
    span = max(1, min(256, _PROMPT_LOGITS // tokenizer.vocabulary_size))
    logits_1V, state = engine.step(np.full(1, tokenizer.start_id), engine.start(1))
    for block in prompt:
        for start in range(0, len(block), span):
            logits_T1V, state = engine.forward(block[start : start + span, None], state)
            logits_1V = logits_T1V[-1]
    return logits_1V, state
