"""How long a cold process takes until it has written its first character, and what of that torch would cost.

    python benchmarks/start.py CHECKPOINT [--rounds 9] [--json]

Every turn is a new process; the files it reads are in the system's cache from a first turn that is not counted.
Reported below the table is whether generating on a CPU has loaded torch.

    what        the command
    median_s    wall time of the process in seconds, the median over the rounds
    best_s      the shortest
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from common import charlm_engine, make_parser, report, take_turns

LOADS_TORCH = """
import sys, charlm
charlm.load(sys.argv[1], device="cpu").generate("Hello", 1)
print("torch" in sys.modules)
"""


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("checkpoint", type=Path, help="a run or one of its steps")
    parser.add_argument("--rounds", type=int, default=9, help="processes of every kind (default 9)")
    arguments = parser.parse_args()
    checkpoint = str(arguments.checkpoint)
    write = ["-m", "charlm", "generate", "--checkpoint", checkpoint, "--prompt", "Hello", "--length", "1"]
    write += ["--device", "cpu"]
    contenders = {
        "charlm generate": _process(write),
        "charlm generate, CHARLM_ENGINE=torch": _process(write, engine="torch"),
        'python -c "import torch"': _process(["-c", "import torch"]),
        "charlm --help": _process(["-m", "charlm", "--help"]),
        "python -c pass": _process(["-c", "pass"]),
    }
    take_turns(contenders, 1)
    times = take_turns(contenders, arguments.rounds)
    rows = [{"what": name, "median_s": median(seconds), "best_s": min(seconds)} for name, seconds in times.items()]
    report(arguments, rows, generating_loads_torch=_run(["-c", LOADS_TORCH, checkpoint]))


def _process(arguments: list[str], engine: str | None = None) -> Callable[[], float]:
    def seconds() -> float:
        began = time.perf_counter()
        _run(arguments, engine)
        return time.perf_counter() - began

    return seconds


def _run(arguments: list[str], engine: str | None = None) -> str:
    """What a new Python prints."""
    with charlm_engine(engine):
        command = [sys.executable, *arguments]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env={**os.environ})
    return done.stdout.decode().strip()


if __name__ == "__main__":
    main()
