"""What each choice of charlm's recipe is worth: trainings that lack one of them beside trainings that have all.

    python benchmarks/ablation.py tinyshakespeare.txt --steps 600 --seeds 1 2 3 --set threads=1 size=small
    python benchmarks/ablation.py tinyshakespeare.txt --set layers=2 --only default "dropout between layers 0.2"
    python benchmarks/ablation.py tinyshakespeare.txt --only untied "no averaging"
    python benchmarks/ablation.py --table

Each variant is charlm's default but for what its name says, and reads as many characters: another chunk length makes
more or fewer steps (--steps counts chunks of 128), for which charlm chooses another rate. So a machine that others use
changes no loss. All variants take a seed before the next seed comes, so that a stopped campaign has whole rounds, and
each seed begins with another variant. The loss is that of an exact pass over the held-out part with the best
checkpoint. A variant that changes nothing for a text (dropout between layers where there is one layer) is left out. A
finished training is a line in results/ablation.jsonl (see results.py). With threads=1 two texts can be tried side by
side, each with a --results of its own.

charlm has no untied decoder, since sharing the embedding's weight is what it is built on; "untied" gives its model one
here, for the training and for the exact pass: begun with numbers of its own, drawn as the embedding's are, or as
nn.Linear draws them.

    exact           nats per character, the mean over the seeds (smallest-largest)
    over_default    how much worse than the default: the mean over the seeds that both have (smallest-largest); below 0
                    the variant is better
    seconds         of training, the shortest of the seeds
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
    campaign_parser,
    carry_out,
    engine,
    grouped,
    in_words,
    over_seeds,
    parse_wishes,
    recipe_for,
    recipe_of,
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
"""The largest chance that charlm takes: at every chunk, but for one in 10^16."""
ROTATION = 5
"""By so many variants a seed's order is turned against that of the seed before."""
VARIANTS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "untied": {"untied": "embedding"},
    "untied, as nn.Linear": {"untied": "linear"},
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
"""Keywords of ``charlm.train``; "untied" is this benchmark's own."""


class UntiedByEmbedding(CharLM):
    """A ``CharLM`` whose decoder has a weight of its own, drawn like the embedding's."""

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.decoder.weight = nn.Parameter(torch.empty_like(self.embedding.weight))
        self.draw(self.decoder.weight, torch.Generator().manual_seed(seed + 1))

    def draw(self, weight: torch.Tensor, generator: torch.Generator) -> None:
        nn.init.normal_(weight, 0.0, EMBEDDING_STD, generator=generator)


class UntiedAsLinear(UntiedByEmbedding):
    """The same, drawn as nn.Linear draws its own."""

    def draw(self, weight: torch.Tensor, generator: torch.Generator) -> None:
        bound = weight.shape[1] ** -0.5
        nn.init.uniform_(weight, -bound, bound, generator=generator)


UNTIED = {"embedding": UntiedByEmbedding, "linear": UntiedAsLinear}


def main() -> None:
    parser = campaign_parser(__doc__, "ablation")
    parser.add_argument("texts", type=Path, nargs="*", metavar="TEXT", help="a text to learn")
    parser.add_argument("--steps", type=int, default=600, help="chunks of 128 characters a stream (default 600)")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="variants (default: all)")
    add_training_options(parser)
    arguments = parser.parse_args()
    carry_out(arguments, measurements(arguments), table)


def measurements(arguments: argparse.Namespace) -> Iterator[Measurement]:
    wishes = parse_wishes(arguments.set)
    if {"steps", "epochs"} & set(wishes):
        raise SystemExit("--set: how long a training lasts is said with --steps")
    for text in arguments.texts:
        shared = {
            "sha256": sha256(text),
            "split": arguments.split,
            "steps": arguments.steps,
            "options": wishes,
            "engine": engine(),
        }
        names = differing(text, shared, arguments.only)
        for seed in arguments.seeds:
            first = seed * ROTATION % len(names)
            for name in names[first:] + names[:first]:
                settings = {**shared, "seed": seed, "variant": name, "changes": VARIANTS[name]}
                yield Measurement(text, settings, partial(measure, text, settings))


def differing(text: Path, settings: dict[str, Any], names: Sequence[str]) -> list[str]:
    """Those variants that are another training than the default."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare(Path(folder), open_source([str(text)]), split=parse_split(settings["split"]))
        device = choose_device("auto")
        recipes = {
            name: recipe_for(TrainingOptions(**wishes_of(settings, VARIANTS[name])), corpus, device)
            for name in {DEFAULT, *names}
        }

    def differs(name: str) -> bool:
        ours, default = recipes[name], recipes[DEFAULT]
        return "untied" in VARIANTS[name] or (ours.model, ours.training) != (default.model, default.training)

    return [name for name in names if name == DEFAULT or differs(name)]


def wishes_of(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Keywords for ``charlm.train``: what a variant changes goes before what --set says."""
    wishes = {**settings["options"], **{name: value for name, value in changes.items() if name != "untied"}}
    return {**wishes, "steps": settings["steps"] * TrainingConfig.bptt // wishes.get("bptt", TrainingConfig.bptt)}


def measure(text: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Train and measure one variant once."""
    changes = settings["changes"]
    untied = UNTIED.get(changes.get("untied", ""))
    wishes = wishes_of(settings, changes)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        with trained_as(untied) if untied else contextlib.nullcontext():
            trained = train(text, run, split=settings["split"], seed=settings["seed"], **wishes)
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
def trained_as(model_class: type[CharLM]) -> Iterator[None]:
    """Trainings of this class, without the gradients for dynamic evaluation, which is of a tied model only."""
    with mock.patch.object(state, "CharLM", model_class), mock.patch.object(Saver, "save_gradients"):
        yield


def evaluate_untied(
    run: Path, model_class: type[CharLM], corpus: Corpus, held_out: list[Any]
) -> tuple[Evaluation, int]:
    """The exact pass with a checkpoint that ``charlm.load`` refuses, since it has a weight too many."""
    checkpoint = open_checkpoint(run)
    model = model_class(ModelConfig(**checkpoint.config["model"]))
    model.load_weights(tensors_from_bytes(checkpoint.files[MODEL], str(checkpoint.path)))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return evaluate(TorchEngine(model), corpus.tokenizer, held_out), parameters


def table(entries: Sequence[Entry]) -> list[Row]:
    """A row for each variant of each text, split, number of steps and options."""
    rows = []
    for shared, together in grouped(entries, "variant", "changes", "seed"):
        default = {_seed(entry): _exact(entry) for entry in together if entry["settings"]["variant"] == DEFAULT}
        for variant, group in sorted(grouped(together, "seed"), key=_place):
            worse = [_exact(entry) - default[_seed(entry)] for entry in group if _seed(entry) in default]
            rows.append(
                {
                    "variant": variant["variant"],
                    "text": group[0]["text"],
                    "split": shared["split"],
                    "steps": shared["steps"],
                    "options": in_words(shared["options"]),
                    "engine": shared["engine"],
                    "seeds": len(group),
                    "exact": over_seeds([_exact(entry) for entry in group]),
                    "over_default": "-" if variant["variant"] == DEFAULT else _signed(worse),
                    "seconds": round(min(entry["figures"]["train_seconds"] for entry in group)),
                    "parameters": group[0]["figures"]["parameters"],
                }
            )
    return rows


def _place(group: tuple[dict[str, Any], list[Entry]]) -> int:
    """Where a variant stands in ``VARIANTS``; at the end if it is none any more."""
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
