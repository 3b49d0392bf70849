"""Functions that all benchmarks use: interleaved rounds, peak memory, new processes, printing.

Timings vary on a shared machine. The contenders therefore take turns within one run, in reverse order in every other
round. The figures are medians over the rounds. Compare only ratios within one run. 1 MB is 1,000,000 bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

MB = 1_000_000
Result = TypeVar("Result")


def make_parser(documentation: str | None) -> argparse.ArgumentParser:
    """A parser with the script's docstring as help and the option --json, which all benchmarks have."""
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser


def take_turns(contenders: Mapping[str, Callable[[], Result]], rounds: int) -> dict[str, list[Result]]:
    """Call each contender once per round, in reverse order in every other round. Returns the results by name."""
    results: dict[str, list[Result]] = {name: [] for name in contenders}
    for number in range(rounds):
        names = list(contenders) if number % 2 == 0 else list(reversed(contenders))
        for name in names:
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr)
            results[name].append(contenders[name]())
    return results


@contextlib.contextmanager
def charlm_engine(name: str | None) -> Iterator[None]:
    """Set CHARLM_ENGINE to ``name`` ("torch" or "native"; None: unset), and restore it afterwards.

    charlm reads the variable at each call. A model that is created inside must also be used inside.
    """
    before = os.environ.pop("CHARLM_ENGINE", None)
    try:
        if name is not None:
            os.environ["CHARLM_ENGINE"] = name
        yield
    finally:
        os.environ.pop("CHARLM_ENGINE", None)
        if before is not None:
            os.environ["CHARLM_ENGINE"] = before


def seconds_per_call(work: Callable[[], object], min_seconds: float = 0.2) -> float:
    """Mean duration of a call in seconds. Calls until ``min_seconds`` have passed."""
    calls, start = 0, time.perf_counter()
    while True:
        work()
        calls += 1
        seconds = time.perf_counter() - start
        if seconds >= min_seconds:
            return seconds / calls


def peak_memory_mb() -> float:
    """The peak resident memory of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux ru_maxrss includes the peak of the parent process; VmHWM does not.
        peak = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak) * 1024 / MB
    # macOS counts bytes, all other systems kilobytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB


def run_in_new_process(script: str, *arguments: object) -> Any:
    """Run ``script`` in a new process, to measure its peak memory separately. Returns the JSON that it prints."""
    command = [sys.executable, script, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def report(arguments: argparse.Namespace, rows: Sequence[Mapping[str, Any]], **summary: Any) -> None:
    """Print ``rows``, which have the same keys, as a table with ``summary`` below, or all as one JSON object."""
    settings = {name: value for name, value in vars(arguments).items() if name != "json" and value is not None}
    if arguments.json:
        print(json.dumps({"settings": settings, "machine": _machine(), "rows": rows, **summary}, default=str))
        return
    print(", ".join(f"{name} {value}" for name, value in _machine().items()))
    print_table(rows)
    for name, value in summary.items():
        print(f"{name.replace('_', ' ')}: {_cell(value)}")


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print ``rows``, which have the same keys. The first column is aligned left, the others right."""
    headings = [name.replace("_", " ") for name in rows[0]]
    cells = [headings, *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join([row[0].ljust(len(first)), *others]))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _machine() -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "sentencepiece")}
    return {"python": platform.python_version(), **versions, "processor": platform.machine(), "cores": os.cpu_count()}
