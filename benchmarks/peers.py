"""charlm beside the trainer that the tutorials of PyTorch teach, each with the same time on the same machine.

    python benchmarks/peers.py tinyshakespeare.txt --time 5m --seeds 1 2 3
    python benchmarks/peers.py tinyshakespeare.txt --time 90s --peer-hidden 200
    python benchmarks/peers.py --table

The peer, written afresh after what the tutorials on language models have in common: nn.Embedding, nn.LSTM of two layers
and a decoder tied to the embedding, first weights uniform(-0.1, 0.1), dropout 0.2, 20 streams in chunks of 35, the
state carried, gradients clipped at 0.25, SGD at rate 20, which is divided by 4 whenever an epoch has not lowered the
validation loss; the best epoch is kept; all in float32. Then the same with Adam, at each of --adam-rates; the table has
the best of them. All learn the same ids with the same threads and the same allocator. charlm has its defaults.

They train in turns of a few seconds in one process, so that what else the machine does hits all alike. Each has a clock
of its own that stands still while others train; its own validation and, for charlm, its samples and saves are within
its time. A finished round of all is a line in results/peers.jsonl (see results.py); one that is stopped leaves none. A
round takes --time once for charlm, once for SGD, and once for each rate of Adam.

    charlm, sgd, adam   nats per character of the exact pass over the held-out part, by the same code, after --time
    reaches_sgd, reaches_adam, reaches_nanogpt
                        seconds of its own time after which charlm is as good. On the way, at first every second, later
                        every twentieth of its time, it is measured outside its clock: the held-out part in parallel
                        streams (nearly the exact pass), and in crops of 64, beside the 1.886 nats in crops of 64 that
                        nanoGPT's CPU preset was recorded with after 91 seconds (tinyshakespeare, 90/10/0, two such
                        cores). charlm's rate falls in the last half of --time, so a shorter --time reaches it earlier.
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
from plain_trainer import LAYERS, SGD_RATE, WINDOW, Clock, Peer, held_out_ids
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
    over_seeds,
    parse_wishes,
    recipe_for,
    recipe_of,
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

TURN = 5.0
"""Seconds."""
NANOGPT_CROPS = 1.886
NANOGPT_TEXT = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
FIRST_WATCH, WATCH_GROWTH = 1.0, 1.05


class Contender(Protocol):
    """Something that trains in turns."""

    clock: Clock

    def turn(self, until: float) -> None:
        """Train until its clock shows ``until``."""
        ...

    def finish(self) -> dict[str, Any]:
        """End the training; the figures of its best weights on the held-out part."""
        ...


# ------------------------------------------------------------------------------------------------ charlm


class TimedTrainer(Trainer):
    """A ``Trainer`` whose time is that of a clock, so that it stands still while others train."""

    clock: Clock

    @property
    def seconds(self) -> float:
        return self.clock.seconds


class Charlm:
    """charlm's own training, measured on its way."""

    def __init__(self, run: Path, corpus: Corpus, settings: dict[str, Any], rounds: int) -> None:
        request = TrainingOptions(
            time=f"{settings['seconds']}s",
            seed=settings["seed"],
            save_every=f"{60 * rounds}s",  # that clock does not stand still
            **settings["options"],
        )
        recipe = recipe_for(request, corpus, torch.device("cpu"))
        self.run, self.corpus, self.clock = run, corpus, Clock()
        self.trainer = TimedTrainer(run, corpus, recipe.model, recipe.training)
        self.trainer.clock = self.clock
        self.events = self.trainer.events()
        self.held_out = held_out_ids(corpus)
        self.next_watch = FIRST_WATCH
        self.curve: list[tuple[float, float, float]] = []
        """Seconds, loss in streams, loss in crops of 64."""
        self.finished: Finished | None = None

    def turn(self, until: float) -> None:
        while self.finished is None and self.clock.seconds < until:
            self.note(self.advance())

    def advance(self) -> Event:
        with self.clock:
            return next(self.events)

    def note(self, event: Event) -> None:
        if isinstance(event, Finished):
            self.finished = event
            self.watch()
        elif isinstance(event, Stepped) and self.clock.seconds >= self.next_watch:
            self.next_watch = max(self.clock.seconds + FIRST_WATCH, self.clock.seconds * WATCH_GROWTH)
            self.watch()

    def watch(self) -> None:
        """Measure the weights that would be saved now."""
        tokenizer = self.corpus.tokenizer
        with self.trainer.state.average.applied():
            weights = self.trainer.model.weights()
        engine = create_engine(self.trainer.model.config, weights, "cpu", "fp32", torch.get_num_threads())
        streams = evaluate_streams(engine, tokenizer, self.held_out).nats_per_char
        crops = evaluate(engine, tokenizer, [self.held_out], WINDOW).nats_per_char
        self.curve.append((round(self.clock.seconds, 2), round(streams, 5), round(crops, 5)))

    def finish(self) -> dict[str, Any]:
        while self.finished is None:
            self.note(self.advance())
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
    parser = campaign_parser(__doc__, "peers")
    parser.add_argument("texts", type=Path, nargs="*", metavar="TEXT", help="a text to learn")
    parser.add_argument("--time", default="5m", help="what each has (default 5m)")
    parser.add_argument(
        "--peer-hidden", type=int, default=512, help="width of the peer (default 512; the tutorials': 200)"
    )
    parser.add_argument(
        "--adam-rates", type=float, nargs="+", default=[1e-3, 2e-3, 5e-3], help="default 0.001 0.002 0.005"
    )
    add_training_options(parser)
    arguments = parser.parse_args()
    carry_out(arguments, measurements(arguments), table)


