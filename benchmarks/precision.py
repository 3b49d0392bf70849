"""What low precisions cost: the loss of the native engine in fp32, bf16 and int8, compared with torch.

    python benchmarks/precision.py CHECKPOINT TEXT [--characters 100000] [--json]

All read the last --characters of TEXT (UTF-8), which should not be part of the training text, in one exact pass with
carried state. torch in fp32 (CHARLM_ENGINE=torch) is the reference for the native engine in fp32.

    nats_per_char       the loss
    over_fp32           the difference from the loss of the native engine in fp32
    standard_error      of that difference, which is paired by characters. It is computed from the means of blocks of
                        100 characters, because adjacent characters are not independent
    largest             the largest absolute difference at a single character
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
    parser.add_argument("text", type=Path, help="a text whose end is not in the training text")
    parser.add_argument("--characters", type=int, default=100_000, help="characters to read (default 100000)")
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
    """The standard error of the mean, or None for fewer than two blocks."""
    blocks = values[: len(values) // BLOCK * BLOCK].reshape(-1, BLOCK).mean(axis=1)
    return float(blocks.std(ddof=1) / math.sqrt(len(blocks))) if len(blocks) > 1 else None


if __name__ == "__main__":
    main()
