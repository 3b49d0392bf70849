"""The options of a training: name, type, default and help of each, defined once.

The command line (``charlm train``), the keywords of ``charlm.train`` and ``charlm.resume`` and the recipe are all
derived from these classes. An option that is absent or None is chosen by the recipe.
"""

import types
import typing
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Annotated, Any, NamedTuple, TypedDict

from charlm.config import AVERAGES, OPTIMIZERS, SCHEDULES
from charlm.errors import UsageError

SIZES = {
    "tiny": (1, 128, 128),
    "small": (1, 256, 256),
    "medium": (1, 512, 512),
    "large": (2, 512, 512),
    "huge": (3, 1024, 512),
}
"""Name -> layers, hidden, embedding."""
DEFAULT_OPTIMIZER = "muon"


class Option(NamedTuple):
    """What users read about an option."""

    help: str
    default: str = ""
    """In words: the value, or what determines it."""
    example: str = ""
    """A value of an option whose type does not show how to write it."""
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple[str, ...] = ()
    """The values, of an option that has only a few."""

    @property
    def text(self) -> str:
        """Help and default in one line."""
        return f"{self.help} [default: {self.default}]" if self.default else self.help


class ShapeOptions(TypedDict, total=False):
    """The size of the network. All but ``size`` are fields of ``ModelConfig``."""

    size: Annotated[
        str | None,
        Option("tiny, small, medium, large or huge.", "by corpus and device", "medium", choices=tuple(SIZES)),
    ]
    layers: Annotated[int | None, Option("Number of LSTM layers.", "by --size")]
    hidden: Annotated[int | None, Option("Width of the layers.", "by --size")]
    embedding: Annotated[
        int | None, Option("Width of the embedding and of the last layer.", "by --size, or --hidden if that is given")
    ]


class DropoutOptions(TypedDict, total=False):
    """Dropout probabilities, fields of ``ModelConfig``."""

    dropout_embedding: Annotated[float | None, Option("Dropout of whole characters from the embedding.", "0")]
    dropout_input: Annotated[
        float | None, Option("Variational dropout (same mask at all time steps) on the embeddings.", "0")
    ]
    dropout_hidden: Annotated[float | None, Option("Variational dropout between layers.", "by corpus and budget")]
    dropout_output: Annotated[float | None, Option("Variational dropout before the decoder.", "by corpus and budget")]
    weight_drop: Annotated[float | None, Option("DropConnect on the hidden-to-hidden weights.", "0")]


class OptimizationOptions(TypedDict, total=False):
    """How the weights are trained: fields of ``TrainingConfig``."""

    optimizer: Annotated[str | None, Option("muon, adamw, adam, sgd or rmsprop.", "muon", "muon", choices=OPTIMIZERS)]
    lr: Annotated[float | None, Option("Learning rate.", "by optimizer, corpus and budget")]
    momentum: Annotated[float | None, Option("Momentum of muon and sgd.", "0.8 for muon, 0.9 for sgd")]
    beta2: Annotated[
        float | None,
        Option(
            "Decay of the second moments of adamw and adam, and of the embedding's under muon.",
            "0.9; 0.999 from 2,000 ids on",
        ),
    ]
    weight_decay: Annotated[
        float | None, Option("Weight decay on matrices.", "by corpus and budget for muon and adamw, else 0")
    ]
    clip: Annotated[float | None, Option("Clip the gradient norm to this value; inf disables clipping.", "1")]
    schedule: Annotated[str | None, Option("plateau, cosine or constant.", "plateau", "cosine", choices=SCHEDULES)]
    warmup: Annotated[
        int | None, Option("Steps of linear warm-up.", "100, at most a fifth; with --time, a share of the time")
    ]
    batch: Annotated[int | None, Option("Number of parallel streams.", "by corpus and device")]
    bptt: Annotated[int | None, Option("Characters per chunk.", "at most 128, by budget")]
    bptt_jitter: Annotated[float | None, Option("Shift chunk borders by up to this fraction of --bptt.", "0")]
    state_reset: Annotated[float | None, Option("Probability of resetting a stream's state before a chunk.", "0.01")]
    ar: Annotated[float | None, Option("Activation regularization.", "0")]
    tar: Annotated[float | None, Option("Temporal activation regularization.", "0")]
    average: Annotated[
        str | None,
        Option("Weights to keep: ema, triggered (mean since the plateau) or none.", "ema", "ema", choices=AVERAGES),
    ]
    average_decay: Annotated[float | None, Option("Decay of the ema per step.", "0.998")]
    generations: Annotated[
        int | None,
        Option("Models trained one after another, each on what the best before it predicts.", "by corpus and budget"),
    ]


