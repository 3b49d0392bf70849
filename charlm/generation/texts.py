"""Texts generated from one prompt: one as it is generated, or many in parallel.

Shapes: N ids per call, B streams.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from charlm.arguments import check_integer, check_text
from charlm.config import DEFAULT_TEMPERATURE, SamplingConfig
from charlm.engine import Engine
from charlm.errors import UsageError
from charlm.generation.assembler import TextAssembler
from charlm.generation.sampling import uniform_generators
from charlm.generation.streams import IdStream
from charlm.tokenizer.protocol import Ids, Tokenizer

_MAX_PARALLEL_SAMPLES = 256


def checked_sampling(
    length: int, config: SamplingConfig | None, stop: str | None, seed: int | None
) -> tuple[SamplingConfig, int]:
    """The settings and the seed to use, by default a random one. Raises ``UsageError`` for invalid arguments."""
    check_integer("length", length)
    if config is not None and not isinstance(config, SamplingConfig):
        raise UsageError(f"config must be a charlm.config.SamplingConfig, not {config!r:.60}")
    if stop is not None:
        check_text("stop", stop)
    return config or SamplingConfig(DEFAULT_TEMPERATURE), _checked_seed(seed)


def _checked_seed(seed: int | None) -> int:
    if seed is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint64)[0]) >> 1
    check_integer("seed", seed, words="an integer, 0 to 2^63-1")
    if seed >= 2**63:
        raise UsageError(f"seed must be 0 to 2^63-1, not {seed}")
    return int(seed)


def stream_text(
    engine: Engine,
    tokenizer: Tokenizer,
    prompt: Iterable[Ids],
    length: int,
    config: SamplingConfig,
    *,
    stop: str | None,
    seed: int,
) -> Iterator[str]:
    """One text in pieces, as they are generated. ``prompt`` is blocks of ids. Raises ``UsageError`` at once."""
    assembler = TextAssembler(tokenizer, length, stop)

    def pieces() -> Iterator[str]:
        stream = IdStream(engine, tokenizer, prompt, config, uniform_generators(seed, range(1)))
        while assembler.remaining:
            if piece := assembler.feed(stream.draw(assembler.remaining)[:, 0]):
                yield piece
        if piece := assembler.finish():
            yield piece

    return pieces()


def sample_texts(
    engine: Engine,
    tokenizer: Tokenizer,
    prompt: Iterable[Ids],
    length: int,
    config: SamplingConfig,
    *,
    count: int | None,
    stop: str | None,
    seed: int,
) -> Iterator[str]:
    """``count`` texts in order (None: endless), many in parallel. The first is that of ``stream_text``.

    Raises ``UsageError`` at once.
    """
    if count is not None:
        check_integer("count", count)
    TextAssembler(tokenizer, length, stop)  # checks its arguments now, before the first text is requested
    numbers = itertools.count() if count is None else range(count)
    samples = (_Sample(number, TextAssembler(tokenizer, length, stop)) for number in numbers)
    return _parallel_texts(engine, tokenizer, prompt, config, samples, seed)


class _Sample:
    """One of the texts that are generated in parallel."""

    def __init__(self, number: int, assembler: TextAssembler) -> None:
        self.number = number
        self._assembler = assembler
        self._text = ""

    @property
    def remaining(self) -> int:
        """Characters still to come."""
        return self._assembler.remaining

    def feed(self, ids: Ids) -> None:
        self._text += self._assembler.feed(ids)

    def finish(self) -> str:
        """The whole text, once ``remaining`` is 0."""
        return self._text + self._assembler.finish()


def _parallel_texts(
    engine: Engine,
    tokenizer: Tokenizer,
    prompt: Iterable[Ids],
    config: SamplingConfig,
    samples: Iterator[_Sample],
    seed: int,
) -> Iterator[str]:
    active = list(itertools.islice(samples, _MAX_PARALLEL_SAMPLES))
    queue = deque(active)  # in order: a text waits until those before it are complete
    stream = IdStream(engine, tokenizer, prompt, config, uniform_generators(seed, [s.number for s in active]))
    while queue:
        ids_NB = stream.draw(max(1, *(sample.remaining for sample in active)))
        for sample, ids in zip(active, ids_NB.T, strict=True):
            sample.feed(ids)
        kept_rows = [row for row, sample in enumerate(active) if sample.remaining]
        if len(kept_rows) < len(active):
            started = list(itertools.islice(samples, len(active) - len(kept_rows)))
            stream.replace(np.array(kept_rows, np.int64), uniform_generators(seed, [s.number for s in started]))
            active = [*(active[row] for row in kept_rows), *started]
            queue.extend(started)
        while queue and not queue[0].remaining:
            yield queue.popleft().finish()
