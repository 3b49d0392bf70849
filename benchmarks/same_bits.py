"""Whether two versions of charlm compute the same weights, losses and texts, bit by bit.

    git worktree add ../before COMMIT && (cd ../before && cmake -S . -B build && cmake --build build)
    python benchmarks/same_bits.py ../before .

A change that should not alter results must give the same results under the same seed. Each version trains on running
text with every kind of dropout, and on a text of lines, for ``--steps`` steps in each of ``--precisions``. Then it
evaluates and generates text with a fixed seed. The native engine must be built in both folders. Exits with 1 if
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
    parser.add_argument("before", type=Path, help="folder of one version")
    parser.add_argument("after", type=Path, help="folder of the other version")
    parser.add_argument("--steps", type=int, default=60, help="steps of each training (default 60)")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], help="precisions (default fp32 bf16)")
    arguments = parser.parse_args()
    differences = 0
    for name, options in TRAININGS.items():
        for precision in arguments.precisions:
            arguments_of_train = [*options, "--precision", precision, "--steps", str(arguments.steps)]
            before, after = (results(folder, arguments_of_train) for folder in (arguments.before, arguments.after))
            same = before == after
            differences += not same
            print(f"{name}, {precision}: {'the same' if same else 'DIFFERENT'}")
            for key in before if not same else ():
                print(f"    {key}: {before[key]} | {after[key]}")
    sys.exit(differences > 0)


def results(folder: Path, options: list[str]) -> dict[str, object]:
    """Train, evaluate and generate with one version. Returns digests of the weights and the text, and losses."""
    with tempfile.TemporaryDirectory() as temporary:
        text, run = Path(temporary) / "text.txt", Path(temporary) / "run"
        text.write_text(_text(), encoding="utf-8")
        trained = _charlm(folder, "train", text, "--out", run, "--threads", "1", "--seed", "7", "--json", *options)
        weights = sorted(run.glob("step-*/*.safetensors"))
        digests = {
            f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in weights
        }
        evaluated = json.loads(_charlm(folder, "eval", "-c", run, "--threads", "1", "--json"))
        generated = _charlm(folder, "generate", "-c", run, "--seed", "3", "--length", "300", "--prompt", "The ")
        return {
            **digests,
            "best": json.loads(trained)["best_nats_per_char"],
            "nats": evaluated["nats_per_char"],
            "standard_error": evaluated["standard_error"],
            "text": hashlib.sha256(generated).hexdigest()[:16],
        }


def _text() -> str:
    """Text and code from the documentation of Python: the same for the same version of Python."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name].strip("\n") for name in sorted(topics))[:120_000] + "\n"


def _charlm(folder: Path, *words: object) -> bytes:
    """Run a command of the version in ``folder``. Returns its output."""
    line = [sys.executable, "-m", "charlm", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(folder.resolve())}
    completed = subprocess.run(line, check=False, capture_output=True, cwd=folder.resolve(), env=environment)
    if completed.returncode:
        sys.exit(f"in {folder}, charlm {words[0]} failed:\n{completed.stderr.decode(errors='replace').strip()}")
    return completed.stdout


if __name__ == "__main__":
    main()
