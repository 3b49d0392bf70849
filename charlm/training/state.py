"""``TrainingState``: everything that changes during training, so that a resumed run equals an uninterrupted one.

``snapshot`` copies it to plain arrays and JSON values, ``restore`` puts a checkpoint back. In a checkpoint
``model.safetensors`` holds the weights (the averaged ones, if there is an average), ``training.safetensors`` the last
weights if there is an average, every optimizer tensor, the carried state h and c of each layer and the state of the
dropout generator, and ``training.json`` the cursor, the schedule, the best loss, the sums since the last evaluation and
the clock.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray

from charlm.checkpoint.model_parts import ModelParts
from charlm.checkpoint.step import CONFIG, STATE, STATE_TENSORS, Checkpoint
from charlm.checkpoint.tensors import tensors_from_bytes
from charlm.config import MAX_GENERATIONS, ModelConfig, TrainingConfig, from_dict, parse_json, to_dict
from charlm.corpus.batches import Batches, Cursor
from charlm.errors import DataError
from charlm.model.char_lm import CharLM, State
from charlm.model.lstm import recurrence_name
from charlm.training.averaging import Average
from charlm.training.optimizers import make_optimizer, optimizer_arrays, restore_optimizer
from charlm.training.schedule import Schedule

logger = logging.getLogger("charlm")

Arrays = Mapping[str, NDArray[Any]]


@dataclass
class Progress:
    """How far training has come. ``part`` and ``chunk`` are the cursor into the corpus.

    Field names are JSON keys on disk; do not rename them.
    """

    part: int
    chunk: int
    step: int = 0
    seconds: float = 0.0
    preparation_seconds: float = 0.0
    """Of ``seconds``: those before the first step, in which the speed was measured."""
    ids_seen: int = 0
    evaluated_step: int | None = None
    last_validation: float | None = None
    best: float | None = None
    best_step: int | None = None
    saved_step: int | None = None
    rate: float = 0.0
    """The learning rate of the last step."""
    rate_factor: float = 1.0
    """Below 1 after a rollback."""
    loss_sum: float = 0.0
    grad_norm_sum: float = 0.0
    steps_since_evaluation: int = 0
    clipped_steps: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    evaluation_seconds: float = 0.0
    """How long the next evaluation will take: as long as the last one, or as its speed was measured."""
    int8_cost: float | None = None
    bf16_cost: float | None = None
    generation: int = 0
    """The number of the model that is trained now, from 0. The next four are where it began."""
    generation_step: int = 0
    generation_part: int = 0
    generation_chunk: int = 0
    generation_seconds: float = 0.0
    best_generation: int = 0

    @property
    def cursor(self) -> Cursor:
        """The chunk that is read next."""
        return Cursor(self.part, self.chunk)

    @property
    def is_good_evaluation(self) -> bool:
        """Whether the last step was evaluated, and is not one of several that were skipped."""
        return self.evaluated_step == self.step and not self.skipped_in_a_row

    def precision_costs(self) -> dict[str, float]:
        """The costs that ``evaluation.precision_costs`` measured for the weights at ``evaluated_step``."""
        costs = {"int8": self.int8_cost, "bf16": self.bf16_cost}
        return {name: cost for name, cost in costs.items() if cost is not None and math.isfinite(cost)}

    def begin_step(self, ids: int, next_cursor: Cursor) -> None:
        """Count a step on so many ``ids``; its result may follow later."""
        self.step += 1
        self.ids_seen += ids
        self.part, self.chunk = next_cursor

    def note_result(self, loss: float, grad_norm: float, clipped: bool, skipped: bool) -> None:
        """Record the result of a step, in the order of the steps: its loss in nats per character, and the norm of its
        gradient before clipping.
        """
        if skipped:
            self.skipped_steps += 1
            self.skipped_in_a_row += 1
            return
        self.skipped_in_a_row = 0
        self.loss_sum += loss
        self.grad_norm_sum += grad_norm
        self.steps_since_evaluation += 1
        self.clipped_steps += clipped

    def note_evaluation(self, loss: float | None) -> None:
        """Reset the sums since the last evaluation."""
        self.evaluated_step, self.last_validation = self.step, loss
        self.loss_sum, self.grad_norm_sum = 0.0, 0.0
        self.steps_since_evaluation, self.clipped_steps = 0, 0

    def mean_loss(self) -> float | None:
        """Mean training loss since the last evaluation in nats per character."""
        return self.loss_sum / self.steps_since_evaluation if self.steps_since_evaluation else None

    def mean_grad_norm(self) -> float | None:
        """Mean norm of the gradient before clipping since the last evaluation."""
        return self.grad_norm_sum / self.steps_since_evaluation if self.steps_since_evaluation else None

    def clipped_share(self) -> float:
        """Share of the steps since the last evaluation whose gradient was clipped."""
        return self.clipped_steps / self.steps_since_evaluation if self.steps_since_evaluation else 0.0


class Snapshot(NamedTuple):
    """A copy of a ``TrainingState`` in plain values."""

    weights: dict[str, NDArray[Any]]
    """The averaged weights; the last ones if there is no average."""
    tensors: dict[str, NDArray[Any]]
    values: dict[str, Any]
    """JSON values."""


@dataclass
class TrainingState:
    """Everything that changes during training with ``config``."""

    config: TrainingConfig
    model: CharLM
    optimizer: torch.optim.Optimizer
    average: Average
    schedule: Schedule
    generator: torch.Generator
    """Draws the dropout masks."""
    carried: State
    """h and c [B, H] of each layer for the rows that the next chunk continues; zero rows if the next chunk is fresh."""
    progress: Progress
    processes: int = 1
    """How many processes train together; each carries the state of its own rows."""

    @classmethod
    def create(cls, model_config: ModelConfig, config: TrainingConfig, processes: int = 1) -> TrainingState:
        """The state before the first step, with weights drawn from ``config.seed``."""
        device = torch.device(config.device)
        model = CharLM(model_config, config.seed).to(device)
        return cls(
            config=config,
            model=model,
            optimizer=make_optimizer(model, config),
            average=Average(model, config),
            schedule=Schedule(config.schedule, config.warmup, config.warmup_share),
            generator=torch.Generator(device).manual_seed(config.seed),
            carried=model.initial_state(0),
            progress=Progress(*Cursor()),
            processes=processes,
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.embedding.weight.device

    def begin_generation(self, rows: int, seconds: float) -> None:
        """Go on with a new model at the next chunk, whose ``rows`` begin with zeros, ``seconds`` after the start."""
        progress, config = self.progress, self.config
        progress.generation += 1
        progress.generation_step, progress.generation_seconds = progress.step, seconds
        progress.generation_part, progress.generation_chunk = progress.cursor
        progress.last_validation = None  # of the last model
        self.model.load_weights(CharLM(self.model.config, config.seed + progress.generation).weights())
        self.optimizer = make_optimizer(self.model, config)
        self.average = Average(self.model, config)
        self.schedule = Schedule(config.schedule, config.warmup, config.warmup_share)
        self.carried = self.model.initial_state(rows)

    def observe_validation(self, loss: float | None, train_loss: float | None) -> bool:
        """Record a validation loss (None: there is no validation text) and return whether it is the lowest so far.

        The schedule and the average follow it, or ``train_loss`` where there is none. All in nats per character.
        """
        progress = self.progress
        is_best = loss is not None and loss < (math.inf if progress.best is None else progress.best)
        if is_best:
            progress.best, progress.best_step, progress.best_generation = loss, progress.step, progress.generation
        observed = loss if loss is not None else train_loss
        if observed is not None:
            self.schedule.observe(observed)
            self.average.observe(observed)
        progress.note_evaluation(loss)
        return is_best

    def weights_are_finite(self) -> bool:
        """Whether no weight is NaN or infinite."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.model.parameters())

    def snapshot(self) -> Snapshot:
        """A copy of the whole state."""
        tensors = {
            **optimizer_arrays(self.optimizer),
            **_carried_arrays(self.carried),
            **self.average.last_weights(),
            "generator": self.generator.get_state().numpy(),
        }
        values = {
            "progress": to_dict(self.progress),
            "schedule": self.schedule.state(),
            "average": self.average.state(),
            "environment": _environment(self.device, self.processes),
        }
        with self.average.applied():
            weights = self.model.weights()
        return Snapshot(weights, tensors, values)

    def restore(self, checkpoint: Checkpoint, parts: ModelParts, batches: Batches) -> None:
        """Take over a checkpoint that was opened with all its files; ``parts`` are those of ``read_model_parts``.

        Raises ``DataError`` where they do not fit this state.
        """
        where, tensors_where = str(checkpoint.path / STATE), str(checkpoint.path / STATE_TENSORS)
        if parts.config != self.model.config:
            raise DataError(f"{checkpoint.path} does not match the run (different model shape); use another step")
        values = parse_json(checkpoint.files[STATE], where)
        tensors = tensors_from_bytes(checkpoint.files[STATE_TENSORS], tensors_where)
        if not isinstance(values, dict):
            raise DataError(f"{where} does not contain a training state; use another step")
        self.average.restore(parts.weights, tensors, values.get("average"), where)
        self.progress = _restored_progress(values.get("progress"), checkpoint, batches, where)
        self.schedule.restore(values.get("schedule"), where)
        if not (0 < self.progress.rate_factor <= 1 and 0 < self.schedule.plateau.factor <= 1):
            raise DataError(f"{where} has a learning rate factor outside of (0, 1]; use an earlier step")
        restore_optimizer(self.optimizer, tensors, tensors_where)
        self._restore_carried(tensors, batches.carried_rows(self.progress.cursor), where)
        _compare_environment(values.get("environment"), _environment(self.device, self.processes))
        self._restore_generator(tensors)

    def _restore_carried(self, tensors: Arrays, rows: int, where: str) -> None:
        carried = self.model.initial_state(rows)
        for layer, pair in enumerate(carried):
            for name, tensor in zip("hc", pair, strict=True):
                array = tensors.get(f"state.{layer}.{name}")
                if array is None or array.shape != tuple(tensor.shape):
                    raise DataError(f"{where}: the carried state of layer {layer} is missing or has another shape")
                tensor.copy_(torch.from_numpy(array))
        self.carried = carried

    def _restore_generator(self, tensors: Arrays) -> None:
        try:
            self.generator.set_state(torch.from_numpy(tensors["generator"].copy()))
        except (KeyError, RuntimeError, TypeError):
            logger.warning("the dropout random state was saved on another device; the generator is reseeded")
            self.generator.manual_seed(self.config.seed + self.progress.step)


