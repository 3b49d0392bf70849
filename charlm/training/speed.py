"""The speed of this machine, measured with a few real steps and an evaluation before a training with a time limit.

It takes about a second, less for a short limit. What is measured is thrown away: models, optimizers and random
generators are made for it, so that the training itself is the same as without it.

Shapes: T time steps, B streams.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from charlm import native
from charlm.config import ModelConfig, TrainingConfig
from charlm.corpus.batches import Chunk
from charlm.corpus.prepared import Corpus
from charlm.engine import Engine
from charlm.engine.torch import TorchEngine
from charlm.evaluation.measure import precision_costs
from charlm.model.char_lm import CharLM
from charlm.system.devices import keep_freed_memory, make_reproducible, memory_bytes, memory_errors
from charlm.training.budget import EvaluationSpeed, TrainingSpeed
from charlm.training.memory import need_and_advice, refuse_too_large
from charlm.training.state import TrainingState
from charlm.training.threads import use_threads
from charlm.training.update import make_update

MAX_SECONDS, MAX_SHARE = 1.0, 0.05
"""All measurements take about this long, or this share of the time limit if that is less. At most two sizes are
measured, and one evaluation."""
_TRAINING, _EVALUATION = 0.4, 0.2
"""Shares of it for the steps of one size and for the evaluation."""
_GROWTH = 4
"""A chunk is so many times as long as the one measured before, until the time is spent."""
_SHORT_STEPS = 3
_MIN_SHARE_OF_IDS = 0.3
"""The least share of a step's time that grows with its ids."""
_LR = 1e-6
"""So low that the weights stay finite, however often a chunk is trained on."""
_STREAMS = 32
_MAX_COMPARED_STEPS = 64
_SLOWEST_PRECISION = 8
"""How many times as long as torch the engine for a precision takes at most, as far as is known (int8, portable)."""


