"""A text of ten gigabytes is prepared and trained on in the memory that one of a hundred megabytes takes."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "corpus_memory.py"
ALLOWED_MB = 50


def run_trials(small_mb: int = 100, large_mb: int = 10_000, steps: int = 2000) -> dict[str, float]:
    """Peak resident memory for both, by the benchmark that the README quotes, each in a process of its own."""
    sizes = ["--sizes", str(small_mb), str(large_mb), "--steps", str(steps)]
    done = subprocess.run([sys.executable, str(BENCHMARK), *sizes, "--json"], stdout=subprocess.PIPE, check=True)
    small, large = json.loads(done.stdout)["rows"]
    growth = large["peak_mb"] - small["peak_mb"]
    assert growth < ALLOWED_MB, (small, large)
    return {
        "small_mb": small_mb,
        "large_mb": large_mb,
        "steps": steps,
        "peak_small_mb": round(small["peak_mb"], 1),
        "peak_large_mb": round(large["peak_mb"], 1),
        "growth_mb": round(growth, 1),
        "prepare_mb_per_s": round(large["prepare_mb_per_s"], 1),
    }
