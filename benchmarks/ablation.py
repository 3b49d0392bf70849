"""What each choice of charlm's recipe is worth: trainings without one of them, compared with the default.

    python benchmarks/ablation.py tinyshakespeare.txt --steps 600 --seeds 1 2 3 --set threads=1 size=small
    python benchmarks/ablation.py tinyshakespeare.txt --set layers=2 --only default "dropout between layers 0.2"
    python benchmarks/ablation.py tinyshakespeare.txt --only untied "no averaging"
    python benchmarks/ablation.py --table

Each variant differs from charlm's default only in what its name says, and reads the same number of characters.
Another chunk length makes more or fewer steps (--steps counts chunks of 128), and charlm chooses another learning rate
for them. The budget is in steps, so other work on the machine does not change a loss. All variants are trained with one
seed before the next seed begins, so that an interrupted benchmark has complete rounds. Each seed begins with another
variant. The loss is that of an exact pass of the best checkpoint over the held-out part. A variant that changes nothing
for a text (dropout between layers of a model with one layer) is skipped. Each finished training is a line in
results/ablation.jsonl (see results.py). With threads=1 two texts can be measured in parallel, each with its own
--results.

charlm has no untied decoder. "untied" adds one to its model here, for the training and for the exact pass. Its weight
is initialized like the embedding, or like nn.Linear.

    exact           nats per character, the mean over the seeds (minimum-maximum)
    over_default    increase over the default: the mean over the seeds that both have (minimum-maximum); a negative
                    value means that the variant is better
    seconds         duration of the training, the minimum over the seeds
"""

from __future__ import annotations

import argparse
import contextlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any
from unittest import mock

import torch
from results import (
    Entry,
    Measurement,
    Row,
    add_training_options,
    engine_name,
    format_options,
    grouped,
    mean_and_range,
    measurement_parser,
    parse_options,
    recipe_for,
    recipe_of,
    run_measurements,
    sha256,
    train,
)
from torch import nn

import charlm
from charlm.checkpoint.step import MODEL, open_checkpoint
from charlm.checkpoint.tensors import tensors_from_bytes
from charlm.config import ModelConfig, TrainingConfig
from charlm.corpus.preparation import prepare
from charlm.corpus.prepared import Corpus, open_corpus, parse_split
from charlm.corpus.text import open_source
from charlm.engine.torch import TorchEngine
from charlm.evaluation.measure import evaluate
from charlm.evaluation.metrics import Evaluation
from charlm.model.char_lm import EMBEDDING_STD, CharLM
from charlm.system.devices import choose_device
from charlm.training import state
from charlm.training.options import TrainingOptions
from charlm.training.saving import Saver

DEFAULT = "default"
ALWAYS = math.nextafter(1.0, 0.0)
"""The largest probability that charlm accepts. It leaves out one chunk in 10^16."""
ROTATION = 5
"""The order of the variants is rotated by this number from one seed to the next."""
VARIANTS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "untied": {"untied": "embedding"},
    "untied, as nn.Linear": {"untied": "linear"},
    "AdamW": {"optimizer": "adamw"},
    "AdamW, beta2 0.999": {"optimizer": "adamw", "beta2": 0.999},
    "momentum 0.9": {"momentum": 0.9},
    "beta2 0.999": {"beta2": 0.999},
    "no weight decay": {"weight_decay": 0.0},
    "no dropout": {"dropout_hidden": 0.0, "dropout_output": 0.0},
    "embedding dropout 0.1": {"dropout_embedding": 0.1},
    "input dropout 0.1": {"dropout_input": 0.1},
    "dropout between layers 0.2": {"dropout_hidden": 0.2},
    "output dropout 0.2": {"dropout_output": 0.2},
    "weight-drop 0.2": {"weight_drop": 0.2},
    "no averaging": {"average": "none"},
    "no clipping": {"clip": math.inf},
    "state never reset": {"state_reset": 0.0},
    "state reset at each chunk": {"state_reset": ALWAYS},
    "bptt 32": {"bptt": 32},
    "bptt 64": {"bptt": 64},
    "bptt 128": {"bptt": 128},
    "bptt 256": {"bptt": 256},
    "plateau": {"schedule": "plateau"},
    "cosine": {"schedule": "cosine"},
    "constant rate": {"schedule": "constant"},
}
"""Keywords of ``charlm.train``. Only "untied" is specific to this benchmark."""


class UntiedLikeEmbedding(CharLM):
    """A ``CharLM`` with a separate decoder weight, initialized like the embedding."""

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.decoder.weight = nn.Parameter(torch.empty_like(self.embedding.weight))
        self.initialize(self.decoder.weight, torch.Generator().manual_seed(seed + 1))

    def initialize(self, weight: torch.Tensor, generator: torch.Generator) -> None:
        nn.init.normal_(weight, 0.0, EMBEDDING_STD, generator=generator)


class UntiedLikeLinear(UntiedLikeEmbedding):
    """The same, initialized like nn.Linear."""

    def initialize(self, weight: torch.Tensor, generator: torch.Generator) -> None:
        bound = weight.shape[1] ** -0.5
        nn.init.uniform_(weight, -bound, bound, generator=generator)


UNTIED = {"embedding": UntiedLikeEmbedding, "linear": UntiedLikeLinear}


def main() -> None:
    parser = measurement_parser(__doc__, "ablation")
    parser.add_argument("texts", type=Path, nargs="*", metavar="TEXT", help="training text")
    parser.add_argument("--steps", type=int, default=600, help="number of chunks of 128 characters (default 600)")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="variants (default: all)")
    add_training_options(parser)
    arguments = parser.parse_args()
    run_measurements(arguments, measurements(arguments), table)


