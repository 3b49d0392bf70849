"""Run the named stress tests, or all of them, and append their figures to results.jsonl."""

import argparse
import datetime
import importlib
import json
import os
import platform
import sys
import time
from pathlib import Path

STRESS_TESTS = (
    "kill", "processes", "power", "disk", "signals", "hostile_checkpoints", "hostile_text", "hostile_requests",
    "divergence", "scale", "endurance", "sanitizers",
)  # fmt: skip
RESULTS = Path(__file__).parent / "results.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(STRESS_TESTS)}")
    names = parser.parse_args().names or STRESS_TESTS
    for name in names:
        if name not in STRESS_TESTS:
            parser.error(f"there is no stress test {name!r}; choose from {', '.join(STRESS_TESTS)}")
    for name in names:
        started = time.monotonic()
        figures = importlib.import_module(f"stress.{name}").run_trials()
        entry = {
            "campaign": name,  # the key that results.jsonl has always had
            "date": datetime.date.today().isoformat(),
            "seconds": round(time.monotonic() - started),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            **figures,
        }
        print(json.dumps(entry), flush=True)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    sys.exit(main())
