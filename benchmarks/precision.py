"""What the fast precisions cost: the loss of the native engine in fp32, bf16 and int8, beside torch's.

    python benchmarks/precision.py CHECKPOINT TEXT [--characters 100000] [--json]

All read the same last --characters of TEXT (UTF-8), which the training should not have seen, in one exact pass that
carries the state from the first to the last. torch in fp32 (what charlm computes with where CHARLM_ENGINE is torch)
is the oracle for the native engine's fp32.

    nats_per_char       the loss
    over_fp32           how much it is above that of the native engine in fp32
    standard_error      of that difference, which is paired character by character; from the means of blocks of 100
                        characters, because neighbours are not independent
    largest             the largest difference at a single character, either way
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from common import charlm_engine, make_parser, report
from numpy.typing import NDArray

import charlm
from charlm.system.devices import keep_freed_memory

BLOCK = 100
BASE = "native fp32"
CONTENDERS = {
    BASE: ("native", "fp32"),
    "native bf16": ("native", "bf16"),
    "native int8": ("native", "int8"),
    "torch fp32": ("torch", "fp32"),
}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("checkpoint", type=Path, help="a run or one of its steps")
    parser.add_argument("text", type=Path, help="a text whose end was held out")
    parser.add_argument("--characters", type=int, default=100_000, help="how many of its last (default 100000)")
    parser.add_argument("--threads", type=int, help="threads (default: all cores)")
    arguments = parser.parse_args()
    keep_freed_memory()
    text = arguments.text.read_text(encoding="utf-8")[-arguments.characters :]
    losses, engines = {}, {}
    for name, (engine, precision) in CONTENDERS.items():
        with charlm_engine(engine):
            model = charlm.load(arguments.checkpoint, device="cpu", precision=precision, threads=arguments.threads)
            losses[name] = -model.score(text)
            engines[name] = model.engine.name
    rows = []
    for name, nats in losses.items():
        difference = nats - losses[BASE]
        rows.append(
            {
                "contender": name,
                "engine": engines[name],
                "nats_per_char": float(nats.mean()),
                "over_fp32": float(difference.mean()),
                "standard_error": standard_error(difference),
                "largest": float(np.abs(difference).max()),
            }
        )
    report(arguments, rows, characters_read=len(losses[BASE]))


def standard_error(values: NDArray[np.float64]) -> float | None:
    """Of their mean; None where they are too few to tell."""
    blocks = values[: len(values) // BLOCK * BLOCK].reshape(-1, BLOCK).mean(axis=1)
    return float(blocks.std(ddof=1) / math.sqrt(len(blocks))) if len(blocks) > 1 else None


if __name__ == "__main__":
    main()
