"""charlm compared with the trainer of the PyTorch tutorials, in the same time on the same machine.

    python benchmarks/peers.py tinyshakespeare.txt --time 5m --seeds 1 2 3
    python benchmarks/peers.py tinyshakespeare.txt --time 90s --peer-hidden 200
    python benchmarks/peers.py --table

The other trainer follows what the tutorials on language models have in common: nn.Embedding, nn.LSTM with two layers, a
decoder tied to the embedding, weights initialized from uniform(-0.1, 0.1), dropout 0.2, 20 streams in chunks of 35,
carried state, gradients clipped at 0.25, and SGD with learning rate 20, divided by 4 after each epoch that did not
lower the validation loss. It keeps the best epoch and uses float32. The same with Adam is measured at each of
--adam-rates; the table shows the best of them. All train on the same ids with the same number of threads and the same
allocator. charlm has its defaults.

They train in turns of a few seconds in one process, so that other work on the machine affects all equally. Each has a
clock that is paused while others train. The time includes its own validation and, for charlm, its samples and saves.
Each finished round is a line in results/peers.jsonl (see results.py); an interrupted round leaves none. A round takes
--time once for charlm, once for SGD, and once for each learning rate of Adam.

    charlm, sgd, adam   nats per character of the exact pass over the held-out part after --time, by the same code
    reaches_sgd, reaches_adam, reaches_nanogpt
                        training seconds after which charlm reaches the same loss. For this charlm is evaluated during
                        the training while its clock is paused, first each second, later each 5% of its time: on the
                        held-out part in parallel streams (nearly the exact pass), and in crops of 64. nanoGPT's CPU
                        preset reached 1.886 nats in crops of 64 after 91 seconds (tinyshakespeare, 90/10/0, two cores
                        with AVX-512). charlm's learning rate falls in the last half of --time, so with a shorter --time
                        it reaches the loss earlier.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, Protocol

import torch
from plain_trainer import LAYERS, SGD_LR, WINDOW, Clock, Peer, held_out_ids
from results import (
    Entry,
    Measurement,
    Row,
    add_training_options,
    engine_name,
    format_duration,
    format_options,
    grouped,
    mean_and_range,
    measurement_parser,
    parse_options,
    recipe_for,
    recipe_of,
    run_measurements,
    sha256,
)

import charlm
from charlm.checkpoint.run_folder import RunFolder
from charlm.config import parse_duration
from charlm.corpus.preparation import prepare
from charlm.corpus.prepared import Corpus, open_corpus, parse_split
from charlm.corpus.text import open_source
from charlm.engine import create_engine
from charlm.evaluation.measure import evaluate, evaluate_streams
from charlm.training.events import Event, Finished, Stepped
from charlm.training.options import TrainingOptions
from charlm.training.trainer import Trainer

TURN_SECONDS = 5.0
NANOGPT_CROPS = 1.886
NANOGPT_TEXT = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
FIRST_EVALUATION, EVALUATION_GROWTH = 1.0, 1.05


class Contender(Protocol):
    """A trainer that trains in turns."""

    clock: Clock

    def train_until(self, until: float) -> None:
        """Train until ``clock`` has ``until`` seconds."""
        ...

    def finish(self) -> dict[str, Any]:
        """End the training. Returns the losses of the best weights on the held-out part."""
        ...


# ------------------------------------------------------------------------------------------------ charlm


class PausableTrainer(Trainer):
    """A ``Trainer`` that takes its time from a clock, which is paused while others train."""

    clock: Clock

    @property
    def seconds(self) -> float:
        return self.clock.seconds


class Charlm:
    """A training of charlm with evaluations in between."""

    def __init__(self, run: Path, corpus: Corpus, settings: dict[str, Any], rounds: int) -> None:
        request = TrainingOptions(
            time=f"{settings['seconds']}s",
            seed=settings["seed"],
            save_every=f"{60 * rounds}s",  # saves use real time, which is not paused
            **settings["options"],
        )
        recipe = recipe_for(request, corpus, torch.device("cpu"))
        self.run, self.corpus, self.clock = run, corpus, Clock()
        self.trainer = PausableTrainer(run, corpus, recipe.model, recipe.training)
        self.trainer.clock = self.clock
        self.events = self.trainer.events()
        self.held_out = held_out_ids(corpus)
        self.next_evaluation = FIRST_EVALUATION
        self.curve: list[tuple[float, float, float]] = []
        """Seconds, loss in parallel streams, loss in crops of 64."""
        self.finished: Finished | None = None

    def train_until(self, until: float) -> None:
        while self.finished is None and self.clock.seconds < until:
            self.handle(self.advance())

    def advance(self) -> Event:
        with self.clock:
            return next(self.events)

    def handle(self, event: Event) -> None:
        if isinstance(event, Finished):
            self.finished = event
            self.add_to_curve()
        elif isinstance(event, Stepped) and self.clock.seconds >= self.next_evaluation:
            self.next_evaluation = max(self.clock.seconds + FIRST_EVALUATION, self.clock.seconds * EVALUATION_GROWTH)
            self.add_to_curve()

    def add_to_curve(self) -> None:
        """Evaluate the weights that a save would write now."""
        tokenizer = self.corpus.tokenizer
        with self.trainer.state.average.applied():
            weights = self.trainer.model.weights()
        engine = create_engine(self.trainer.model.config, weights, "cpu", "fp32", torch.get_num_threads())
        streams = evaluate_streams(engine, tokenizer, self.held_out).nats_per_char
        crops = evaluate(engine, tokenizer, [self.held_out], WINDOW).nats_per_char
        self.curve.append((round(self.clock.seconds, 2), round(streams, 5), round(crops, 5)))

    def finish(self) -> dict[str, Any]:
        while self.finished is None:
            self.handle(self.advance())
        model = charlm.load(self.run)
        return {
            "exact": model.evaluate_ids([self.held_out]).nats_per_char,
            "crops_64": model.evaluate_ids([self.held_out], WINDOW).nats_per_char,
            "steps": self.finished.step,
            "best_step": self.finished.best_step,
            "seconds": self.clock.seconds,
            "ended": self.finished.reason,
            "parameters": model.config.parameter_count(),
            "curve": self.curve,
        }


# ------------------------------------------------------------------------------------------------ a round


def main() -> None:
    parser = measurement_parser(__doc__, "peers")
    parser.add_argument("texts", type=Path, nargs="*", metavar="TEXT", help="training text")
    parser.add_argument("--time", default="5m", help="duration of each training (default 5m)")
    parser.add_argument(
        "--peer-hidden", type=int, default=512, help="width of the other trainer (default 512; in the tutorials 200)"
    )
    parser.add_argument(
        "--adam-rates",
        type=float,
        nargs="+",
        default=[1e-3, 2e-3, 5e-3],
        help="of Adam (default 0.001 0.002 0.005)",
    )
    add_training_options(parser)
    arguments = parser.parse_args()
    run_measurements(arguments, measurements(arguments), table)


def measurements(arguments: argparse.Namespace) -> Iterator[Measurement]:
    options = parse_options(arguments.set)
    for text in arguments.texts:
        for seed in arguments.seeds:
            settings = {
                "sha256": sha256(text),
                "split": arguments.split,
                "seconds": parse_duration(arguments.time),
                "seed": seed,
                "options": options,
                "engine": engine_name(),
                "peer_hidden": arguments.peer_hidden,
                "adam_rates": arguments.adam_rates,
            }
            yield Measurement(text, settings, partial(measure, text, settings))


def measure(text: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """One round: train and evaluate all."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        prepare(run / "corpus", open_source([str(text)]), split=parse_split(settings["split"]))
        corpus = open_corpus(run / "corpus")
        if not corpus.sizes["valid"].ids:
            raise SystemExit("--split needs a validation part, such as 90/10/0")
        rates, seed, hidden = settings["adam_rates"], settings["seed"], settings["peer_hidden"]
        with RunFolder(run).lock():
            contenders: dict[str, Contender] = {
                "charlm": Charlm(run, corpus, settings, rounds=2 + len(rates)),
                "sgd": Peer(corpus, hidden, "sgd", SGD_LR, seed),
            }
            for rate in rates:
                contenders[f"adam {rate:g}"] = Peer(corpus, hidden, "adam", rate, seed)
            train_in_turns(contenders, settings["seconds"])
            figures: dict[str, Any] = {name: contender.finish() for name, contender in contenders.items()}
        return {"figures": figures, "recipe": recipe_of(run)}


