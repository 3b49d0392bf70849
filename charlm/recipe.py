"""What a run is trained with where a person has not said it: sizes, dropouts, rate, batch, from corpus and device.

``Request`` is what was said, ``resolve`` makes it whole. Rate, dropouts and schedule were measured on two CPU cores,
the rest is judgement (README, "Why these defaults").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from charlm.config import ModelConfig, TrainingConfig, parse_duration
from charlm.corpus import SplitSize
from charlm.errors import UsageError

SIZES = {
    "tiny": (1, 128, 128),
    "small": (1, 256, 256),
    "medium": (1, 512, 512),
    "large": (2, 512, 512),
    "huge": (3, 1024, 512),
}
"""Name -> layers, hidden, embedding."""

LEARNING_RATES = {"adam": 1e-2, "adamw": 1e-2, "rmsprop": 2e-3, "sgd": 1.0}
"""For layers of up to 512; wider ones learn at a rate that is lower in proportion."""
STEERING_IDS = 1 << 17
"""At most so many ids of the validation text steer a training; ``charlm eval`` takes all of it."""


@dataclass(frozen=True)
class Request:
    """A person's wishes for a training; None leaves the choice to ``resolve``. Times are strings like "10m"."""

    size: str | None = None
    layers: int | None = None
    hidden: int | None = None
    embedding: int | None = None
    dropout_embedding: float | None = None
    dropout_input: float | None = None
    dropout_hidden: float | None = None
    dropout_output: float | None = None
    weight_drop: float | None = None
    optimizer: str | None = None
    lr: float | None = None
    weight_decay: float | None = None
    clip: float | None = None
    schedule: str | None = None
    warmup: int | None = None
    batch: int | None = None
    bptt: int | None = None
    bptt_jitter: float | None = None
    state_reset: float | None = None
    ar: float | None = None
    tar: float | None = None
    average: str | None = None
    average_decay: float | None = None
    epochs: int | None = None
    steps: int | None = None
    time: str | None = None
    eval_every: int | None = None
    save_every: str | None = None
    seed: int | None = None
    threads: int | None = None