class MachineSpeed:
    """Measures models on ``corpus`` for a limit of ``seconds``; implements ``Speedometer``.

    Where several ``processes`` will train together, one of them measures its share of a step; their exchange of
    gradients is not measured.
    """

    def __init__(self, corpus: Corpus, seconds: float, processes: int = 1, local_processes: int = 1) -> None:
        self._corpus = corpus
        self._processes, self._local_processes = processes, local_processes
        self._limit = seconds
        # torch imports it, which takes a second or more, where the first optimizer is made. That is not to be timed.
        import torch._dynamo  # noqa: F401

        self._training: dict[tuple[ModelConfig, int], TrainingSpeed] = {}
        self._evaluation: dict[ModelConfig, EvaluationSpeed] = {}

    def training(self, model: ModelConfig, config: TrainingConfig) -> TrainingSpeed:
        key = (model, config.batch)
        if key not in self._training:
            self._training[key] = self._measure_training(model, config)
        return self._training[key]

    def evaluation(self, model: ModelConfig, config: TrainingConfig) -> EvaluationSpeed:
        if model not in self._evaluation:
            self._evaluation[model] = self._measure_evaluation(model, config)
        return self._evaluation[model]

    def _measure_training(self, model: ModelConfig, config: TrainingConfig) -> TrainingSpeed:
        advice = self._prepare(model, config)
        batch = max(1, config.batch // self._processes)
        with memory_errors(advice), torch.random.fork_rng(devices=[]):
            state = TrainingState.create(model, config)
            update = make_update(state)

            def step(length: int) -> float:
                chunk, carried = self._chunk(length, batch), state.model.initial_state(batch)
                began = time.perf_counter()
                for _ in range(update.queue_length):
                    update.apply(chunk, carried, _LR)
                    state.average.update(update.skipped)
                update.results()
                return (time.perf_counter() - began) / update.queue_length

            allowed = _TRAINING * self._allowed
            if state.device.type == "cuda":
                step(config.bptt)  # captures the graph
                seconds = min(_repeated(lambda: step(config.bptt), allowed))
                speed = TrainingSpeed(0.0, seconds / (batch * config.bptt))
            else:
                speed = _training_speed(step, batch, config.bptt, allowed)
        return dataclasses.replace(speed, per_id=speed.per_id / self._processes)

    def _measure_evaluation(self, model: ModelConfig, config: TrainingConfig) -> EvaluationSpeed:
        advice = self._prepare(model, config)
        with memory_errors(advice), torch.random.fork_rng(devices=[]):
            network = CharLM(model, config.seed).to(config.device)
            engine = TorchEngine(network, config.precision)
            allowed = _EVALUATION * self._allowed
            per_time_step = _seconds_per_time_step(lambda length: self._losses(engine, length), config.bptt, allowed)
            per_compared_id, fixed = self._measure_precisions(network, per_time_step, allowed)
        return EvaluationSpeed(per_time_step / _STREAMS, per_compared_id, fixed)

    def _measure_precisions(self, network: CharLM, per_time_step: float, allowed: float) -> tuple[float, float]:
        """Seconds per id, and further seconds, of what ``precision_costs`` does."""
        if native.find_library() is None:
            return 0.0, 0.0
        length = max(1, min(_MAX_COMPARED_STEPS, int(allowed / (_SLOWEST_PRECISION * per_time_step))))
        spent = []

        def loss(engine: Engine) -> float:
            spent.append(self._losses(engine, length))
            return 0.0

        began = time.perf_counter()
        precision_costs(network.config, network.weights(), loss, torch.get_num_threads())
        fixed = time.perf_counter() - began - sum(spent)
        return sum(spent) / (_STREAMS * length), fixed

    def _prepare(self, model: ModelConfig, config: TrainingConfig) -> str:
        """What ``Trainer`` prepares as well. Returns what to lower if the memory does not suffice."""
        device = torch.device(config.device)
        ids, available = self._corpus.sizes["train"].ids, memory_bytes(device)
        refuse_too_large(model, config, ids, available)
        keep_freed_memory()
        make_reproducible(device)
        use_threads(config, self._processes, self._local_processes)
        return need_and_advice(model, config, ids, available)

    @property
    def _allowed(self) -> float:
        return min(MAX_SECONDS, MAX_SHARE * self._limit)

    def _losses(self, engine: Engine, length: int) -> float:
        chunk, state = self._chunk(length, _STREAMS), engine.initial_state(_STREAMS)
        began = time.perf_counter()
        engine.losses(chunk.inputs_TB, chunk.targets_TB, state)
        return time.perf_counter() - began

    def _chunk(self, length: int, batch: int) -> Chunk:
        """A chunk [T, B] of the training text."""
        count = length * batch
        text = self._corpus.ids("train").read(0, min(count + 1, self._corpus.sizes["train"].ids)).astype(np.int64)
        ids = np.resize(text, count + 1)
        inputs_TB, targets_TB = (np.ascontiguousarray(part.reshape(batch, length).T) for part in (ids[:-1], ids[1:]))
        return Chunk(inputs_TB, targets_TB, True, self._corpus.tokenizer.end_id is not None)


def _training_speed(step: Callable[[int], float], batch: int, bptt: int, allowed: float) -> TrainingSpeed:
    """From the times of a chunk of one time step and of the longest one that ``allowed`` seconds permit."""
    end = time.perf_counter() + allowed
    first = step(1)  # libraries initialize themselves
    short = min(step(1) for _ in range(1 if first > allowed / _GROWTH else _SHORT_STEPS))
    length, long = 1, short
    while length < bptt and (length == 1 or time.perf_counter() + _GROWTH * long <= end):
        length = min(bptt, length * (_GROWTH if short < allowed / _GROWTH else 2))
        long = step(length)
    if time.perf_counter() + long < end:
        # The least, because other work on the machine only ever adds time; it did so for a whole measurement once.
        long = min(_repeated(lambda: step(length), end - time.perf_counter()))
        short = min(short, step(1))
    # The lower bound is for a time of the short chunk that other work on the machine has made too long.
    per_id = max((long - short) / (batch * max(1, length - 1)), _MIN_SHARE_OF_IDS * long / (batch * length))
    return TrainingSpeed(max(0.0, short - per_id * batch), per_id)


def _seconds_per_time_step(losses: Callable[[int], float], max_length: int, allowed: float) -> float:
    began, length = time.perf_counter(), 1
    losses(length)  # libraries initialize themselves
    seconds = losses(length)
    while length < max_length and time.perf_counter() - began + _GROWTH * seconds <= allowed:
        length = min(max_length, _GROWTH * length)
        seconds = losses(length)
    return seconds / length


def _repeated(work: Callable[[], float], allowed: float) -> Iterator[float]:
    """The times of ``work``, at least one, until about ``allowed`` seconds are spent."""
    began = time.perf_counter()
    yield work()
    while time.perf_counter() - began < allowed:
        yield work()
