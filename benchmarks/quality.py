"""How good a model is after a training of a given duration: exact pass and nanoGPT's crops on the held-out part.

    python benchmarks/quality.py tinyshakespeare.txt --times 2m 10m 60m --seeds 1 2 3
    python benchmarks/quality.py tinyshakespeare.txt --times 2m 10m 60m --split 80/10/10
    python benchmarks/quality.py tinyshakespeare.txt --times 10m --set size=large dropout_output=0.5
    python benchmarks/quality.py --table

Trains with charlm's defaults, then evaluates the best checkpoint: one exact pass with carried state, and means over
windows of 256 and of 64 characters, each from the initial state. With --split A/B/0 the held-out text is also the
validation text, which chooses the learning rate and the best step, as is usual in the field. With three parts the test
part influences nothing. --dynamic adds an exact pass of dynamic evaluation, in which the model continues to learn from
the text that it has read.

Each finished training is a line in results/quality.jsonl (see results.py) and is not repeated. With --keep FOLDER the
runs are kept there. An interrupted run can then be resumed, and --dynamic needs no new training.

    exact, standard_error   nats per character of the exact pass: the mean over the seeds (minimum-maximum); the error
                            estimates how far the loss on another text of the same kind could differ
    bits                    the same mean in bits per character
    crops, dynamic          nats per character
    steps                   the mean over the seeds
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
    engine_name,
    format_duration,
    format_options,
    grouped,
    key,
    mean_and_range,
    measurement_parser,
    parse_options,
    recipe_of,
    run_measurements,
    sha256,
    train,
)

import charlm
from charlm.config import parse_duration
from charlm.corpus.prepared import open_corpus

WINDOWS = (256, 64)


def main() -> None:
    parser = measurement_parser(__doc__, "quality")
    parser.add_argument("texts", type=Path, nargs="*", metavar="TEXT", help="training text")
    parser.add_argument("--times", nargs="+", default=["5m"], help="durations of a training (default 5m)")
    add_training_options(parser)
    parser.add_argument("--dynamic", action="store_true", help="add dynamic evaluation")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="folder for the runs (default: delete them)")
    arguments = parser.parse_args()
    run_measurements(arguments, measurements(arguments), table)


def measurements(arguments: argparse.Namespace) -> Iterator[Measurement]:
    options = parse_options(arguments.set)
    for text in arguments.texts:
        digest = sha256(text)
        for length in arguments.times:
            for seed in arguments.seeds:
                settings = {
                    "sha256": digest,
                    "split": arguments.split,
                    "seconds": parse_duration(length),
                    "seed": seed,
                    "options": options,
                    "engine": engine_name(),
                    "calibrated": True,  # earlier versions did not calibrate
                }
                yield Measurement(
                    text,
                    settings,
                    lambda text=text, settings=settings: measure(text, settings, arguments.keep, arguments.dynamic),
                    lambda entry: not arguments.dynamic or "dynamic" in entry["figures"],
                )


def measure(text: Path, settings: dict[str, Any], keep: Path | None, dynamic: bool) -> dict[str, Any]:
    """Train once and evaluate."""
    with tempfile.TemporaryDirectory() as folder:
        return measure_run(text, settings, run_folder(text, settings, keep or Path(folder)), dynamic)


def run_folder(text: Path, settings: dict[str, Any], folder: Path) -> Path:
    """A folder whose name is unique to the settings."""
    digest = hashlib.sha256(key(settings).encode()).hexdigest()[:8]
    return folder / f"{text.stem}-{format_duration(settings['seconds'])}-seed{settings['seed']}-{digest}"


def measure_run(text: Path, settings: dict[str, Any], run: Path, dynamic: bool) -> dict[str, Any]:
    """Train or resume the run in ``run``, then evaluate its best checkpoint."""
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
    return [_row(shared, group) for shared, group in grouped(entries, "seed")]


def _row(shared: dict[str, Any], entries: Sequence[Entry]) -> Row:
    figures = [entry["figures"] for entry in entries]

    def column(name: str) -> list[float]:
        return [values[name] for values in figures if values.get(name) is not None]

    errors = column("standard_error")
    return {
        "text": entries[0]["text"],
        "split": shared["split"],
        "time": format_duration(shared["seconds"]),
        "options": format_options(shared["options"]),
        "engine": shared["engine"],
        "calibrated": "yes" if shared.get("calibrated") else "no",
        "seeds": len(entries),
        "steps": round(mean(column("steps"))),
        "exact": mean_and_range(column("exact")),
        "standard_error": f"{mean(errors):.4f}" if errors else "-",
        "bits": f"{mean(column('exact')) / math.log(2):.4f}",
        **{f"crops_{window}": mean_and_range(column(f"crops_{window}")) for window in WINDOWS},
        "dynamic": mean_and_range(column("dynamic")),
    }


if __name__ == "__main__":
    main()
