"""The settings of the model, of training and of sampling, and their strict JSON form.

``ModelConfig``, ``TrainingConfig`` and ``SamplingConfig`` are frozen, validate their values when created, and survive a
round trip through JSON. ``parse_json`` reads JSON from untrusted sources: bounded in size and depth, no duplicate keys,
no NaN.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import types
import typing
from dataclasses import dataclass
from typing import Any, TypeVar

from charlm.arguments import check_integer, check_number
from charlm.errors import DataError, UsageError

MAX_JSON_BYTES = 1_000_000
MAX_JSON_DEPTH = 32
MAX_DIGITS = 300
"""The most digits of an integer. Python's integers are unbounded, but larger ones cannot become a float."""
# Far above any LSTM that fits in memory, and low enough that no product of two overflows or is allocated by mistake.
MAX_WIDTH = 65_536
MAX_LAYERS = 64
MAX_VOCABULARY = 1_200_000

OPTIMIZERS = ("muon", "adamw", "adam", "sgd", "rmsprop")
AVERAGES = ("ema", "triggered", "none")
MAX_GENERATIONS = 100
MAX_VALIDATION_IDS = 1 << 17
"""Evaluations during training read at most this many ids of the validation text; ``charlm eval`` reads all of it."""
SCHEDULES = ("plateau", "cosine", "constant")
_DEVICE = re.compile(r"(cpu|cuda|mps)(:[0-9]{1,3})?")

ConfigT = TypeVar("ConfigT")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, f"{name} must be one of {', '.join(choices)}, not {value!r:.40}")


def _require_probability(name: str, value: float) -> None:
    _require(0.0 <= value < 1.0, f"{name} must be at least 0 and below 1, not {value}")


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a ``CharLM`` and its dropouts.

    ``embedding`` is also the width of the last layer, because the decoder is tied to the embedding (Press and Wolf
    2017; a last layer of another width as in AWD-LSTM, Merity et al. 2018). A dropout mask is the same for all time
    steps, and ``dropout_embedding`` drops whole characters (both from Gal and Ghahramani 2016). ``weight_drop`` is
    DropConnect on the hidden-to-hidden weights (Wan et al. 2013).

    Raises ``UsageError`` for invalid values.
    """

    vocabulary_size: int
    layers: int
    hidden: int
    embedding: int
    dropout_embedding: float = 0.0
    dropout_input: float = 0.0
    dropout_hidden: float = 0.0
    dropout_output: float = 0.0
    weight_drop: float = 0.0

    def __post_init__(self) -> None:
        _require(
            2 <= self.vocabulary_size <= MAX_VOCABULARY,
            f"the vocabulary size must be 2 to {MAX_VOCABULARY}, not {self.vocabulary_size}",
        )
        _require(1 <= self.layers <= MAX_LAYERS, f"--layers must be 1 to {MAX_LAYERS}, not {self.layers}")
        _require(1 <= self.hidden <= MAX_WIDTH, f"--hidden must be 1 to {MAX_WIDTH}, not {self.hidden}")
        _require(1 <= self.embedding <= MAX_WIDTH, f"--embedding must be 1 to {MAX_WIDTH}, not {self.embedding}")
        _require(
            self.layers > 1 or self.hidden == self.embedding,
            "with one layer --hidden and --embedding must be equal, because the last layer has the embedding's width; "
            "use --layers 2 or make them equal",
        )
        _require_probability("--dropout-embedding", self.dropout_embedding)
        _require_probability("--dropout-input", self.dropout_input)
        _require_probability("--dropout-hidden", self.dropout_hidden)
        _require_probability("--dropout-output", self.dropout_output)
        _require_probability("--weight-drop", self.weight_drop)

    def layer_widths(self) -> list[tuple[int, int]]:
        """``(input width, hidden width)`` of each layer, first to last."""
        widths = [self.embedding] + [self.hidden] * (self.layers - 1) + [self.embedding]
        return list(itertools.pairwise(widths))

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor in ``model.safetensors``; the tied decoder weight is stored once."""
        shapes: dict[str, tuple[int, ...]] = {
            "embedding.weight": (self.vocabulary_size, self.embedding),
            "decoder.bias": (self.vocabulary_size,),
        }
        for layer, (width_in, width) in enumerate(self.layer_widths()):
            shapes[f"lstm.{layer}.weight_ih"] = (4 * width, width_in)
            shapes[f"lstm.{layer}.weight_hh"] = (4 * width, width)
            shapes[f"lstm.{layer}.bias"] = (4 * width,)
        return shapes

    def parameter_count(self) -> int:
        """The number of parameters; the tied weight is counted once."""
        return sum(math.prod(shape) for shape in self.parameter_shapes().values())

    def saved_by_tying(self) -> int:
        """The number of parameters that an untied decoder weight would add."""
        return self.vocabulary_size * self.embedding


