"""Run campaigns by name, all without a name, and append what they found to results.jsonl."""

import argparse
import datetime
import importlib
import json
import os
import platform
import sys
import time
from pathlib import Path

CAMPAIGNS = (
    "kill", "power", "disk", "signals", "hostile_checkpoints", "hostile_text", "divergence", "scale", "endurance",
)  # fmt: skip
RESULTS = Path(__file__).parent / "results.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CAMPAIGNS)}")
    names = parser.parse_args().names or CAMPAIGNS
    for name in names:
        if name not in CAMPAIGNS:
            parser.error(f"there is no campaign {name!r}; there are {', '.join(CAMPAIGNS)}")
    for name in names:
        began = time.monotonic()
        figures = importlib.import_module(f"campaigns.{name}").campaign()
        entry = {
            "campaign": name,
            "date": datetime.date.today().isoformat(),
            "seconds": round(time.monotonic() - began),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            **figures,
        }
        print(json.dumps(entry), flush=True)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    sys.exit(main())
