"""Preparing a corpus and training on it in constant memory: the same peak for a text a hundred times as large.

    python benchmarks/corpus_memory.py [--sizes 10 1000] [--steps 2000] [--json]

Makes a text of each size in megabytes and trains the smallest model on it, in a fresh process for each size. The texts
lie in the system's temporary folder (TMPDIR), which needs room for three times the largest; all is removed afterwards.

    prepare_seconds    until the first step is done: reading the text three times, writing ids, one step
    prepare_mb_per_s   size of the text by that
    imported_mb        resident before: Python, torch and the rest
    prepared_mb        most resident memory until the first step is done
    peak_mb            most resident memory of all
    growth             peak_mb of the largest text, less that of the smallest; it should be below 50
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from common import MB, make_parser, peak_memory_mb, report, run_alone

ALPHABETS = ("etaoinshrdlucmfwypvbgkjqxz", "aeiouäöüßéèñç", "абвгдежзийклмнопрстуфхцчшщыэюя", "日月山水人心天風花雪")
EMOJI = "😀🌍🎵"


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 1000], help="megabytes (default 10 1000)")
    parser.add_argument("--steps", type=int, default=2000, help="training steps (default 2000)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--text", type=Path, help=argparse.SUPPRESS)  # the one text that a fresh process is started for
    arguments = parser.parse_args()
    if arguments.text is not None:
        print(json.dumps(measure(arguments.text, arguments.steps, arguments.threads)))
        return
    rows = [{"size_mb": size, **_fresh_process(arguments, size)} for size in sorted(arguments.sizes)]
    report(arguments, rows, growth=rows[-1]["peak_mb"] - rows[0]["peak_mb"])


def _fresh_process(arguments: argparse.Namespace, size: int) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        write_text(text, size * MB)
        return run_alone(__file__, "--text", text, "--steps", arguments.steps, "--threads", arguments.threads)


def write_text(path: Path, size: int, seed: int = 1) -> None:
    """At least ``size`` bytes of UTF-8: paragraphs in several alphabets, drawn from a few hundred, block by block."""
    chance = random.Random(seed)
    words = ["".join(chance.choices(letters, k=chance.randint(1, 9))) for letters in ALPHABETS for _ in range(500)]
    # Most text is in the first alphabet, as in a real corpus; the others are foreign words in it.
    weights = [20] * 500 + [1] * (len(words) - 500)
    paragraphs = [
        f"{' '.join(chance.choices(words, weights, k=chance.randint(20, 200)))} {chance.choice(EMOJI)}\n".encode()
        for _ in range(300)
    ]
    with open(path, "wb") as file:
        written = 0
        while written < size:
            block = b"".join(chance.choices(paragraphs, k=1000))
            written += file.write(block)


def measure(text: Path, steps: int, threads: int) -> dict[str, float]:
    """Prepare ``text`` and train on it, in a process of its own."""
    import charlm

    train = charlm.train  # the name loads torch, which is not to be counted
    imported = peak_memory_mb()
    first_event: list[tuple[float, float]] = []

    def note(event: object) -> None:
        if not first_event:
            first_event.append((time.perf_counter(), peak_memory_mb()))

    began = time.perf_counter()
    train(
        text,
        out=text.parent / "run",
        on_event=note,
        steps=steps,
        threads=threads,
        size="tiny",
        device="cpu",
        precision="fp32",
        batch=8,
        bptt=32,
        eval_every=10**6,
    )
    prepared_at, prepared = first_event[0]
    return {
        "prepare_seconds": prepared_at - began,
        "prepare_mb_per_s": text.stat().st_size / MB / (prepared_at - began),
        "imported_mb": imported,
        "prepared_mb": prepared,
        "peak_mb": peak_memory_mb(),
    }


if __name__ == "__main__":
    main()