@dataclass(frozen=True)
class TrainingConfig:
    """How a run is trained. All automatic choices are already made, so that a resumed run needs nothing else.

    The defaults are those of settings that an older checkpoint lacks. For new runs the recipe replaces many of them.

    At most one of ``epochs``, ``steps`` and ``seconds`` is set. Without any, training ends when the validation loss
    stops improving. ``bptt_jitter`` moves the boundaries of chunks by up to this fraction of ``bptt``. ``ar`` and
    ``tar`` are the weights of activation regularization and its temporal version (Merity et al. 2017).
    ``save_every`` is in seconds if ``save_every_unit`` is "seconds", else in steps. The warm-up takes ``warmup`` steps,
    or the share ``warmup_share`` of the budget if that is above 0. Evaluations read at most ``validation_ids``.
    ``ids_per_second`` is the speed for which the other values were chosen, None where it had no influence on them.
    ``soft_weight`` is the share of the soft targets of a teacher in the loss, 0 without a teacher. ``generations`` is
    how many models are trained in equal shares of the budget, each with the best one before it as its teacher.

    Raises ``UsageError`` for invalid values.
    """

    optimizer: str = "adam"
    lr: float = 1e-2
    momentum: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    clip: float = 1.0
    schedule: str = "plateau"
    warmup: int = 100
    warmup_share: float = 0.0
    batch: int = 32
    bptt: int = 128
    bptt_jitter: float = 0.0
    state_reset: float = 0.01
    ar: float = 0.0
    tar: float = 0.0
    average: str = "none"
    average_decay: float = 0.998
    epochs: int | None = None
    steps: int | None = None
    seconds: float | None = None
    eval_every: int = 500
    validation_ids: int = MAX_VALIDATION_IDS
    save_every: float = 60.0
    save_every_unit: str = "seconds"
    seed: int = 1
    device: str = "cpu"
    precision: str = "fp32"
    threads: int | None = None
    ids_per_second: float | None = None
    soft_weight: float = 0.0
    generations: int = 1

    def __post_init__(self) -> None:
        _require_choice("--optimizer", self.optimizer, OPTIMIZERS)
        _require_choice("--schedule", self.schedule, SCHEDULES)
        _require(
            self.precision in ("fp32", "bf16", "fp16"),
            f"--precision must be auto, fp32, bf16 or fp16, not {self.precision!r:.40}",
        )
        _require(0 < self.lr <= 1000 and math.isfinite(self.lr), f"--lr must be above 0, not {self.lr}")
        _require(0 <= self.momentum < 1, f"--momentum must be at least 0 and below 1, not {self.momentum}")
        _require(0 < self.beta2 < 1, f"--beta2 must be above 0 and below 1, not {self.beta2}")
        _require(0 <= self.weight_decay < 1, f"--weight-decay must be at least 0 and below 1, not {self.weight_decay}")
        _require(self.clip > 0, f"--clip must be above 0, not {self.clip}; use --clip inf to switch clipping off")
        _require(self.warmup >= 0, f"--warmup must be 0 or more steps, not {self.warmup}")
        _require_probability("warmup_share", self.warmup_share)
        _require(1 <= self.batch <= 1_000_000, f"--batch must be 1 to 1,000,000, not {self.batch}")
        _require(1 <= self.bptt <= 1_000_000_000, f"--bptt must be 1 to 1,000,000,000, not {self.bptt}")
        _require(
            0.0 <= self.bptt_jitter < 0.5, f"--bptt-jitter must be at least 0 and below 0.5, not {self.bptt_jitter}"
        )
        _require_probability("--state-reset", self.state_reset)
        _require(0 <= self.ar < math.inf, f"--ar must be 0 or more, not {self.ar}")
        _require(0 <= self.tar < math.inf, f"--tar must be 0 or more, not {self.tar}")
        _require_choice("--average", self.average, AVERAGES)
        _require_probability("--average-decay", self.average_decay)
        limits = {"--epochs": self.epochs, "--steps": self.steps, "--time": self.seconds}
        budgets = {name: value for name, value in limits.items() if value is not None}
        _require(len(budgets) <= 1, "give only one of --epochs, --steps and --time")
        for name, value in budgets.items():
            _require(0 < value < math.inf, f"{name} must be above 0, not {value}")
        _require(
            self.schedule == "plateau" or bool(budgets),
            f"--schedule {self.schedule} needs to know when training ends: add --time, --steps or --epochs",
        )
        _require(self.eval_every >= 1, f"--eval-every must be 1 or more steps, not {self.eval_every}")
        _require(self.validation_ids >= 1, f"validation_ids must be 1 or more, not {self.validation_ids}")
        _require(0 < self.save_every <= 1e9, f"--save-every must be above 0 and at most 1e9, not {self.save_every:g}")
        _require(
            self.save_every_unit in ("seconds", "steps"), "--save-every must be a number of steps or a time like 60s"
        )
        _require(self.save_every_unit != "steps" or self.save_every >= 1, "--save-every must be 1 or more steps")
        _require(0 <= self.seed < 2**63, f"--seed must be 0 to 2^63-1, not {self.seed}")
        _require(self.threads is None or 1 <= self.threads <= 1024, f"--threads must be 1 to 1024, not {self.threads}")
        _require(
            self.ids_per_second is None or 0 < self.ids_per_second < math.inf,
            f"ids_per_second must be above 0, not {self.ids_per_second}",
        )
        _require(
            1 <= self.generations <= MAX_GENERATIONS,
            f"--generations must be 1 to {MAX_GENERATIONS}, not {self.generations}",
        )
        _require(
            self.generations == 1 or bool(budgets),
            "--generations needs to know when training ends: add --time, --steps or --epochs",
        )
        _require(0 <= self.soft_weight <= 1, f"soft_weight must be 0 to 1, not {self.soft_weight}")
        _require(
            _DEVICE.fullmatch(self.device) is not None,
            f"--device {self.device!r:.40} is not a device; use auto, cpu, cuda or mps",
        )


