"""How long a new process takes to generate its first character, and how much of that an import of torch costs.

    python benchmarks/start.py CHECKPOINT [--rounds 9] [--json]

Each turn is a new process. An uncounted first turn brings the files into the system's cache. The line below the table
says whether generation on a CPU imports torch.

    what        the command
    median_s    wall time of the process in seconds, the median over the rounds
    best_s      the minimum
"""

from __future__ import annotations

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
    parser.add_argument("--rounds", type=int, default=9, help="processes of each kind (default 9)")
    arguments = parser.parse_args()
    checkpoint = str(arguments.checkpoint)
    generate = ["-m", "charlm", "generate", "--checkpoint", checkpoint, "--prompt", "Hello", "--length", "1"]
    generate += ["--device", "cpu"]
    contenders = {
        "charlm generate": _process(generate),
        "charlm generate, CHARLM_ENGINE=torch": _process(generate, engine="torch"),
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
        start = time.perf_counter()
        _run(arguments, engine)
        return time.perf_counter() - start

    return seconds


def _run(arguments: list[str], engine: str | None = None) -> str:
    """Run a new Python process. Returns its output."""
    with charlm_engine(engine):
        command = [sys.executable, *arguments]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL).stdout
    return output.decode().strip()


if __name__ == "__main__":
    main()
