"""What a training asks of a machine's memory, and what there is: so that "out of memory" comes with numbers, and early.

A system that promises more memory than it has kills the process that takes it, without a word; a training that cannot
fit is therefore refused before it begins.
"""

from __future__ import annotations

from charlm.config import ModelConfig, TrainingConfig
from charlm.errors import OutOfMemoryError

_OPTIMIZER_COPIES = {"adam": 2, "adamw": 2, "rmsprop": 1, "sgd": 1}


def training_bytes(model: ModelConfig, training: TrainingConfig, ids: int) -> int:
    """What training on a text of ``ids`` needs at the least: weights, gradients, the optimizer's memory, and a step's.

    Of every layer a step keeps four gates, h and c for each id, of the decoder the logits and their gradient.
    """
    number = 4 if training.precision == "fp32" else 2
    copies = 2 + _OPTIMIZER_COPIES[training.optimizer] + (training.average == "ema")
    kept_per_id = sum(width * (5 * number + 4) for _, width in model.layer_widths()) + 8 * model.vocabulary_size
    ids_in_a_step = min(training.batch * training.bptt, ids)
    return 4 * model.parameter_count() * copies + ids_in_a_step * kept_per_id


def need_and_advice(model: ModelConfig, training: TrainingConfig, ids: int, available: int | None) -> str:
    """The numbers, and what to lower, for whoever runs out of memory."""
    has = "" if available is None else f" of the {_gigabytes(available)} there are"
    return (
        f"{model.parameter_count():,} parameters with --batch {training.batch} and --bptt {training.bptt} take at "
        f"least {_gigabytes(training_bytes(model, training, ids))}{has}; choose a smaller --batch, --bptt or --size"
    )


def refuse_too_large(model: ModelConfig, training: TrainingConfig, ids: int, available: int | None) -> None:
    """Raise ``OutOfMemoryError`` for a training that needs more than ``available`` bytes."""
    if available is not None and training_bytes(model, training, ids) > available:
        raise OutOfMemoryError(f"out of memory: {need_and_advice(model, training, ids, available)}")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