DEFAULT_TEMPERATURE = 0.8
"""Of ``charlm generate`` and of ``LanguageModel``. The default of ``SamplingConfig`` is the model's distribution."""


@dataclass(frozen=True)
class SamplingConfig:
    """How the next id is sampled. The four settings are applied in this order, each to the result of the one before.

    ``temperature`` divides the logits (0: always the most likely id). ``top_k`` keeps the k most likely ids (0: all).
    ``top_p`` keeps the smallest set of ids with at least this probability (Holtzman et al. 2020). ``min_p`` keeps ids
    at least this fraction as likely as the most likely one (Nguyen et al. 2024).

    Raises ``UsageError`` for invalid values.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p"):
            check_number(name, getattr(self, name))
        _require(0 <= self.temperature <= 1000, f"temperature must be 0 (greedy) to 1000, not {self.temperature}")
        check_integer("top_k", self.top_k, words="0 (off) or more, an integer")
        _require(0 < self.top_p <= 1, f"top_p must be above 0 and at most 1, not {self.top_p}")
        _require(0 <= self.min_p <= 1, f"min_p must be 0 to 1, not {self.min_p}")


def to_dict(config: Any) -> dict[str, Any]:
    """The fields of a configuration as JSON values. Infinity, which JSON lacks, becomes the string "inf"."""
    return {
        name: "inf" if isinstance(value, float) and math.isinf(value) else value
        for name, value in dataclasses.asdict(config).items()
    }


def from_dict(config_class: type[ConfigT], values: Any, where: str) -> ConfigT:
    """Build ``config_class`` from JSON values. Raises ``DataError`` for unknown, missing or wrongly typed fields."""
    if not isinstance(values, dict):
        raise DataError(f"{where} does not hold a JSON object of settings; restore it from a backup")
    hints = typing.get_type_hints(config_class)
    fields = {field.name: field for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]  # TypeVar
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise DataError(f"{where} has the setting {unknown[0]!r:.80}, unknown to this charlm; update charlm")
    missing = [name for name, field in fields.items() if name not in values and _is_required(field)]
    if missing:
        raise DataError(f"{where} lacks the setting {missing[0]!r}; restore it from a backup")
    checked = {name: _check_type(value, hints[name], f"{where}: {name}") for name, value in values.items()}
    try:
        return config_class(**checked)
    except UsageError as error:
        raise DataError(f"{where}: {error}") from None


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _check_type(value: Any, hint: Any, where: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if option is types.NoneType and value is None:
            return None
        if option is float and value == "inf":
            return math.inf
        if option is float and type(value) is int and abs(value) < 2**53:
            return float(value)
        if option in (int, float, str, bool) and type(value) is option and (option is not int or abs(value) < 2**63):
            return value
    names = " or ".join(getattr(option, "__name__", "?") for option in options)
    raise DataError(f"{where} is {value!r:.40}, not {names}; restore it from a backup")


def parse_json(data: bytes, where: str) -> Any:
    """Parse JSON from an untrusted source: at most 1 MB, UTF-8, bounded depth, no duplicate keys, only finite numbers.

    Raises ``DataError``, whose text begins with ``where``.
    """
    if len(data) > MAX_JSON_BYTES:
        raise DataError(
            f"{where} is larger than {MAX_JSON_BYTES} bytes, so charlm did not write it; restore it from a backup"
        )
    try:
        values = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_bounded_integer,
        )
        _require_shallow(values)
        return values
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON ({str(error)[:60]}); restore it from a backup") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("duplicate key")
    return values


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:20]} is too large")
    return value


def _bounded_integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"{text[:20]}... is too large")
    return int(text)


def _require_shallow(values: Any) -> None:
    # Code that traverses the values again, such as repr(), may have less stack left than the parser had.
    level = [values]
    for _ in range(MAX_JSON_DEPTH):
        inner = [value for value in level if isinstance(value, (dict, list))]
        level = [part for value in inner for part in (value.values() if isinstance(value, dict) else value)]
    if level:
        raise ValueError(f"nested more than {MAX_JSON_DEPTH} deep")


def dump_json(values: Any) -> bytes:
    """JSON as charlm writes it: sorted keys, two-space indent, a final newline. Raises ``ValueError`` for NaN."""
    return (json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n").encode("utf-8")


_UNITS = (("d|days?", 86400.0), ("h|hours?", 3600.0), ("m|mins?|minutes?", 60.0), ("s|secs?|seconds?", 1.0))
_DURATION = re.compile(r"\s*".join(rf"(?:([0-9]+(?:\.[0-9]+)?) ?(?:{unit})\b|)" for unit, _ in _UNITS), re.IGNORECASE)


def parse_duration(text: str, option: str = "--time") -> float:
    """Seconds in "90s", "10m", "2h", "1d", "1h30m" or "10 minutes". Raises ``UsageError``."""
    written = re.sub(r"(?<=[a-z])(?=[0-9])", " ", text.strip().lower())
    if found := _DURATION.fullmatch(written):
        numbers = [float(number or 0) for number in found.groups()]
        total = sum(number * seconds for number, (_, seconds) in zip(numbers, _UNITS, strict=True))
        if 0 < total < math.inf:
            return total
    if re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", written):
        raise UsageError(f"{option} {text!r} has no unit; write {written}s, {written}m or {written}h")
    raise UsageError(f"{option} {text!r:.60} is not a duration; write 90s, 10m, 2h or 1h30m")


def format_duration(seconds: float) -> str:
    """Seconds as 0:42, 12:05 or 1:02:03."""
    whole = int(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
