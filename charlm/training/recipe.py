"""The recipe: every option that the user leaves open, chosen from the corpus, the device and the budget.

``validate`` finds contradictions among the options without a corpus, ``resolve`` chooses the rest. The number of epochs
that the budget allows sets the regularization. Only for a time limit do choices depend on the machine's speed, which is
measured. Chunk length, learning rate, dropouts, weight decay and schedule were measured on two CPU cores; the other
choices are judgement (docs/explanation/defaults.md).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from charlm.config import MAX_VALIDATION_IDS, ModelConfig, TrainingConfig, parse_duration
from charlm.errors import UsageError
from charlm.training.budget import (
    EPOCHS_WITHOUT_LIMIT,
    Budget,
    EvaluationPlan,
    Speedometer,
    TrainingSpeed,
    plan_evaluations,
)
from charlm.training.options import (
    DEFAULT_OPTIMIZER,
    SIZES,
    DropoutOptions,
    ShapeOptions,
    TrainingOptions,
    command_line_name,
    definitions,
)
from charlm.training.regularization import dropout_probabilities, learning_rate, weight_decay

if TYPE_CHECKING:
    from charlm.corpus.prepared import SplitSize

_MUON_MOMENTUM = 0.8
_BETA2, _BETA2_OF_RARE_CHARACTERS = 0.9, 0.999
_MANY_CHARACTERS = 2_000
"""In a vocabulary of so many ids most are rare. With a long memory of the gradient's size, the few updates of a rare
character's embedding are larger."""
_MIN_IDS_FOR_TWO_LAYERS = 8_000_000
_CHUNK_LENGTHS = ((600, 128), (200, 64), (0, 32))
"""(minimum number of steps with chunks of 128, chunk length)."""
_MIN_TIMED_STEPS, _MIN_CHUNK_LENGTH, _MIN_DOCUMENT_BATCH = 100, 8, 4
"""For a time limit on a slow machine, chunks are halved down to this length, or batches of documents down to this size,
until that many steps are possible: 100 steps of 8 characters gave 2.27 nats where 25 of 32 gave 2.55."""

_EPOCHS_OF_A_GENERATION, _MAX_AUTOMATIC_GENERATIONS = 9.0, 10
"""So the first generation of a long training is like a training of that length, and the others can only improve it."""
_MIN_LAYERS_OF_GENERATIONS, _MIN_CHARACTERS_FOR_GENERATIONS = 2, 300_000
"""One layer, and one model for a shorter text, gain more from more dropout."""
SOFT_WEIGHT = 0.5
"""The share of a teacher's soft targets in the loss; the rest is that of the characters themselves."""

_SHAPE = tuple(name for name in definitions(ShapeOptions) if name != "size")
_DROPOUTS = tuple(definitions(DropoutOptions))
_TRAINING = definitions(TrainingOptions).keys() & {field.name for field in dataclasses.fields(TrainingConfig)}


@dataclass(frozen=True)
class Recipe:
    """The complete configuration; ``reasons`` describes the automatic choices in words.

    ``evaluation_seconds`` is how long an evaluation is expected to take; 0 where that was not measured.
    """

    model: ModelConfig
    training: TrainingConfig
    reasons: list[str]
    evaluation_seconds: float = 0.0


def validate(options: TrainingOptions, *, documents: bool, architecture: ModelConfig | None = None) -> None:
    """Raise ``UsageError`` if ``options`` contradict one another or have a value out of range, whatever the corpus.

    ``documents``: whether the corpus consists of documents. ``architecture`` is as in ``resolve``.
    """
    _refuse_stream_options(options, documents)
    _validate_model(options, architecture)
    TrainingConfig(**{**_given(options, _TRAINING), **_translated(options)})


def _validate_model(options: TrainingOptions, architecture: ModelConfig | None) -> None:
    """Raise ``UsageError`` unless at least one size gives a valid ``ModelConfig``."""
    size = options.get("size")
    if architecture is not None:
        shapes = [_fixed_shape(options, architecture)]
    else:
        shapes = [_shape_of(name, options) for name in (SIZES if size is None else [size])]
    errors = []
    for shape in shapes:
        try:
            ModelConfig(2, **shape, **_given(options, _DROPOUTS))
        except UsageError as error:
            errors.append(error)
    if len(errors) == len(shapes):
        raise errors[0]