def train_in_turns(contenders: dict[str, Contender], seconds: float) -> None:
    """Train all for ``seconds`` in turns, in reverse order in every other round."""
    turns = math.ceil(seconds / min(TURN_SECONDS, seconds / 4))
    for number in range(1, turns + 1):
        until = seconds * number / turns
        print(f"\r{until:.0f} of {seconds:.0f} s each", end="", file=sys.stderr, flush=True)
        for name in list(contenders) if number % 2 else list(reversed(contenders)):
            contenders[name].train_until(until)
    print(file=sys.stderr)


# ------------------------------------------------------------------------------------------------ the table


def table(entries: Sequence[Entry]) -> list[Row]:
    """A row for each group of seeds."""
    return [_row(shared, group) for shared, group in grouped(entries, "seed")]


def _row(shared: dict[str, Any], entries: Sequence[Entry]) -> Row:
    figures = [entry["figures"] for entry in entries]
    adam = [min((name for name in values if name.startswith("adam")), key=_loss_in(values)) for values in figures]
    losses = {
        "sgd": [values["sgd"]["exact"] for values in figures],
        "adam": [values[name]["exact"] for values, name in zip(figures, adam, strict=True)],
    }
    reached = {name: [_reached(v, loss, 1) for v, loss in zip(figures, losses[name], strict=True)] for name in losses}
    nanogpt = shared["sha256"] == NANOGPT_TEXT and shared["split"] == "90/10/0"
    return {
        "text": entries[0]["text"],
        "split": shared["split"],
        "time": format_duration(shared["seconds"]),
        "options": format_options(shared["options"]),
        "engine": shared["engine"],
        "peer": f"{LAYERS} x {shared['peer_hidden']}",
        "seeds": len(entries),
        "charlm": mean_and_range([values["charlm"]["exact"] for values in figures]),
        "sgd": mean_and_range(losses["sgd"]),
        "adam": mean_and_range(losses["adam"]),
        "best rates": " ".join(sorted({name.split()[1] for name in adam})),
        "steps": "/".join(
            f"{mean(steps):.0f}"
            for steps in (
                [values["charlm"]["steps"] for values in figures],
                [values["sgd"]["steps"] for values in figures],
                [values[name]["steps"] for values, name in zip(figures, adam, strict=True)],
            )
        ),
        "charlm_crops_64": mean_and_range([values["charlm"]["crops_64"] for values in figures]),
        "reaches_sgd": _seconds(reached["sgd"]),
        "reaches_adam": _seconds(reached["adam"]),
        "reaches_nanogpt": _seconds([_reached(v, NANOGPT_CROPS, 2) for v in figures]) if nanogpt else "-",
    }


def _loss_in(values: dict[str, Any]) -> Any:
    return lambda name: values[name]["exact"]


def _reached(figures: dict[str, Any], loss: float, column: int) -> float | None:
    """The first time in charlm's curve, in seconds, at which ``column`` is at most ``loss``. None if there is none."""
    return next((point[0] for point in figures["charlm"]["curve"] if point[column] <= loss), None)


def _seconds(values: Sequence[float | None]) -> str:
    reached = [value for value in values if value is not None]
    return mean_and_range(reached, 1) if len(reached) == len(values) else f"{len(reached)} of {len(values)}"


if __name__ == "__main__":
    main()