class ResumeOptions(TypedDict, total=False):
    """What may change when a run is resumed. Fields of ``TrainingConfig``, or converted to such fields."""

    epochs: Annotated[int | None, Option("Stop after this many epochs.")]
    steps: Annotated[int | None, Option("Stop after this many steps.")]
    time: Annotated[
        str | None,
        Option(
            "Stop after 90s, 10m, 1h30m or 2d in total, counted from the prepared text to the last saved file.",
            "",
            "10m",
        ),
    ]
    save_every: Annotated[str | int | None, Option("Steps, or a time such as 20s, between saves.", "60s", "20s")]
    threads: Annotated[int | None, Option("CPU threads.", "all cores, at most one for 4 streams", "", 1, 1024)]


class TrainingOptions(ShapeOptions, DropoutOptions, OptimizationOptions, ResumeOptions, total=False):
    """All options of a training."""

    eval_every: Annotated[int | None, Option("Steps between evaluations.", "by corpus, device, --batch and --bptt")]
    seed: Annotated[int | None, Option("The same seed gives the same run.", "1")]


class Definition(NamedTuple):
    """An option as ``definitions`` returns it."""

    kinds: tuple[type, ...]
    """The types of its values, first that of the command line."""
    option: Option


def definitions(kind: type) -> dict[str, Definition]:
    """Name to definition of each option of a class above."""
    found = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        union, option = typing.get_args(hint)
        found[name] = Definition(_kinds(union), option)
    return found


def _kinds(union: Any) -> tuple[type, ...]:
    return tuple(kind for kind in typing.get_args(union) or (union,) if kind is not types.NoneType)


# ------------------------------------------------------------------------------------------------ checks


def check_options(values: Mapping[str, object], kind: type, function: str) -> TrainingOptions:
    """``values`` without those that are None. Raises ``UsageError`` for an unknown name or a value of a wrong type."""
    known = definitions(kind)
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise UsageError(f"{function}() has no option {name!r}; it has {', '.join(sorted(known))}")
        if value is not None:
            kinds, option = known[name]
            checked[name] = check_type(name, value, kinds, option.example)
    return typing.cast(TrainingOptions, checked)


_KIND_WORDS = {int: "an integer", float: "a number", str: "a string"}


def check_type(name: str, value: object, kinds: tuple[type, ...], example: str = "") -> Any:
    """``value`` as one of ``kinds``: int, float, str.

    An int is accepted for a float; NumPy scalars become Python numbers. Raises ``UsageError``.
    """
    is_bool = isinstance(value, bool)
    if isinstance(value, Integral) and not is_bool and (int in kinds or float in kinds):
        return int(value)
    if isinstance(value, Real) and not is_bool and float in kinds:
        return float(value)
    if isinstance(value, str) and str in kinds:
        return value
    like = f" such as {example!r}" if example else ""
    expected = " or ".join(_KIND_WORDS[kind] + (like if kind is str else "") for kind in kinds)
    raise UsageError(f"{command_line_name(name)} must be {expected}, not {value!r:.60}")


def command_line_name(name: str) -> str:
    """``save_every`` as ``--save-every``."""
    return f"--{name.replace('_', '-')}"