def resolve(
    options: TrainingOptions,
    train: SplitSize,
    valid: SplitSize,
    vocabulary_size: int,
    *,
    device: str,
    precision: str,
    speedometer: Speedometer | None = None,
    architecture: ModelConfig | None = None,
    processes: int = 1,
    has_teacher: bool = False,
) -> Recipe:
    """Choose what ``options`` leave open. ``architecture`` fixes the network's shape (weights from a checkpoint).

    Several ``processes`` divide the batch. A model that starts from other weights or has a teacher has no generations.

    ``speedometer`` measures the models that may be chosen; it is used, and needed, only with a time limit.

    Raises ``UsageError`` for options that contradict one another.
    """
    _refuse_stream_options(options, bool(train.documents))
    reasons: list[str] = []
    if not valid.ids and all(options.get(name) is None for name in ("epochs", "steps", "time")):
        reasons.append(f"--epochs {EPOCHS_WITHOUT_LIMIT}, because no validation text shows when to stop")
        options = {**options, "epochs": EPOCHS_WITHOUT_LIMIT}
    kind = device.partition(":")[0]
    chunks = _chunks(options, train.ids, kind, processes=processes)
    fixed: dict[str, Any] = {"device": device, "precision": precision, "beta2": _beta2(vocabulary_size)}
    measured = _training(options, valid.ids, kind, 0.0, {**chunks, **fixed})

    def speed(model: ModelConfig) -> TrainingSpeed:
        assert speedometer is not None, "a time limit needs a speedometer"
        return speedometer.training(dataclasses.replace(model, **_given(options, _DROPOUTS)), measured)

    budget = Budget(
        train.ids,
        math.prod(chunks.values()),
        options.get("steps"),
        options.get("epochs"),
        _seconds(options),
        kind,
        speed,
    )
    shape = _shape(options, train.characters, vocabulary_size, architecture, budget, reasons)
    plain = ModelConfig(vocabulary_size, **shape)
    limited = any(options.get(name) is not None for name in ("time", "epochs", "steps"))
    if limited and options.get("steps") is None and options.get("bptt") is None and not train.documents:
        chunks = _chunks(options, train.ids, kind, _chunk_length(plain, budget, reasons), processes)
    elif budget.seconds is not None and options.get("batch") is None and train.documents:
        smaller = _document_batch(chunks["batch"], budget.estimated_steps(plain), reasons)
        chunks["batch"] = processes * math.ceil(smaller / processes)
    budget = dataclasses.replace(budget, ids_per_step=math.prod(chunks.values()))
    refuse_generations(options, architecture is not None or has_teacher, has_validation=valid.ids > 0)
    generations = options.get("generations") or 1
    if options.get("generations") is None and architecture is None and not has_teacher and valid.ids and limited:
        generations = _automatic_generations(plain.layers, train.characters, budget.estimated_epochs(plain))
    if generations > 1 and options.get("generations") is None:
        reasons.append(f"--generations {generations} for about {_about(budget.estimated_epochs(plain))} epochs")
    regularization = _regularization(options, plain, budget, generations, reasons)
    dropouts = {name: regularization.pop(name) for name in _DROPOUTS}
    fixed = {**fixed, **chunks, **regularization, "generations": generations}
    if has_teacher or generations > 1:
        fixed["soft_weight"] = SOFT_WEIGHT
    if train.documents:
        fixed["state_reset"] = 0.0
    steps = budget.estimated_steps(plain) / generations
    training = _training(options, valid.ids, kind, steps, fixed)
    model = ModelConfig(vocabulary_size, **shape, **dropouts)
    if budget.seconds is None:
        return Recipe(model, training, reasons)
    assert speedometer is not None, "a time limit needs a speedometer"
    plan = plan_evaluations(speedometer.evaluation(plain, measured), valid.ids, budget.seconds)
    training = _timed(options, training, steps, budget.ids_per_second(plain), plan)
    return Recipe(model, training, reasons, plan.seconds)


def _given(options: Mapping[str, object], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in names and value is not None}


def _refuse_stream_options(options: TrainingOptions, documents: bool) -> None:
    reasons = {
        "state_reset": "where every document starts from a zero state",
        "bptt_jitter": "where chunks start at the beginnings of documents",
    }
    for name, reason in reasons.items():
        if documents and _given(options, (name,)).get(name):
            raise UsageError(f"{command_line_name(name)} has no effect on documents, {reason}; leave it out")


# ----------------------------------------------------------------------------------------------- chunks and budget