def measurements(arguments: argparse.Namespace) -> Iterator[Measurement]:
    wishes = parse_wishes(arguments.set)
    for text in arguments.texts:
        for seed in arguments.seeds:
            settings = {
                "sha256": sha256(text),
                "split": arguments.split,
                "seconds": parse_duration(arguments.time),
                "seed": seed,
                "options": wishes,
                "engine": engine(),
                "peer_hidden": arguments.peer_hidden,
                "adam_rates": arguments.adam_rates,
            }
            yield Measurement(text, settings, partial(measure, text, settings))


def measure(text: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """One round of all."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        prepare(run / "corpus", open_source([str(text)]), split=parse_split(settings["split"]))
        corpus = open_corpus(run / "corpus")
        if not corpus.sizes["valid"].ids:
            raise SystemExit("--split needs a part to steer by")
        rates, seed, hidden = settings["adam_rates"], settings["seed"], settings["peer_hidden"]
        with RunFolder(run).lock():
            ours = Charlm(run, corpus, settings, rounds=2 + len(rates))
            contenders: dict[str, Contender] = {"charlm": ours, "sgd": Peer(corpus, hidden, "sgd", SGD_RATE, seed)}
            for rate in rates:
                contenders[f"adam {rate:g}"] = Peer(corpus, hidden, "adam", rate, seed)
            give_turns(contenders, settings["seconds"])
            figures: dict[str, Any] = {name: contender.finish() for name, contender in contenders.items()}
        return {"figures": figures, "recipe": recipe_of(run)}


def give_turns(contenders: dict[str, Contender], seconds: float) -> None:
    """Let all train for so long, in turns, every other round in reverse order."""
    turns = math.ceil(seconds / min(TURN, seconds / 4))
    for number in range(1, turns + 1):
        until = seconds * number / turns
        print(f"\r{until:.0f} of {seconds:.0f} s each", end="", file=sys.stderr, flush=True)
        for name in list(contenders) if number % 2 else list(reversed(contenders)):
            contenders[name].turn(until)
    print(file=sys.stderr)


# ------------------------------------------------------------------------------------------------ the table


def table(entries: Sequence[Entry]) -> list[Row]:
    """A row for each group of seeds."""
    return [_row(shared, group) for shared, group in grouped(entries, "seed")]


def _row(shared: dict[str, Any], entries: Sequence[Entry]) -> Row:
    figures = [entry["figures"] for entry in entries]
    adam = [min((name for name in values if name.startswith("adam")), key=_loss_in(values)) for values in figures]
    theirs = {
        "sgd": [values["sgd"]["exact"] for values in figures],
        "adam": [values[name]["exact"] for values, name in zip(figures, adam, strict=True)],
    }
    reached = {name: [_reached(v, loss, 1) for v, loss in zip(figures, theirs[name], strict=True)] for name in theirs}
    nanogpt = shared["sha256"] == NANOGPT_TEXT and shared["split"] == "90/10/0"
    return {
        "text": entries[0]["text"],
        "split": shared["split"],
        "time": duration(shared["seconds"]),
        "options": in_words(shared["options"]),
        "engine": shared["engine"],
        "peer": f"{LAYERS} x {shared['peer_hidden']}",
        "seeds": len(entries),
        "charlm": over_seeds([values["charlm"]["exact"] for values in figures]),
        "sgd": over_seeds(theirs["sgd"]),
        "adam": over_seeds(theirs["adam"]),
        "best rates": " ".join(sorted({name.split()[1] for name in adam})),
        "steps": "/".join(
            f"{mean(steps):.0f}"
            for steps in (
                [values["charlm"]["steps"] for values in figures],
                [values["sgd"]["steps"] for values in figures],
                [values[name]["steps"] for values, name in zip(figures, adam, strict=True)],
            )
        ),
        "charlm_crops_64": over_seeds([values["charlm"]["crops_64"] for values in figures]),
        "reaches_sgd": _seconds(reached["sgd"]),
        "reaches_adam": _seconds(reached["adam"]),
        "reaches_nanogpt": _seconds([_reached(v, NANOGPT_CROPS, 2) for v in figures]) if nanogpt else "-",
    }


def _loss_in(values: dict[str, Any]) -> Any:
    return lambda name: values[name]["exact"]


def _reached(figures: dict[str, Any], loss: float, column: int) -> float | None:
    """The first seconds in charlm's curve at which its ``column`` is at most ``loss``."""
    return next((point[0] for point in figures["charlm"]["curve"] if point[column] <= loss), None)


def _seconds(values: Sequence[float | None]) -> str:
    there = [value for value in values if value is not None]
    return over_seeds(there, 1) if len(there) == len(values) else f"{len(there)} of {len(values)} do"


if __name__ == "__main__":
    main()
