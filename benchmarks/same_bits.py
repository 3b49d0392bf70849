"""Whether two versions of charlm compute the same: weights, losses and text, bit by bit.

    git worktree add ../before COMMIT && (cd ../before && cmake -S . -B build && cmake --build build)
    python benchmarks/same_bits.py ../before .

A change that should not alter results keeps them under the same seed. Each version trains a text that runs on, with
every dropout, and a text of lines, as long as ``--steps`` says, in every precision that the processor is fast in; then
it evaluates, and writes with a fixed seed. The engine must have been built in both folders. Exits with 1 where
anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

DROPOUTS = ["--dropout-embedding", "0.1", "--dropout-input", "0.1", "--dropout-output", "0.2", "--weight-drop", "0.1"]
TRAININGS = {
    "streams": ["--size", "tiny", *DROPOUTS, "--bptt-jitter", "0.1", "--ar", "0.5", "--tar", "0.5"],
    "two layers": ["--layers", "2", "--hidden", "96", "--embedding", "64", "--dropout-hidden", "0.2"],
    "lines": ["--size", "tiny", "--documents", "lines"],
    "bytes": ["--size", "tiny", "--tokenizer", "byte"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the folder of one version")
    parser.add_argument("after", type=Path, help="the folder of the other")
    parser.add_argument("--steps", type=int, default=60, help="steps of each training (default 60)")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], help="default fp32 bf16")
    arguments = parser.parse_args()
    differences = 0
    for name, options in TRAININGS.items():
        for precision in arguments.precisions:
            words = [*options, "--precision", precision, "--steps", str(arguments.steps)]
            before, after = (results(folder, words) for folder in (arguments.before, arguments.after))
            same = before == after
            differences += not same
            print(f"{name}, {precision}: {'the same' if same else 'DIFFERENT'}")
            for key in before if not same else ():
                print(f"    {key}: {before[key]} | {after[key]}")
    sys.exit(differences > 0)


def results(folder: Path, options: list[str]) -> dict[str, object]:
    """What one version makes: digests of weights and text, and losses."""
    with tempfile.TemporaryDirectory() as place:
        text, run = Path(place) / "text.txt", Path(place) / "run"
        text.write_text(_text(), encoding="utf-8")
        trained = _charlm(folder, "train", text, "--out", run, "--threads", "1", "--seed", "7", "--json", *options)
        weights = sorted(run.glob("step-*/*.safetensors"))
        digests = {
            f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in weights
        }
        evaluated = json.loads(_charlm(folder, "eval", "-c", run, "--threads", "1", "--json"))
        written = _charlm(folder, "generate", "-c", run, "--seed", "3", "--length", "300", "--prompt", "The ")
        return {
            **digests,
            "best": json.loads(trained)["best_nats_per_char"],
            "nats": evaluated["nats_per_char"],
            "standard_error": evaluated["standard_error"],
            "text": hashlib.sha256(written).hexdigest()[:16],
        }


def _text() -> str:
    """Half English, half code, from Python itself: the same for the same Python."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name].strip("\n") for name in sorted(topics))[:120_000] + "\n"


def _charlm(folder: Path, *words: object) -> bytes:
    """What a command of the version in ``folder`` prints."""
    line = [sys.executable, "-m", "charlm", *map(str, words)]
    surroundings = {**os.environ, "PYTHONPATH": str(folder.resolve())}
    done = subprocess.run(line, check=True, capture_output=True, cwd=folder.resolve(), env=surroundings)
    return done.stdout


if __name__ == "__main__":
    main()
