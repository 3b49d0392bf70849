"""What a run is trained with where a person has not said it: from the corpus, the device and the budget.

``Request`` is what was said, ``resolve`` makes it whole. How often the budget lets a training read its text decides how
it is kept from learning it by heart. Chunk length, rate, dropouts, weight decay and schedule were measured
on two CPU cores, the rest is judgement (README, "Why these defaults").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from charlm.config import ModelConfig, TrainingConfig, parse_duration
from charlm.corpus.prepared import SplitSize
from charlm.errors import UsageError
from charlm.training.budget import Budget, Machine

SIZES = {
    "tiny": (1, 128, 128),
    "small": (1, 256, 256),
    "medium": (1, 512, 512),
    "large": (2, 512, 512),
    "huge": (3, 1024, 512),
}
"""Name -> layers, hidden, embedding."""

LEARNING_RATES = {"adamw": 1e-2, "adam": 1e-2, "rmsprop": 2e-3, "sgd": 1.0}
"""For layers of up to 512 and few steps; wider ones, and longer trainings, learn at a lower rate."""
_STEPS_AT_FULL_RATE, _RATE_EXPONENT, _LEAST_RATE = 2000, 0.6, 0.2
_DECAY_PER_PASS, _LEAST_DECAY, _MOST_DECAY = 0.04, 0.02, 0.3
_PASSES_WITHOUT_DROPOUT, _STEPS_WITHOUT_DROPOUT = 2.5, 800
_DROPOUT_PER_DOUBLING, _MOST_DROPOUT = 0.12, 0.5
_IDS_FOR_TWO_LAYERS = 10_000_000
_CHUNK_LENGTHS = ((600, 128), (200, 64), (0, 32))
"""From so many steps of 128 on a chunk is so long."""
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
    instruction_set: str,
    architecture: ModelConfig | None = None,
) -> Recipe:
    """Decide what ``request`` leaves open. ``architecture`` fixes the network's shape (training on from a checkpoint).

    ``instruction_set`` is the native engine's, "" without it: how fast a CPU is, and so what a time is worth.

    Raises ``UsageError`` for wishes that contradict one another.
    """
    if train.documents and (request.state_reset or request.bptt_jitter):
        option = "--state-reset" if request.state_reset else "--bptt-jitter"
        raise UsageError(f"every document begins from a fresh state and at its own border; leave out {option}")
    reasons: list[str] = []
    kind = device.partition(":")[0]
    chunks = _chunks(request, train.ids, kind)
    machine = Machine(kind, precision, instruction_set, request.threads)
    budget = _budget(request, train.ids, math.prod(chunks.values()), machine)
    shape = _shape(request, train.characters, vocabulary_size, architecture, budget, reasons)
    plain = ModelConfig(vocabulary_size, **shape)
    limited = request.time is not None or request.epochs is not None
    if limited and request.bptt is None and not train.documents:
        chunks = _chunks(request, train.ids, kind, _chunk_length(budget.steps_of(plain), reasons))
        budget = _budget(request, train.ids, math.prod(chunks.values()), machine)
    against = _against_learning_by_heart(request, plain, budget, reasons)
    dropouts = {name: against.pop(name) for name in _DROPOUT_WISHES}
    fixed: dict[str, Any] = {**chunks, **against, "device": device, "precision": precision}
    if train.documents:
        fixed["state_reset"] = 0.0
    training = _training(request, valid.ids, kind, budget.steps_of(plain), fixed)
    return Recipe(ModelConfig(vocabulary_size, **shape, **dropouts), training, reasons)


def _said(request: Request, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(request, name) for name in names if getattr(request, name) is not None}


def _chunks(request: Request, ids: int, device: str, length: int = TrainingConfig.bptt) -> dict[str, int]:
    """32 streams on a CPU, 128 on a GPU; fewer where the text is so short that an epoch would be a few chunks."""
    bptt = length if request.bptt is None else request.bptt
    batch = max(1, min(32 if device == "cpu" else 128, ids // (8 * max(1, bptt))))
    return {"batch": batch if request.batch is None else request.batch, "bptt": bptt}


def _chunk_length(steps: float, reasons: list[str]) -> int:
    """128, or less where the budget allows only few ``steps`` of that, so that there are more of them."""
    length = next(length for least, length in _CHUNK_LENGTHS if steps >= least)
    if length != TrainingConfig.bptt:
        reasons.append(f"--bptt {length}, since of {TrainingConfig.bptt} there would be {_about(steps)} steps only")
    return length


def _budget(request: Request, train_ids: int, ids_per_step: int, machine: Machine) -> Budget:
    seconds = None if request.time is None else parse_duration(request.time)
    return Budget(train_ids, ids_per_step, request.steps, request.epochs, seconds, machine)


# -------------------------------------------------------------------------------------------------------- size


def _shape(
    request: Request,
    characters: int,
    vocabulary_size: int,
    architecture: ModelConfig | None,
    budget: Budget,
    reasons: list[str],
) -> dict[str, int]:
    said = _said(request, _SHAPE_WISHES)
    if architecture is not None:
        if said or request.size:
            raise UsageError("--init-from brings its own --size, --layers, --hidden and --embedding; leave them out")
        reasons.append("its size is that of the model it starts from")
        return {name: getattr(architecture, name) for name in _SHAPE_WISHES}
    size = request.size or _automatic_size(characters, vocabulary_size, budget)
    if size not in SIZES:
        raise UsageError(f"--size must be one of {', '.join(SIZES)}, not {size!r}")
    if not said and not request.size:
        reasons.append(f"--size {size} for {characters:,} characters on {budget.machine.device}")
    shape = _shape_of(size)
    if "hidden" in said:
        shape["embedding"] = said["hidden"]
    return {**shape, **said}


def _shape_of(size: str) -> dict[str, int]:
    return dict(zip(_SHAPE_WISHES, SIZES[size], strict=True))


def _automatic_size(characters: int, vocabulary_size: int, budget: Budget) -> str:
    if characters < 20_000:
        return "tiny"
    if characters < 300_000:
        return "small"
    if budget.machine.device != "cpu":
        return "large" if characters < 20_000_000 else "huge"
    # Two layers learn more from a text, but need the time to read much of it.
    large = ModelConfig(vocabulary_size, **_shape_of("large"))
    return "large" if budget.ids(large) >= _IDS_FOR_TWO_LAYERS else "medium"


# ------------------------------------------------------------------------------ against learning by heart


def _against_learning_by_heart(
    request: Request, model: ModelConfig, budget: Budget, reasons: list[str]
) -> dict[str, Any]:
    """Learning rate by the number of steps; weight decay and dropouts by how often the text is read."""
    passes, steps = budget.passes(model), budget.steps_of(model)
    optimizer = request.optimizer or "adamw"
    dropout = _dropout(passes, steps)
    chosen = {
        "lr": _rate(optimizer, model.hidden, steps),
        "weight_decay": _weight_decay(passes) if optimizer == "adamw" else 0.0,
        **({"dropout_hidden": dropout} if model.layers > 1 else {}),
        "dropout_output": dropout,
    }
    wished = _said(request, ("lr", "weight_decay", *_DROPOUT_WISHES))
    if model.layers == 1 and wished.pop("dropout_hidden", 0.0):
        reasons.append("no --dropout-hidden, since there is one layer only")
    options = [f"--{name.replace('_', '-')} {value:g}" for name, value in chosen.items() if name not in wished]
    if options:
        reasons.append(f"{' '.join(options)} for about {_about(steps)} steps and {_about(passes)} passes over the text")
    return {**dict.fromkeys(_DROPOUT_WISHES, 0.0), **chosen, **wished}


def _rate(optimizer: str, hidden: int, steps: float) -> float:
    rate = LEARNING_RATES.get(optimizer, LEARNING_RATES["adamw"]) * min(1.0, 512 / hidden)
    lowered = (_STEPS_AT_FULL_RATE / max(_STEPS_AT_FULL_RATE, steps)) ** _RATE_EXPONENT
    return _rounded(rate * max(lowered, _LEAST_RATE))


def _weight_decay(passes: float) -> float:
    return _rounded(min(max(_DECAY_PER_PASS * passes, _LEAST_DECAY), _MOST_DECAY))


def _dropout(passes: float, steps: float) -> float:
    doublings = math.log2(max(1.0, min(passes / _PASSES_WITHOUT_DROPOUT, steps / _STEPS_WITHOUT_DROPOUT)))
    return min(round(20 * _DROPOUT_PER_DOUBLING * doublings) / 20, _MOST_DROPOUT)


def _about(count: float) -> str:
    return f"{count:.2g}" if count < 10 else f"{float(f'{count:.1e}'):,.0f}"


def _rounded(value: float) -> float:
    """To one digit, or two where the first is a 1: what can be said is enough, and guesses of a budget differ less."""
    return float(f"{value:.{0 if value >= 2 * 10 ** math.floor(math.log10(value)) else 1}e}")


# ----------------------------------------------------------------------------------------------------- training


def _training(request: Request, valid_ids: int, device: str, steps: float, fixed: dict[str, Any]) -> TrainingConfig:
    said = _said(request, _TRAINING_WISHES)
    ids_per_step = max(1, fixed["batch"] * fixed["bptt"])
    chosen = {
        "optimizer": "adamw",
        "average": "ema",
        "eval_every": _automatic_eval_every(min(valid_ids, STEERING_IDS), ids_per_step, device),
        # Of a training that is short, however that was said, a warm-up is a part.
        "warmup": min(TrainingConfig.warmup, int(steps) // 5),
        "seconds": None if request.time is None else parse_duration(request.time),
        **save_every_fields(request.save_every),
        **fixed,
    }
    return TrainingConfig(**{**chosen, **said})


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
