"""How much faster several processes train than one, and how long they exchange gradients.

    python benchmarks/scaling.py tinyshakespeare.txt [--processes 2] [--shapes 1x512 2x512] [--batch 32] [--json]

The same number of cores trains as one process with that many threads, and as ``--processes`` processes that share them,
started with torchrun on this machine; on a machine with GPUs, each process has one. The rounds alternate. A step is all
that ``charlm train`` does for a chunk.

    ms              milliseconds per step, the median over the rounds of the median of their steps
    exchange        of these, in the sum of the gradients over the processes, waiting for the slowest one included
    speedup         the time of one process / that of several
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from common import report

WARM_UP, STEPS, ROUNDS = 5, 20, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="training text")
    parser.add_argument("--processes", type=int, default=2, help="default 2")
    parser.add_argument("--shapes", nargs="+", default=["1x512", "2x512"], help="layers x width")
    parser.add_argument("--batch", type=int, default=32, help="streams of all processes together (default 32)")
    parser.add_argument("--device", default="auto", help="default auto")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # in the processes that this script starts
    arguments = parser.parse_args()
    if arguments.measure is not None:
        measure(arguments.text, json.loads(arguments.measure))
        return
    rows = []
    for shape in arguments.shapes:
        layers, hidden = map(int, shape.split("x"))
        options = {"layers": layers, "hidden": hidden, "batch": arguments.batch, "device": arguments.device}
        rounds: dict[int, list[dict[str, float]]] = {1: [], arguments.processes: []}
        for _ in range(ROUNDS):
            for processes, results in rounds.items():
                results.append(run(arguments.text, processes, options))
        one = median(result["ms"] for result in rounds[1])
        for processes, results in rounds.items():
            ms, exchange = (median(result[name] for result in results) for name in ("ms", "exchange"))
            rows.append(
                {"shape": shape, "batch": arguments.batch, "processes": processes, "ms": ms, "exchange": exchange,
                 "speedup": one / ms}
            )  # fmt: skip
    report(arguments, rows)


def run(text: Path, processes: int, options: dict[str, Any]) -> dict[str, float]:
    """The result of ``measure`` in ``processes`` processes."""
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", __file__]
    result = subprocess.run(
        [*line, str(text), "--measure", json.dumps(options)],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    parsed: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return parsed


def measure(text: Path, options: dict[str, Any]) -> None:
    """Train a few steps and print the time of one."""
    import charlm
    from charlm.system.processes import ProcessGroup
    from charlm.training.events import Stepped

    exchanges: list[float] = []
    add = ProcessGroup.add

    def timed_add(group: ProcessGroup, tensor: Any) -> None:
        began = time.perf_counter()
        add(group, tensor)
        exchanges.append(time.perf_counter() - began)

    ProcessGroup.add = timed_add  # type: ignore[method-assign]  # timed here only
    times: list[float] = []

    def on_event(event: object) -> None:
        if isinstance(event, Stepped):
            times.append(time.perf_counter())
            if len(times) == WARM_UP:
                exchanges.clear()

    threads = {"threads": os.cpu_count()} if os.environ["WORLD_SIZE"] == "1" else {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        charlm.train(text, out=out, steps=WARM_UP + STEPS, eval_every=10**6, on_event=on_event, **options, **threads)
    if os.environ["RANK"] == "0":
        steps = [after - before for before, after in zip(times[WARM_UP - 1 :], times[WARM_UP:], strict=False)]
        exchange = median(exchanges) if exchanges else 0.0
        print(json.dumps({"ms": 1000 * median(steps), "exchange": 1000 * exchange}))


if __name__ == "__main__":
    main()
