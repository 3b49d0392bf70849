"""How much memory training needs, so that running out of it is reported early and with numbers.

Linux promises more memory than there is and kills the process that uses it, without a message. A training that cannot
fit is therefore refused before it starts.
"""

from __future__ import annotations

from charlm.config import ModelConfig, TrainingConfig
from charlm.errors import OutOfMemoryError

_OPTIMIZER_COPIES = {"muon": 1, "adam": 2, "adamw": 2, "rmsprop": 1, "sgd": 1}


def training_bytes(model: ModelConfig, training: TrainingConfig, ids: int) -> int:
    """The least memory for training on a text of ``ids``: weights, gradients, optimizer state, and one step.

    For each id a step keeps four gates, h and c of every layer, and the logits with their gradient; with a teacher also
    its probabilities, and the logarithms of the model's.
    """
    bytes_per_value = 4 if training.precision == "fp32" else 2
    copies = 2 + _OPTIMIZER_COPIES[training.optimizer] + (training.average == "ema")
    per_logit = 16 if training.soft_weight else 8
    kept_per_id = (
        sum(width * (5 * bytes_per_value + 4) for _, width in model.layer_widths()) + per_logit * model.vocabulary_size
    )
    ids_in_a_step = min(training.batch * training.bptt, ids)
    return 4 * model.parameter_count() * copies + ids_in_a_step * kept_per_id


def need_and_advice(model: ModelConfig, training: TrainingConfig, ids: int, available: int | None) -> str:
    """The numbers and what to lower, for an error message."""
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