def _carried_arrays(carried: State) -> dict[str, NDArray[Any]]:
    return {
        f"state.{layer}.{name}": tensor.float().cpu().numpy()
        for layer, pair in enumerate(carried)
        for name, tensor in zip("hc", pair, strict=True)
    }


def _restored_progress(values: Any, checkpoint: Checkpoint, batches: Batches, where: str) -> Progress:
    progress = from_dict(Progress, values, where)
    if not batches.has(progress.cursor):
        raise DataError(f"{where} has a cursor outside of the text")
    if progress.step != checkpoint.step or checkpoint.step < 0:
        raise DataError(f"{where} and {CONFIG} disagree on the step")
    _check_numbers(progress, where)
    begins = progress.generation_step, Cursor(progress.generation_part, progress.generation_chunk)
    if begins > (progress.step, progress.cursor) or begins[1] > progress.cursor:
        raise DataError(f"{where} has a generation that begins later than its last step; use another step")
    if progress.generation >= MAX_GENERATIONS or not batches.has(begins[1]):
        raise DataError(f"{where} has a generation that is out of range; use another step")
    progress.saved_step = checkpoint.step  # not yet set when the file was written
    return progress


_MAY_BE_NEGATIVE = ("int8_cost", "bf16_cost")
"""Differences of losses."""
_MAY_BE_INFINITE = (*_MAY_BE_NEGATIVE, "last_validation")
"""Where a loss was not finite."""


def _check_numbers(progress: Progress, where: str) -> None:
    for name, value in dataclasses.asdict(progress).items():
        if value is None:
            continue
        is_negative = value < 0 and name not in _MAY_BE_NEGATIVE
        if is_negative or not (math.isfinite(value) or name in _MAY_BE_INFINITE):
            raise DataError(f"{where}: {name} is {value}, which is out of range; use an earlier step")


def _environment(device: torch.device, processes: int) -> dict[str, Any]:
    """What bit-identical resuming depends on: a resume that changes one of these is reported."""
    return {
        "torch": str(torch.__version__),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "engine": recurrence_name(device),
        "machine": f"{platform.system()} {platform.machine()}",
        "processes": processes,
    }


def _compare_environment(before: Any, now: dict[str, Any]) -> None:
    # The first checkpoints do not name the number of processes.
    before = {"processes": 1, **(before if isinstance(before, dict) else {})}
    changed = [f"{name}: {before.get(name)} -> {value}" for name, value in now.items() if before.get(name) != value]
    if changed:
        logger.warning("the environment changed (%s), so results may not be bit-identical", "; ".join(changed))