def _chunks(
    options: TrainingOptions, ids: int, device: str, length: int = TrainingConfig.bptt, processes: int = 1
) -> dict[str, int]:
    """32 streams on a CPU, 128 on a GPU; fewer for a short text, so that an epoch has more than a few chunks.

    As many for each process.
    """
    bptt, batch = options.get("bptt"), options.get("batch")
    bptt = length if bptt is None else bptt
    max_batch = max(1, min(32 if device == "cpu" else 128, ids // (8 * max(1, bptt))))
    shared = processes * math.ceil(max_batch / processes)
    return {"batch": shared if batch is None else batch, "bptt": bptt}


def _chunk_length(model: ModelConfig, budget: Budget, reasons: list[str]) -> int:
    """128, or less if the budget allows only few steps of that length: shorter chunks give more steps."""
    steps = budget.estimated_steps(model)
    length = next(length for min_steps, length in _CHUNK_LENGTHS if steps >= min_steps)
    if budget.seconds is not None:
        while length > _MIN_CHUNK_LENGTH and steps * TrainingConfig.bptt / length < _MIN_TIMED_STEPS:
            length //= 2
    if length != TrainingConfig.bptt:
        reasons.append(f"--bptt {length}, because {TrainingConfig.bptt} would allow only {_about(steps)} steps")
    return length


def _seconds(options: TrainingOptions) -> float | None:
    time = options.get("time")
    return None if time is None else parse_duration(time)


def _document_batch(batch: int, steps: float, reasons: list[str]) -> int:
    """``batch``, or less if the time allows only few ``steps``."""
    smaller = batch
    while smaller // 2 >= _MIN_DOCUMENT_BATCH and steps * batch / smaller < _MIN_TIMED_STEPS:
        smaller //= 2
    if smaller != batch:
        reasons.append(f"--batch {smaller}, because {batch} would allow only {_about(steps)} steps")
    return smaller


# -------------------------------------------------------------------------------------------------------- size


def _shape(
    options: TrainingOptions,
    characters: int,
    vocabulary_size: int,
    architecture: ModelConfig | None,
    budget: Budget,
    reasons: list[str],
) -> dict[str, int]:
    if architecture is not None:
        reasons.append("the size of the --init-from model")
        return _fixed_shape(options, architecture)
    size = options.get("size")
    if size is None:
        size = _automatic_size(characters, vocabulary_size, budget)
    if not _given(options, ("size", *_SHAPE)):
        reasons.append(f"--size {size} for {characters:,} characters on {budget.device}")
    return _shape_of(size, options)


def _fixed_shape(options: TrainingOptions, architecture: ModelConfig) -> dict[str, int]:
    if _given(options, ("size", *_SHAPE)):
        raise UsageError(
            "--init-from fixes the size of the model; leave out --size, --layers, --hidden and --embedding"
        )
    return {name: getattr(architecture, name) for name in _SHAPE}


def _shape_of(size: str, options: TrainingOptions | None = None) -> dict[str, int]:
    """Layers, hidden and embedding of ``size``, except where ``options`` give another value."""
    if size not in SIZES:
        raise UsageError(f"--size must be one of {', '.join(SIZES)}, not {size!r}")
    shape = dict(zip(_SHAPE, SIZES[size], strict=True))
    given = _given(options or {}, _SHAPE)
    if "hidden" in given:
        shape["embedding"] = given["hidden"]
    return {**shape, **given}


def _automatic_size(characters: int, vocabulary_size: int, budget: Budget) -> str:
    if characters < 20_000:
        return "tiny"
    if characters < 300_000:
        return "small"
    if budget.device != "cpu":
        return "large" if characters < 20_000_000 else "huge"
    # Two layers reach a lower loss, but only if there is time to read much of the text.
    large = ModelConfig(vocabulary_size, **_shape_of("large"))
    return "large" if budget.estimated_ids(large) >= _MIN_IDS_FOR_TWO_LAYERS else "medium"


# ------------------------------------------------------------------------------ learning rate and regularization


def refuse_generations(options: TrainingOptions, starts_from_model: bool, has_validation: bool = True) -> None:
    """Raise ``UsageError`` for several generations where there is a teacher or other weights, or no validation text."""
    if options.get("generations") in (None, 1):
        return
    if starts_from_model:
        raise UsageError("--generations cannot be combined with --init-from or --teacher; leave it out")
    if not has_validation:
        raise UsageError("--generations needs validation text, which shows the best model; give a --split with some")


def _automatic_generations(layers: int, characters: int, epochs: float) -> int:
    """More than one where a text is read so often that one model would overfit."""
    if layers < _MIN_LAYERS_OF_GENERATIONS or characters < _MIN_CHARACTERS_FOR_GENERATIONS:
        return 1
    return max(1, min(_MAX_AUTOMATIC_GENERATIONS, int(epochs / _EPOCHS_OF_A_GENERATION)))


def _regularization(
    options: TrainingOptions, model: ModelConfig, budget: Budget, generations: int, reasons: list[str]
) -> dict[str, Any]:
    """Of each generation: learning rate by the number of steps; weight decay and dropouts by the number of epochs."""
    epochs, steps = budget.estimated_epochs(model) / generations, budget.estimated_steps(model) / generations
    optimizer = options.get("optimizer") or DEFAULT_OPTIMIZER
    ids = budget.estimated_ids(model) / generations
    between_layers, on_output = dropout_probabilities(optimizer, steps, ids, epochs)
    chosen = {
        "lr": learning_rate(optimizer, model.hidden, steps, epochs),
        "weight_decay": weight_decay(optimizer, epochs),
        **({"dropout_hidden": between_layers} if model.layers > 1 else {}),
        "dropout_output": on_output,
    }
    given = _given(options, ("lr", "weight_decay", *_DROPOUTS))
    if model.layers == 1 and given.pop("dropout_hidden", 0.0):
        reasons.append("no --dropout-hidden, because there is only one layer")
    named = [f"{command_line_name(name)} {value:g}" for name, value in chosen.items() if name not in given]
    if named:
        reasons.append(f"{' '.join(named)} for about {_about(steps)} steps and {_about(epochs)} epochs")
    return {**dict.fromkeys(_DROPOUTS, 0.0), **chosen, **given}


def _about(count: float) -> str:
    return f"{count:.2g}" if count < 10 else f"{float(f'{count:.1e}'):,.0f}"


# ----------------------------------------------------------------------------------------------------- training


def _training(
    options: TrainingOptions, valid_ids: int, device: str, steps: float, fixed: dict[str, Any]
) -> TrainingConfig:
    ids_per_step = max(1, fixed["batch"] * fixed["bptt"])
    optimizer = options.get("optimizer") or DEFAULT_OPTIMIZER
    chosen = {
        "optimizer": optimizer,
        "momentum": _MUON_MOMENTUM if optimizer == "muon" else TrainingConfig.momentum,
        "average": "ema",
        "eval_every": _automatic_eval_every(min(valid_ids, MAX_VALIDATION_IDS), ids_per_step, device),
        # At most a fifth of a short training, whichever option limits it.
        "warmup": min(TrainingConfig.warmup, int(steps) // 5),
        **fixed,
    }
    return TrainingConfig(**{**chosen, **_given(options, _TRAINING), **_translated(options)})


def _beta2(vocabulary_size: int) -> float:
    return _BETA2 if vocabulary_size < _MANY_CHARACTERS else _BETA2_OF_RARE_CHARACTERS


def _automatic_eval_every(validation_ids: int, ids_per_step: int, device: str) -> int:
    """Steps between evaluations: about a twentieth of the time if evaluating an id costs a third of training on it."""
    return max(_min_eval_every(device), math.ceil(6 * validation_ids / ids_per_step))


def _min_eval_every(device: str) -> int:
    return 100 if device == "cpu" else 500


def _timed(
    options: TrainingOptions, training: TrainingConfig, steps: float, ids_per_second: float, plan: EvaluationPlan
) -> TrainingConfig:
    """``training`` for a time limit that is estimated to allow ``steps``, with evaluations as in ``plan``."""
    changes: dict[str, Any] = {"ids_per_second": ids_per_second, "validation_ids": plan.max_ids}
    if options.get("eval_every") is None:
        seconds_per_step = training.batch * training.bptt / ids_per_second
        least = _min_eval_every(training.device.partition(":")[0])
        changes["eval_every"] = max(least, math.ceil(plan.interval / seconds_per_step))
    if options.get("warmup") is None and training.warmup:
        # If the estimate is wrong, a share is still right.
        changes.update(warmup=0, warmup_share=round(training.warmup / steps, 3))
    return dataclasses.replace(training, **changes)


def _translated(options: TrainingOptions) -> dict[str, Any]:
    """The fields of ``TrainingConfig`` for ``time`` and ``save_every``."""
    return {"seconds": _seconds(options), **save_every_fields(options.get("save_every"))}


def save_every_fields(value: str | int | None) -> dict[str, Any]:
    """The fields of ``TrainingConfig`` for --save-every: 500 or "500" is steps, "20s" or "5m" a time.

    Raises ``UsageError``.
    """
    if value is None:
        return {}
    if isinstance(value, int) or (value.isascii() and value.isdigit()):
        return {"save_every": float(value), "save_every_unit": "steps"}
    return {"save_every": parse_duration(value, "--save-every"), "save_every_unit": "seconds"}
