"""Whether the native engine learns what torch learns: training losses side by side, seed by seed.

    python benchmarks/loss_curves.py TEXT [--steps 1000] [--seeds 3] [--json]

Trains charlm on TEXT (1 x 256, 32 streams, chunks of 64, a constant rate, dropouts as ``charlm train`` chooses them, no
limit of time) with seeds 1, 2, ... in each of three ways: the native engine in bf16 and in fp32, and torch in fp32
(CHARLM_ENGINE=torch). At one seed all three begin with the same weights and see the same chunks and dropout masks, so
what lies between them is rounding, which a training makes larger and larger; what lies between the seeds is chance.

    steps           a window of 100 steps whose training losses are averaged, and last the loss on the validation text
    (three names)   nats per character, the mean over the seeds
    between         the largest difference between two of the three at the same seed
    over_seeds      the largest loss of torch fp32 among the seeds, less the smallest: what chance alone does
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
    parser.add_argument("text", type=Path, help="a text to learn")
    parser.add_argument("--steps", type=int, default=1000, help="steps of every training (default 1000)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings in each way (default 3)")
    parser.add_argument("--threads", type=int, help="threads (default: torch's own choice)")
    arguments = parser.parse_args()
    curves = [
        take_turns({name: _training(arguments, name, seed) for name in CONTENDERS}, 1)
        for seed in range(1, arguments.seeds + 1)
    ]
    of_seeds = [{name: curve for name, (curve,) in of_seed.items()} for of_seed in curves]
    report(arguments, [{"steps": window, **compare(of_seeds, window)} for window in of_seeds[0]["torch_fp32"]])


def _training(arguments: argparse.Namespace, name: str, seed: int) -> Callable[[], Curve]:
    return lambda: train(arguments, *CONTENDERS[name], seed)


def train(arguments: argparse.Namespace, engine: str, precision: str, seed: int) -> Curve:
    """Name of a window -> mean loss of one training in it; "validation" -> the loss after the last step."""
    losses: list[float] = []
    validation = []

    def listen(event: Event) -> None:
        if isinstance(event, Stepped):
            losses.append(event.nats_per_char)
        elif isinstance(event, Evaluated):
            validation.append(event.valid_nats_per_char)

    wishes = {**SETTINGS, "steps": arguments.steps, "eval_every": arguments.steps, "threads": arguments.threads}
    with tempfile.TemporaryDirectory() as folder, charlm_engine(engine):
        charlm.train(
            arguments.text,
            out=Path(folder) / "run",
            device="cpu",
            precision=precision,
            on_event=listen,
            seed=seed,
            **wishes,
        )
    windows = {
        f"{start + 1}-{min(start + WINDOW, len(losses))}": mean(losses[start : start + WINDOW])
        for start in range(0, len(losses), WINDOW)
    }
    return {**windows, "validation": validation[-1]}


def compare(of_seeds: Sequence[Mapping[str, Curve]], window: str) -> dict[str, float]:
    """One row: the means over the seeds, and what lies between contenders and between seeds."""
    losses = [{name: curve[window] for name, curve in curves.items()} for curves in of_seeds]
    oracle = [of_seed["torch_fp32"] for of_seed in losses]
    return {
        **{name: mean(of_seed[name] for of_seed in losses) for name in CONTENDERS},
        "between": max(max(of_seed.values()) - min(of_seed.values()) for of_seed in losses),
        "over_seeds": max(oracle) - min(oracle),
    }


if __name__ == "__main__":
    main()