def measurements(arguments: argparse.Namespace) -> Iterator[Measurement]:
    options = parse_options(arguments.set)
    if {"steps", "epochs"} & set(options):
        raise SystemExit("--set: use --steps for the length of a training")
    for text in arguments.texts:
        shared = {
            "sha256": sha256(text),
            "split": arguments.split,
            "steps": arguments.steps,
            "options": options,
            "engine": engine_name(),
        }
        names = differing_variants(text, shared, arguments.only)
        for seed in arguments.seeds:
            first = seed * ROTATION % len(names)
            for name in names[first:] + names[:first]:
                settings = {**shared, "seed": seed, "variant": name, "changes": VARIANTS[name]}
                yield Measurement(text, settings, partial(measure, text, settings))


def differing_variants(text: Path, settings: dict[str, Any], names: Sequence[str]) -> list[str]:
    """The variants whose training differs from the default, and the default itself."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare(Path(folder), open_source([str(text)]), split=parse_split(settings["split"]))
        device = choose_device("auto")
        recipes = {
            name: recipe_for(TrainingOptions(**training_options(settings, VARIANTS[name])), corpus, device)
            for name in {DEFAULT, *names}
        }

    def differs(name: str) -> bool:
        recipe, default = recipes[name], recipes[DEFAULT]
        return "untied" in VARIANTS[name] or (recipe.model, recipe.training) != (default.model, default.training)

    return [name for name in names if name == DEFAULT or differs(name)]


def training_options(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Keywords for ``charlm.train``. The changes of a variant have priority over --set."""
    options = {**settings["options"], **{name: value for name, value in changes.items() if name != "untied"}}
    return {**options, "steps": settings["steps"] * TrainingConfig.bptt // options.get("bptt", TrainingConfig.bptt)}


def measure(text: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Train one variant and evaluate it."""
    changes = settings["changes"]
    untied = UNTIED.get(changes.get("untied", ""))
    options = training_options(settings, changes)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        with model_class_replaced(untied) if untied else contextlib.nullcontext():
            trained = train(text, run, split=settings["split"], seed=settings["seed"], **options)
        corpus = open_corpus(run / "corpus")
        ids = corpus.ids("test" if corpus.sizes["test"].ids else "valid")
        held_out = [ids.read(0, len(ids))]
        if untied:
            exact, parameters = evaluate_untied(run, untied, corpus, held_out)
        else:
            model = charlm.load(run)
            exact, parameters = model.evaluate_ids(held_out), model.config.parameter_count()
        figures = {
            "exact": exact.nats_per_char,
            "standard_error": exact.standard_error,
            "predictions": exact.predictions,
            "best_step": open_checkpoint(run).step,
            "steps": trained.step,
            "train_seconds": trained.seconds,
            "ended": trained.reason,
            "parameters": parameters,
        }
        return {"figures": figures, "recipe": recipe_of(run)}


@contextlib.contextmanager
def model_class_replaced(model_class: type[CharLM]) -> Iterator[None]:
    """Train ``model_class`` instead of ``CharLM``, without what follows training (tied models only)."""
    without = mock.patch.object(Saver, "save_measurements", return_value=None)
    with mock.patch.object(state, "CharLM", model_class), without:
        yield


def evaluate_untied(
    run: Path, model_class: type[CharLM], corpus: Corpus, held_out: list[Any]
) -> tuple[Evaluation, int]:
    """An exact pass with a checkpoint that ``charlm.load`` refuses because of its additional weight, and its size."""
    checkpoint = open_checkpoint(run)
    model = model_class(ModelConfig(**checkpoint.config["model"]))
    model.load_weights(tensors_from_bytes(checkpoint.files[MODEL], str(checkpoint.path)))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return evaluate(TorchEngine(model), corpus.tokenizer, held_out), parameters


def table(entries: Sequence[Entry]) -> list[Row]:
    """A row for each variant of each text, split, number of steps and options."""
    rows = []
    for shared, variants in grouped(entries, "variant", "changes", "seed"):
        default = {_seed(entry): _exact(entry) for entry in variants if entry["settings"]["variant"] == DEFAULT}
        for variant, group in sorted(grouped(variants, "seed"), key=_position):
            differences = [_exact(entry) - default[_seed(entry)] for entry in group if _seed(entry) in default]
            rows.append(
                {
                    "variant": variant["variant"],
                    "text": group[0]["text"],
                    "split": shared["split"],
                    "steps": shared["steps"],
                    "options": format_options(shared["options"]),
                    "engine": shared["engine"],
                    "seeds": len(group),
                    "exact": mean_and_range([_exact(entry) for entry in group]),
                    "over_default": "-" if variant["variant"] == DEFAULT else _signed(differences),
                    "seconds": round(min(entry["figures"]["train_seconds"] for entry in group)),
                    "parameters": group[0]["figures"]["parameters"],
                }
            )
    return rows


def _position(group: tuple[dict[str, Any], list[Entry]]) -> int:
    """The position of a variant in ``VARIANTS``, or the end if it was removed from there."""
    name = group[0]["variant"]
    return list(VARIANTS).index(name) if name in VARIANTS else len(VARIANTS)


def _seed(entry: Entry) -> int:
    return int(entry["settings"]["seed"])


def _exact(entry: Entry) -> float:
    return float(entry["figures"]["exact"])


def _signed(values: Sequence[float]) -> str:
    if not values:
        return "-"
    middle = f"{mean(values):+.4f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):+.4f} to {max(values):+.4f})"


if __name__ == "__main__":
    main()
