"""Everything of a training that changes, to bytes and back: what makes a resumed run equal to an uninterrupted one.

``model.safetensors`` has the weights, averaged where there is an average; ``training.safetensors`` then the last ones,
every optimizer tensor, the carried state h and c of each layer, and the state of the dropout generator;
``training.json`` the cursor, the schedule, the best loss, the sums since the last evaluation and the clock.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray

import charlm
from charlm.checkpoint.model_parts import ModelParts, read_model_parts
from charlm.checkpoint.step import CONFIG, FORMAT, MODEL, STATE, STATE_TENSORS, TOKENIZER, Checkpoint
from charlm.checkpoint.tensors import tensors_from_bytes, tensors_to_bytes
from charlm.checkpoint.weights import weights_to_bytes
from charlm.config import dump_json, from_dict, parse_json, to_dict
from charlm.corpus.batches import Cursor
from charlm.errors import DataError
from charlm.model.lstm import recurrence_name
from charlm.training.optimizers import optimizer_arrays, restore_optimizer

if TYPE_CHECKING:
    from charlm.training.trainer import Trainer

logger = logging.getLogger("charlm")


@dataclass
class Progress:
    """Where a training stands; ``part`` and ``chunk`` are the cursor into the corpus."""

    part: int
    chunk: int
    step: int = 0
    seconds: float = 0.0
    ids_seen: int = 0
    evaluated_step: int | None = None
    last_validation: float | None = None
    best: float | None = None
    best_step: int | None = None
    saved_step: int | None = None
    rate: float = 0.0
    rate_factor: float = 1.0
    """Below 1 once the training has been rolled back."""
    loss_sum: float = 0.0
    steps_since_evaluation: int = 0
    clipped_steps: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    evaluation_seconds: float = 0.0
    int8_cost: float | None = None
    bf16_cost: float | None = None

    @property
    def cursor(self) -> Cursor:
        """What is read next."""
        return Cursor(self.part, self.chunk)

    def precision_costs(self) -> dict[str, float]:
        """What ``evaluation.precision_costs`` said of the weights at ``evaluated_step``, as far as it was measured."""
        costs = {"int8": self.int8_cost, "bf16": self.bf16_cost}
        return {name: cost for name, cost in costs.items() if cost is not None and math.isfinite(cost)}

    def note_step(self, loss: float, clipped: bool, skipped: bool, ids: int) -> None:
        """Count a step with its loss in nats per character."""
        self.step += 1
        self.ids_seen += ids
        if skipped:
            self.skipped_steps += 1
            self.skipped_in_a_row += 1
            return
        self.skipped_in_a_row = 0
        self.loss_sum += loss
        self.steps_since_evaluation += 1
        self.clipped_steps += clipped

    def note_evaluation(self, loss: float | None) -> None:
        """Close the sums since the last evaluation."""
        self.evaluated_step, self.last_validation = self.step, loss
        self.loss_sum, self.steps_since_evaluation, self.clipped_steps = 0.0, 0, 0

    def mean_loss(self) -> float | None:
        """Mean training loss since the last evaluation in nats per character."""
        return self.loss_sum / self.steps_since_evaluation if self.steps_since_evaluation else None

    def clipped_share(self) -> float:
        """Share of the steps since the last evaluation whose gradient was clipped."""
        return self.clipped_steps / self.steps_since_evaluation if self.steps_since_evaluation else 0.0


def snapshot(trainer: Trainer, finished: bool) -> dict[str, bytes]:
    """The files of a checkpoint of ``trainer`` as it is now."""
    tensors = {
        **optimizer_arrays(trainer.optimizer),
        **_state_arrays(trainer),
        **trainer.average.last_weights(),
        "generator": trainer.generator.get_state().numpy(),
    }
    training = {
        "progress": to_dict(trainer.progress),
        "schedule": trainer.schedule.state(),
        "average": trainer.average.state(),
        "finished": finished,
        "environment": _environment(trainer),
    }
    with trainer.average.applied():
        weights = trainer.model.weights()
    files = {
        CONFIG: dump_json(_description(trainer)),
        MODEL: weights_to_bytes(weights, "f32"),
        STATE_TENSORS: tensors_to_bytes(tensors),
        STATE: dump_json(training),
    }
    tokenizer = trainer.corpus.tokenizer.to_bytes()
    return files if tokenizer is None else {**files, TOKENIZER: tokenizer}


def _description(trainer: Trainer) -> dict[str, Any]:
    progress, corpus = trainer.progress, trainer.corpus
    return {
        "format": FORMAT,
        "charlm": charlm.__version__,
        "torch": str(torch.__version__),
        "step": progress.step,
        "model": to_dict(trainer.model.config),
        "weights": "f32",
        "training": to_dict(trainer.config),
        "tokenizer": corpus.tokenizer.description(),
        "corpus": {
            "name": corpus.name,
            "sha256": corpus.sha256,
            "description_sha256": corpus.description_sha256,
            "splits": {name: dataclasses.asdict(size) for name, size in corpus.sizes.items()},
            "shares": corpus.description.get("shares"),
            "distinct": corpus.description.get("distinct"),
        },
        "validation": _finite(progress.last_validation) if progress.evaluated_step == progress.step else None,
        "precision_costs": progress.precision_costs() if progress.evaluated_step == progress.step else {},
        "seconds": round(progress.seconds, 3),
        "ids_seen": progress.ids_seen,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _environment(trainer: Trainer) -> dict[str, Any]:
    """What bit-identity depends on: a resume that crosses one of these is told so."""
    return {
        "torch": str(torch.__version__),
        "device": trainer.device.type,
        "threads": torch.get_num_threads(),
        "engine": recurrence_name(trainer.device),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _state_arrays(trainer: Trainer) -> dict[str, NDArray[Any]]:
    """h and c of the rows that go on; none where the next chunk begins anew."""
    rows = trainer.batches.carried_rows(trainer.progress.cursor)
    return {
        f"state.{layer}.{name}": tensor[:rows].float().cpu().numpy()
        for layer, pair in enumerate(trainer.state)
        for name, tensor in zip("hc", pair, strict=True)
    }


def restore(trainer: Trainer, checkpoint: Checkpoint, parts: ModelParts | None = None) -> None:
    """Put a snapshot back into a freshly made ``trainer``; ``parts`` may hold its ``read_model_parts``.

    Raises ``DataError`` where the parts do not fit together.
    """
    where = str(checkpoint.path / STATE)
    parts = parts or read_model_parts(checkpoint)
    if parts.config != trainer.model.config or parts.tokenizer.description() != trainer.corpus.tokenizer.description():
        raise DataError(f"{checkpoint.path} and the corpus of its run do not belong together")
    training = parse_json(checkpoint.files[STATE], where)
    tensors = tensors_from_bytes(checkpoint.files[STATE_TENSORS], str(checkpoint.path / STATE_TENSORS))
    if not isinstance(training, dict):
        raise DataError(f"{where} does not hold the state of a training")
    trainer.average.restore(parts.weights, tensors, training.get("average"), where)
    trainer.progress = from_dict(Progress, training.get("progress"), where)
    if not trainer.batches.has(trainer.progress.cursor):
        raise DataError(f"{where} has a cursor that is nowhere in the text")
    if trainer.progress.step != checkpoint.step or checkpoint.step < 0:
        raise DataError(f"{where} and {CONFIG} disagree on the step")
    trainer.progress.saved_step = checkpoint.step  # the file was written before this very save had succeeded
    trainer.schedule.restore(training.get("schedule"), where)
    if not (0 < trainer.progress.rate_factor <= 1 and 0 < trainer.schedule.plateau.factor <= 1):
        raise DataError(f"{where} multiplies the rate by what no training does; use an earlier step")
    restore_optimizer(trainer.optimizer, tensors, str(checkpoint.path / STATE_TENSORS))
    _restore_carried_state(trainer, tensors, where)
    _compare_environment(training.get("environment"), _environment(trainer))
    try:
        trainer.generator.set_state(torch.from_numpy(tensors["generator"].copy()))
    except (KeyError, RuntimeError, TypeError):
        logger.warning("the dropout generator of another device cannot go on here; it begins anew")
        trainer.generator.manual_seed(trainer.config.seed + trainer.progress.step)


def _restore_carried_state(trainer: Trainer, tensors: Mapping[str, NDArray[Any]], where: str) -> None:
    expected = trainer.model.initial_state(trainer.batches.carried_rows(trainer.progress.cursor))
    for layer, pair in enumerate(expected):
        for name, tensor in zip("hc", pair, strict=True):
            array = tensors.get(f"state.{layer}.{name}")
            if array is None or array.shape != tuple(tensor.shape):
                raise DataError(f"{where}: the carried state of layer {layer} is missing or has another shape")
            tensor.copy_(torch.from_numpy(array))
    trainer.state = expected


def _compare_environment(before: Any, now: dict[str, Any]) -> None:
    before = before if isinstance(before, dict) else {}
    changed = [f"{name} was {before.get(name)}, is {value}" for name, value in now.items() if before.get(name) != value]
    if changed:
        logger.warning("resuming is exact, bit by bit, on the same set-up only: %s", "; ".join(changed))


def is_finished(checkpoint: Checkpoint) -> bool:
    """Whether the training behind a checkpoint had come to its end."""
    training = parse_json(checkpoint.files[STATE], str(checkpoint.path / STATE))
    return isinstance(training, dict) and training.get("finished") is True
