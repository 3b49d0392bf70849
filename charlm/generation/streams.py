"""Streams of ids that an engine samples, a few at a time.

Every stream has its own seeded generator of uniform numbers, one number for each id; see ``sampling``. Shapes: T time
steps, B streams, V vocabulary, N ids per call, S states of the constraint.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.config import SamplingConfig
from charlm.engine import Engine, EngineState, GenerationEngine
from charlm.generation.sampling import next_ids
from charlm.tokenizer.protocol import Ids, Tokenizer

# The logits of a prompt are not needed, except for the last ones. Computing only this many at a time bounds memory.
_MAX_PROMPT_LOGITS = 1 << 22
_MAX_PROMPT_CHUNK = 256
# One call of ``draw`` takes about this long, so that text appears at once and Ctrl-C is handled soon.
_MAX_DRAW_SECONDS = 0.015
_INITIAL_DRAW_SIZE = 8


@dataclass(frozen=True)
class ReadPrompt:
    """What an engine knows after a prompt: the logits [1, V] of the next id, and its state of one stream."""

    logits_1V: NDArray[np.float32]
    state: EngineState


class IdStreams:
    """Unbounded ids for B streams, each after a prompt of its own. Streams join and leave between calls of ``draw``.

    The ids of a stream depend only on its prompt, its generator and ``config``, not on the other streams.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, config: SamplingConfig) -> None:
        self._engine = engine
        self._config = config
        self._generators: Sequence[np.random.Generator] = []
        self._constraint = tokenizer.constraint()
        self._constraint_state_B = np.zeros(0, np.int64)
        self._draw_size = _INITIAL_DRAW_SIZE
        self._logits_BV = np.zeros((0, tokenizer.vocabulary_size), np.float32)
        self._state: EngineState = None

    def join(
        self, kept_rows: NDArray[np.int64], joined: Sequence[tuple[ReadPrompt, Sequence[np.random.Generator]]]
    ) -> None:
        """Keep only the streams with these indices, and append after each prompt a new stream for each generator."""
        before = len(self._generators)
        rows = [np.zeros(len(generators), np.int64) for _, generators in joined]
        parts = [(prompt.state, new) for (prompt, _), new in zip(joined, rows, strict=True)]
        self._generators = [self._generators[row] for row in kept_rows]
        self._generators = [*self._generators, *(each for _, generators in joined for each in generators)]
        self._constraint_state_B = np.concatenate([self._constraint_state_B[kept_rows], *rows])
        new_logits = [prompt.logits_1V[new] for (prompt, _), new in zip(joined, rows, strict=True)]
        self._logits_BV = np.concatenate([self._logits_BV[kept_rows], *new_logits])
        parts = [(self._state, kept_rows), *parts] if len(kept_rows) else parts
        self._state = self._engine.gather(parts) if parts else None
        if before and len(self._generators) > before:
            self._draw_size = max(1, self._draw_size * before // len(self._generators))

    def draw(self, max_count: int) -> NDArray[np.int64]:
        """Sample the next ids [N, B] of every stream, 1 <= N <= ``max_count``; N adapts to the speed of the engine.

        The ids do not depend on how they are divided into calls.
        """
        count = min(max_count, self._draw_size)
        uniform_NB = np.stack([generator.random(count) for generator in self._generators], axis=1)
        start_time = time.monotonic()
        ids_NB = self._generate(uniform_NB)
        seconds = time.monotonic() - start_time
        if count == self._draw_size and not _MAX_DRAW_SECONDS / 4 < seconds < _MAX_DRAW_SECONDS:
            self._draw_size = max(1, self._draw_size * 2 if seconds < _MAX_DRAW_SECONDS else self._draw_size // 2)
        return ids_NB

    def _generate(self, uniform_NB: NDArray[np.float64]) -> NDArray[np.int64]:
        if isinstance(self._engine, GenerationEngine):
            ids_NB, self._logits_BV, self._state, self._constraint_state_B = self._engine.generate(
                self._logits_BV, self._state, self._constraint_state_B, uniform_NB, self._config, self._constraint
            )
            return ids_NB
        return np.stack([self._step(u_B) for u_B in uniform_NB])

    def _step(self, u_B: NDArray[np.float64]) -> NDArray[np.int64]:
        allowed_SV, transitions_SV = self._constraint
        ids_B = next_ids(self._logits_BV, u_B, self._config, allowed_SV[self._constraint_state_B])
        self._constraint_state_B = transitions_SV[self._constraint_state_B, ids_B]
        self._logits_BV, self._state = self._engine.step(ids_B, self._state)
        return ids_B


class IdStream(IdStreams):
    """``IdStreams`` that continue the same ``prompt``, one stream for each of ``generators``.

    The prompt comes in blocks of any size, so it may be larger than memory. The tokenizer's start id is read before it.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        prompt: Iterable[Ids],
        config: SamplingConfig,
        generators: Sequence[np.random.Generator],
    ) -> None:
        super().__init__(engine, tokenizer, config)
        self._prompt = ReadPrompt(*deque(read_prompt(engine, tokenizer, prompt), 1)[0])
        self.replace(np.zeros(0, np.int64), generators)

    def replace(self, kept_rows: NDArray[np.int64], generators: Sequence[np.random.Generator]) -> None:
        """Keep only the streams with these indices, and append a new stream after the prompt for each generator."""
        self.join(kept_rows, [(self._prompt, generators)])


def read_prompt(
    engine: Engine, tokenizer: Tokenizer, prompt: Iterable[Ids]
) -> Iterator[tuple[NDArray[np.float32], EngineState]]:
    """Read the start id and the prompt, a chunk per item: the logits [1, V] and the state after each chunk."""
    chunk = max(1, min(_MAX_PROMPT_CHUNK, _MAX_PROMPT_LOGITS // tokenizer.vocabulary_size))
    logits_1V, state = engine.step(np.full(1, tokenizer.start_id), engine.initial_state(1))
    yield logits_1V, state
    for block in prompt:
        for start in range(0, len(block), chunk):
            logits_T1V, state = engine.forward(block[start : start + chunk, None], state)
            yield logits_T1V[-1], state
