"""Whether the native engine learns the same as torch: training losses for each seed.

    python benchmarks/loss_curves.py TEXT [--steps 1000] [--seeds 3] [--json]

Trains charlm on TEXT (1 x 256, 32 streams, chunks of 64, constant learning rate, default dropouts, no time limit) with
seeds 1, 2, ... in three ways: the native engine in bf16 and in fp32, and torch in fp32 (CHARLM_ENGINE=torch). With the
same seed all three start with the same weights and use the same chunks and dropout masks. They differ only by rounding
errors, which grow during training. The differences between seeds are random.

    steps           a window of 100 steps whose training losses are averaged; the last row is the validation loss
    (three names)   nats per character, the mean over the seeds
    between         the largest difference between two of the three with the same seed
    over_seeds      the largest loss of torch fp32 over the seeds - the smallest: the random variation
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from common import charlm_engine, make_parser, report, take_turns

import charlm
from charlm.training.events import Evaluated, Event, Stepped

WINDOW = 100
Curve = dict[str, float]
CONTENDERS = {"native_bf16": ("native", "bf16"), "native_fp32": ("native", "fp32"), "torch_fp32": ("torch", "fp32")}
SETTINGS: dict[str, Any] = {"layers": 1, "hidden": 256, "batch": 32, "bptt": 64, "schedule": "constant"}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("text", type=Path, help="training text")
    parser.add_argument("--steps", type=int, default=1000, help="steps of each training (default 1000)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default 3)")
    parser.add_argument("--threads", type=int, help="threads (default: chosen by torch)")
    arguments = parser.parse_args()
    results = [
        take_turns({name: _training(arguments, name, seed) for name in CONTENDERS}, 1)
        for seed in range(1, arguments.seeds + 1)
    ]
    curves = [{name: curve for name, (curve,) in result.items()} for result in results]
    report(arguments, [{"steps": window, **compare(curves, window)} for window in curves[0]["torch_fp32"]])


def _training(arguments: argparse.Namespace, name: str, seed: int) -> Callable[[], Curve]:
    return lambda: train(arguments, *CONTENDERS[name], seed)


def train(arguments: argparse.Namespace, engine: str, precision: str, seed: int) -> Curve:
    """Train once. Returns the mean training loss by window, and at "validation" the loss after the last step."""
    losses: list[float] = []
    validation = []

    def on_event(event: Event) -> None:
        if isinstance(event, Stepped):
            losses.append(event.nats_per_char)
        elif isinstance(event, Evaluated):
            validation.append(event.valid_nats_per_char)

    options = {**SETTINGS, "steps": arguments.steps, "eval_every": arguments.steps, "threads": arguments.threads}
    with tempfile.TemporaryDirectory() as folder, charlm_engine(engine):
        charlm.train(
            arguments.text,
            out=Path(folder) / "run",
            device="cpu",
            precision=precision,
            on_event=on_event,
            seed=seed,
            **options,
        )
    windows = {
        f"{start + 1}-{min(start + WINDOW, len(losses))}": mean(losses[start : start + WINDOW])
        for start in range(0, len(losses), WINDOW)
    }
    return {**windows, "validation": validation[-1]}


def compare(curves: Sequence[Mapping[str, Curve]], window: str) -> dict[str, float]:
    """One row: the means over the seeds, and the differences between contenders and between seeds."""
    losses = [{name: curve[window] for name, curve in by_name.items()} for by_name in curves]
    reference = [by_name["torch_fp32"] for by_name in losses]
    return {
        **{name: mean(by_name[name] for by_name in losses) for name in CONTENDERS},
        "between": max(max(by_name.values()) - min(by_name.values()) for by_name in losses),
        "over_seeds": max(reference) - min(reference),
    }


if __name__ == "__main__":
    main()