_SHAPE_WISHES = ("layers", "hidden", "embedding")
_DROPOUT_WISHES = ("dropout_embedding", "dropout_input", "dropout_hidden", "dropout_output", "weight_drop")
_TRAINING_WISHES = (
    "optimizer", "lr", "weight_decay", "clip", "schedule", "warmup", "batch", "bptt", "bptt_jitter", "state_reset",
    "ar", "tar", "average", "average_decay", "epochs", "steps", "eval_every", "seed", "threads",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """Everything decided, and in ``reasons`` the automatic choices in words."""

    model: ModelConfig
    training: TrainingConfig
    reasons: list[str]


def resolve(
    request: Request,
    train: SplitSize,
    valid: SplitSize,
    vocabulary_size: int,
    *,
    device: str,
    precision: str,
    architecture: ModelConfig | None = None,
) -> Recipe:
    """Decide what ``request`` leaves open. ``architecture`` fixes the network's shape (training on from a checkpoint).

    Raises ``UsageError`` for wishes that contradict one another.
    """
    if train.documents and (request.state_reset or request.bptt_jitter):
        option = "--state-reset" if request.state_reset else "--bptt-jitter"
        raise UsageError(f"every document begins from a fresh state and at its own border; leave out {option}")
    reasons: list[str] = []
    kind = device.partition(":")[0]
    model_values: dict[str, Any] = {
        **_shape(request, train.characters, architecture, kind, reasons),
        **_dropouts(request, train.characters, reasons),
    }
    model = ModelConfig(vocabulary_size, **model_values)
    fixed: dict[str, Any] = {"device": device, "precision": precision}
    if train.documents:
        fixed["state_reset"] = 0.0
    training = _training(request, train.ids, valid.ids, model.hidden, kind, fixed)
    return Recipe(model, training, reasons)


def _said(request: Request, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(request, name) for name in names if getattr(request, name) is not None}


def _shape(
    request: Request, characters: int, architecture: ModelConfig | None, device: str, reasons: list[str]
) -> dict[str, int]:
    said = _said(request, _SHAPE_WISHES)
    if architecture is not None:
        if said or request.size:
            raise UsageError("--init-from brings its own --size, --layers, --hidden and --embedding; leave them out")
        reasons.append("its size is that of the model it starts from")
        return {name: getattr(architecture, name) for name in _SHAPE_WISHES}
    size = request.size or _automatic_size(characters, device)
    if size not in SIZES:
        raise UsageError(f"--size must be one of {', '.join(SIZES)}, not {size!r}")
    if not said and not request.size:
        reasons.append(f"--size {size} for {characters:,} characters on {device}")
    shape = dict(zip(_SHAPE_WISHES, SIZES[size], strict=True))
    if "hidden" in said:
        shape["embedding"] = said["hidden"]
    return {**shape, **said}


def _dropouts(request: Request, characters: int, reasons: list[str]) -> dict[str, float]:
    said = _said(request, _DROPOUT_WISHES)
    # A text that is read many times in a training is learnt by heart without them; of a long one hardly a line is.
    chosen = {"dropout_input": 0.1, "dropout_output": 0.4} if characters < 5_000_000 else {}
    for name, rate in chosen.items():
        if name not in said:
            reasons.append(f"--{name.replace('_', '-')} {rate:g}")
    return {**chosen, **said}


def _automatic_size(characters: int, device: str) -> str:
    if characters < 20_000:
        return "tiny"
    if characters < 300_000:
        return "small"
    if characters < 20_000_000 and device == "cpu":
        return "medium"
    return "large" if device == "cpu" or characters < 20_000_000 else "huge"


def _training(
    request: Request, train_ids: int, valid_ids: int, hidden: int, device: str, fixed: dict[str, Any]
) -> TrainingConfig:
    said = _said(request, _TRAINING_WISHES)
    optimizer = said.get("optimizer", "adam")
    batch = said.get("batch", _automatic_batch(train_ids, said.get("bptt", TrainingConfig.bptt), device))
    ids_per_step = batch * said.get("bptt", TrainingConfig.bptt)
    chosen = {
        "lr": LEARNING_RATES.get(optimizer, LEARNING_RATES["adam"]) * min(1.0, 512 / hidden),
        "average": "ema",
        "weight_decay": 0.01 if optimizer == "adamw" else 0.0,
        "batch": batch,
        "eval_every": _automatic_eval_every(min(valid_ids, STEERING_IDS), max(1, ids_per_step), device),
        "warmup": TrainingConfig.warmup if request.steps is None else min(TrainingConfig.warmup, request.steps // 5),
        "seconds": None if request.time is None else parse_duration(request.time),
        **save_every_fields(request.save_every),
        **fixed,
    }
    return TrainingConfig(**{**chosen, **said})


def _automatic_batch(ids: int, bptt: int, device: str) -> int:
    """32 streams on a CPU, 128 on a GPU; fewer where the text is so short that an epoch would be a few chunks."""
    return max(1, min(32 if device == "cpu" else 128, ids // (8 * max(1, bptt))))


def _automatic_eval_every(steered_by: int, ids_per_step: int, device: str) -> int:
    """Steps between evaluations: about a twentieth of the time if reading a text costs a third of learning it."""
    at_least = 100 if device == "cpu" else 500
    return max(at_least, math.ceil(6 * steered_by / ids_per_step))


def save_every_fields(text: str | None) -> dict[str, Any]:
    """The fields of ``TrainingConfig`` for --save-every: "500" is steps, "20s" or "5m" time. Raises ``UsageError``."""
    if text is None:
        return {}
    if text.isascii() and text.isdigit():
        return {"save_every": float(text), "save_every_unit": "steps"}
    return {"save_every": parse_duration(text, "--save-every"), "save_every_unit": "seconds"}
