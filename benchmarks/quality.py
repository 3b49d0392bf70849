"""How good a model a training of given length makes: exact pass and nanoGPT's crops, on the part that was held out.

    python benchmarks/quality.py tinyshakespeare.txt --times 2m 10m 60m --seeds 1 2 3
    python benchmarks/quality.py tinyshakespeare.txt --times 2m 10m 60m --split 80/10/10
    python benchmarks/quality.py tinyshakespeare.txt --times 10m --set size=large dropout_output=0.5
    python benchmarks/quality.py --table

Trains with charlm's defaults, then measures the best checkpoint: one exact pass with the state carried from the first
character to the last, and means over windows of 256 and of 64 characters from a cold state. With --split A/B/0 the
held-out text also steered the rate and the choice of the best step, as is usual in the field; with three parts the
test part steered nothing. With --dynamic, in addition an exact pass of dynamic evaluation, where the model goes on
learning from what it has read.

A finished training is a line in results/quality.jsonl (see results.py); those that are there are not made again. With
--keep FOLDER the runs stay there: one that was stopped in the middle goes on, and --dynamic needs no new training.

    exact, standard_error   nats per character of the exact pass: the mean over the seeds (smallest-largest); the error
                            tells how far another text of the same kind could lie
    bits                    the same mean in bits per character
    crops, dynamic          nats per character
    steps                   the mean
"""

from __future__ import annotations

import argparse
import hashlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from results import (
    Entry,
    Measurement,
    Row,
    add_training_options,
    campaign_parser,
    carry_out,
    duration,
    engine,
    grouped,
    in_words,
    key,
    over_seeds,
    parse_wishes,
    recipe_of,
    sha256,
    train,
)

import charlm
from charlm.config import parse_duration
from charlm.corpus.prepared import open_corpus

WINDOWS = (256, 64)


def main() -> None:
    parser = campaign_parser(__doc__, "quality")
    parser.add_argument("texts", type=Path, nargs="*", metavar="TEXT", help="a text to learn")
    parser.add_argument("--times", nargs="+", default=["5m"], help="lengths of a training (default 5m)")
    add_training_options(parser)
    parser.add_argument("--dynamic", action="store_true", help="also dynamic evaluation")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the runs stay (default: nowhere)")
    arguments = parser.parse_args()
    carry_out(arguments, measurements(arguments), table)


def measurements(arguments: argparse.Namespace) -> Iterator[Measurement]:
    wishes = parse_wishes(arguments.set)
    for text in arguments.texts:
        digest = sha256(text)
        for length in arguments.times:
            for seed in arguments.seeds:
                settings = {
                    "sha256": digest,
                    "split": arguments.split,
                    "seconds": parse_duration(length),
                    "seed": seed,
                    "options": wishes,
                    "engine": engine(),
                }
                yield Measurement(
                    text,
                    settings,
                    lambda text=text, settings=settings: measure(text, settings, arguments.keep, arguments.dynamic),
                    lambda entry: not arguments.dynamic or "dynamic" in entry["figures"],
                )


def measure(text: Path, settings: dict[str, Any], keep: Path | None, dynamic: bool) -> dict[str, Any]:
    """Train and measure once."""
    with tempfile.TemporaryDirectory() as folder:
        return measure_run(text, settings, run_folder(text, settings, keep or Path(folder)), dynamic)


def run_folder(text: Path, settings: dict[str, Any], folder: Path) -> Path:
    """A place that belongs to these settings alone."""
    digest = hashlib.sha256(key(settings).encode()).hexdigest()[:8]
    return folder / f"{text.stem}-{duration(settings['seconds'])}-seed{settings['seed']}-{digest}"


def measure_run(text: Path, settings: dict[str, Any], run: Path, dynamic: bool) -> dict[str, Any]:
    trained = train(
        text,
        run,
        split=settings["split"],
        time=f"{settings['seconds']}s",
        seed=settings["seed"],
        **settings["options"],
    )
    model = charlm.load(run)
    corpus = open_corpus(run / "corpus")
    part = "test" if corpus.sizes["test"].ids else "valid"
    ids = corpus.ids(part)
    held_out = [ids.read(0, len(ids))]
    exact = model.evaluate_ids(held_out)
    figures = {
        "steps": trained.step,
        "best_step": model.checkpoint.step,
        "train_seconds": trained.seconds,
        "ended": trained.reason,
        "parameters": model.config.parameter_count(),
        "part": part,
        "characters": exact.characters,
        "predictions": exact.predictions,
        "exact": exact.nats_per_char,
        "standard_error": exact.standard_error,
        "bits": exact.bits_per_char,
        **{f"crops_{window}": model.evaluate_ids(held_out, window).nats_per_char for window in WINDOWS},
    }
    if dynamic:
        adapted = model.evaluate_dynamically(held_out)
        figures |= {"dynamic": adapted.nats_per_char, "dynamic_standard_error": adapted.standard_error}
    return {"figures": figures, "recipe": recipe_of(run)}


def table(entries: Sequence[Entry]) -> list[Row]:
    """A row for each group of seeds."""
    return [_row(shared, entries) for shared, entries in grouped(entries, "seed")]


def _row(shared: dict[str, Any], entries: Sequence[Entry]) -> Row:
    figures = [entry["figures"] for entry in entries]

    def column(name: str) -> list[float]:
        return [values[name] for values in figures if values.get(name) is not None]

    errors = column("standard_error")
    return {
        "text": entries[0]["text"],
        "split": shared["split"],
        "time": duration(shared["seconds"]),
        "options": in_words(shared["options"]),
        "engine": shared["engine"],
        "seeds": len(entries),
        "steps": round(mean(column("steps"))),
        "exact": over_seeds(column("exact")),
        "standard_error": f"{mean(errors):.4f}" if errors else "-",
        "bits": f"{mean(column('exact')) / math.log(2):.4f}",
        **{f"crops_{window}": over_seeds(column(f"crops_{window}")) for window in WINDOWS},
        "dynamic": over_seeds(column("dynamic")),
    }


if __name__ == "__main__":
    main()
