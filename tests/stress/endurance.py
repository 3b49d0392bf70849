"""Hours of training with frequent saves: memory, file descriptors and the number of kept checkpoints stay flat."""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ALLOWED_GROWTH = 0.02
"""Of resident memory, between the second quarter of the time and the last."""
CHARACTERS = "etaoinshrdlu" + "".join(map(chr, range(0x4E00, 0x4E00 + 4000)))
"""Thousands, so that the chunks of a text differ in how many characters they have."""
KEPT = 3
"""Steps in a run at any moment: the best, the latest, and the one that has just replaced it."""


def run_trials(seconds: float = 3600, save_every: str = "20s", sample_every: float = 5.0) -> dict[str, float]:
    """Train one run for ``seconds`` and look at the process from outside."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        draw = random.Random(1)
        words = ["".join(draw.choices(CHARACTERS, k=draw.randint(1, 8))) for _ in range(4000)]
        text.write_text(" ".join(draw.choice(words) for _ in range(100_000)), encoding="utf-8")
        samples = _watch(text, Path(folder) / "run", seconds, save_every, sample_every)
    memory, descriptors, steps = ([sample[which] for sample in samples] for which in range(3))
    quarter = len(samples) // 4
    before, after = max(memory[quarter : 2 * quarter]), max(memory[-quarter:])
    assert after <= before * (1 + ALLOWED_GROWTH), (before, after)
    assert max(descriptors[quarter:]) == min(descriptors[quarter:]), sorted(set(descriptors))
    assert max(steps) <= KEPT, max(steps)
    return {
        "seconds_trained": round(seconds),
        "samples": len(samples),
        "memory_second_quarter_mb": round(before / 1e6, 1),
        "memory_last_quarter_mb": round(after / 1e6, 1),
        "descriptors": max(descriptors[quarter:]),
        "most_checkpoints": max(steps),
    }


def _watch(text: Path, run: Path, seconds: float, save_every: str, sample_every: float) -> list[tuple[int, int, int]]:
    command = [
        sys.executable, "-m", "charlm", "train", str(text), "--out", str(run), "--size", "tiny", "--device", "cpu",
        "--threads", "1", "--schedule", "constant", "--time", f"{seconds:.0f}s", "--save-every", save_every,
        "--eval-every", "200", "--quiet",
    ]  # fmt: skip
    samples: list[tuple[int, int, int]] = []
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(sample_every)
            if run.exists() and list(run.glob("step-*")) and process.poll() is None:
                sample = _look_at(process.pid, run)
                samples += [sample] if sample is not None else []
                if sample is not None and len(samples) % 12 == 1:
                    print(f"{len(samples):4} samples: {sample[0] / 1e6:.1f} MB", file=sys.stderr, flush=True)
    assert process.returncode == 0, process.returncode
    assert len(samples) >= 8, "too short to tell"
    return samples


def _look_at(pid: int, run: Path) -> tuple[int, int, int] | None:
    """Resident bytes, open files that stay open, and kept steps; None once the run has been let go of at the end."""
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    open_files, holds_run = 0, False
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue
        # What is being written or removed at this moment is closed again at once.
        holds_run |= target == str(run / ".lock")
        passing = (".unfinished-", ".deleted-", ".aside-", "metrics.jsonl", "README.md")
        open_files += not any(mark in target for mark in passing) and target != str(run)
    return (resident, open_files, len(list(run.glob("step-*")))) if holds_run else None
