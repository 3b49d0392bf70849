"""Whether preparing a corpus and training on it need constant memory: the peak for a text 100 times as large.

    python benchmarks/corpus_memory.py [--sizes 10 1000] [--steps 2000] [--json]

Generates a text of each size in megabytes and trains the smallest model on it, in a new process for each size. The
texts are written to the system's temporary folder (TMPDIR), which needs three times the size of the largest. They are
deleted afterwards.

    prepare_seconds    time until the end of the first step: reads the text three times, writes ids, makes one step
    prepare_mb_per_s   size of the text / prepare_seconds
    imported_mb        peak resident memory after the imports
    prepared_mb        peak resident memory at the end of the first step
    peak_mb            peak resident memory at the end
    growth             peak_mb of the largest text - peak_mb of the smallest; it should be below 50
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from common import MB, make_parser, peak_memory_mb, report, run_in_new_process

ALPHABETS = ("etaoinshrdlucmfwypvbgkjqxz", "aeiouäöüßéèñç", "абвгдежзийклмнопрстуфхцчшщыэюя", "日月山水人心天風花雪")
EMOJI = "😀🌍🎵"


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 1000], help="sizes in megabytes (default 10 1000)")
    parser.add_argument("--steps", type=int, default=2000, help="training steps (default 2000)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--text", type=Path, help=argparse.SUPPRESS)  # used in the new process
    arguments = parser.parse_args()
    if arguments.text is not None:
        print(json.dumps(measure(arguments.text, arguments.steps, arguments.threads)))
        return
    rows = [{"size_mb": size, **_measure_in_new_process(arguments, size)} for size in sorted(arguments.sizes)]
    report(arguments, rows, growth=rows[-1]["peak_mb"] - rows[0]["peak_mb"])


def _measure_in_new_process(arguments: argparse.Namespace, size: int) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        write_text(text, size * MB)
        return run_in_new_process(__file__, "--text", text, "--steps", arguments.steps, "--threads", arguments.threads)


def write_text(path: Path, size: int, seed: int = 1) -> None:
    """Write at least ``size`` bytes of UTF-8: random choices from 300 paragraphs in several alphabets."""
    generator = random.Random(seed)
    words = [
        "".join(generator.choices(letters, k=generator.randint(1, 9))) for letters in ALPHABETS for _ in range(500)
    ]
    # Most words use the first alphabet, as in a real corpus with some foreign words.
    weights = [20] * 500 + [1] * (len(words) - 500)
    paragraphs = [
        f"{' '.join(generator.choices(words, weights, k=generator.randint(20, 200)))} {generator.choice(EMOJI)}\n"
        for _ in range(300)
    ]
    with open(path, "wb") as file:
        written = 0
        while written < size:
            written += file.write("".join(generator.choices(paragraphs, k=1000)).encode())


def measure(text: Path, steps: int, threads: int) -> dict[str, float]:
    """Prepare ``text`` and train on it. Runs in a separate process."""
    import charlm

    train = charlm.train  # this imports torch, which is not part of the measurement
    imported = peak_memory_mb()
    first_event: list[tuple[float, float]] = []

    def on_event(event: object) -> None:
        if not first_event:
            first_event.append((time.perf_counter(), peak_memory_mb()))

    start = time.perf_counter()
    train(
        text,
        out=text.parent / "run",
        on_event=on_event,
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
        "prepare_seconds": prepared_at - start,
        "prepare_mb_per_s": text.stat().st_size / MB / (prepared_at - start),
        "imported_mb": imported,
        "prepared_mb": prepared,
        "peak_mb": peak_memory_mb(),
    }


if __name__ == "__main__":
    main()
