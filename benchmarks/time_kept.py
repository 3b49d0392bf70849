"""Whether ``--time`` is kept: how long ``charlm train`` takes with models and instruction sets of all speeds.

    python benchmarks/time_kept.py warandpeace.txt
    python benchmarks/time_kept.py warandpeace.txt --sizes small --sets portable avx2 --times 10s 20s --set threads=1
    python benchmarks/time_kept.py --table

Each training is a new process with ``CHARLM_ISA`` set. An instruction set that the processor does not have is left out.
Wall times, so that other work on the machine changes the number of steps, but not whether the time is kept.

    requested   seconds of --time
    training    seconds from the prepared text to the last saved file, which --time limits
    off         how much longer that is than requested, in seconds; 3% or 2 seconds are allowed, whichever is more
    process     seconds of the whole command: with the start of Python and the preparation of the text
    steps       of the training
    loss        the lowest validation loss in nats per character, of a part of the text that depends on the speed
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from results import (
    Entry,
    Measurement,
    Row,
    format_options,
    measurement_parser,
    parse_options,
    recipe_of,
    run_measurements,
    sha256,
)

from charlm import native
from charlm.config import parse_duration
from charlm.errors import UsageError
from charlm.training.options import command_line_name

ALLOWED_SHARE, ALLOWED_SECONDS = 0.03, 2.0


def main() -> None:
    parser = measurement_parser(__doc__, "time_kept")
    parser.add_argument("texts", type=Path, nargs="*", metavar="TEXT", help="training text")
    parser.add_argument("--sizes", nargs="+", default=["tiny", "small", "large"], help="(default tiny small large)")
    parser.add_argument(
        "--sets", nargs="+", default=list(native.INSTRUCTION_SETS), help="instruction sets (default all)"
    )
    parser.add_argument("--times", nargs="+", default=["10s", "20s", "60s"], help="(default 10s 20s 60s)")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="options of charlm train")
    arguments = parser.parse_args()
    run_measurements(arguments, measurements(arguments), table)


def measurements(arguments: argparse.Namespace) -> Iterator[Measurement]:
    options = parse_options(arguments.set)
    for text in arguments.texts:
        digest = sha256(text)
        for length in arguments.times:
            for size in arguments.sizes:
                for name in filter(runs_here, arguments.sets):
                    settings = {
                        "sha256": digest,
                        "seconds": parse_duration(length),
                        "size": size,
                        "instruction_set": name,
                        "options": options,
                    }
                    yield Measurement(text, settings, lambda text=text, settings=settings: measure(text, settings))


def runs_here(instruction_set: str) -> bool:
    """Whether the processor, and this build of charlm, have ``instruction_set``."""
    before = os.environ.get("CHARLM_ISA")
    os.environ["CHARLM_ISA"] = instruction_set
    try:
        return native.find_library() is not None
    except UsageError:
        return False
    finally:
        os.environ.pop("CHARLM_ISA")
        if before is not None:
            os.environ["CHARLM_ISA"] = before


def measure(text: Path, settings: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = [
            "--size",
            settings["size"],
            "--time",
            f"{settings['seconds']}s",
            "--out",
            str(run),
            "--json",
            "--quiet",
        ]
        for name, value in settings["options"].items():
            words += [command_line_name(name), str(value)]
        environment = {**os.environ, "CHARLM_ISA": settings["instruction_set"]}
        command = [sys.executable, "-m", "charlm", "train", str(text), *words]
        began = time.perf_counter()
        result = json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)
        process = time.perf_counter() - began
        figures = {
            "train_seconds": result["seconds"],
            "process_seconds": process,
            "steps": result["step"],
            "ended": result["reason"],
            "best": result["best_nats_per_char"],
        }
        return {"figures": figures, "recipe": recipe_of(run)}


def table(entries: Sequence[Entry]) -> list[Row]:
    rows = []
    for entry in entries:
        settings, figures = entry["settings"], entry["figures"]
        requested = settings["seconds"]
        off = figures["train_seconds"] - requested
        kept = abs(off) <= max(ALLOWED_SECONDS, ALLOWED_SHARE * requested) or figures["ended"] != "budget"
        rows.append(
            {
                "size": settings["size"],
                "instruction set": settings["instruction_set"],
                "options": format_options(settings["options"]),
                "requested": f"{requested:g}",
                "training": f"{figures['train_seconds']:.1f}",
                "off": f"{off:+.1f}{'' if kept else ' !'}",
                "process": f"{figures['process_seconds']:.1f}",
                "steps": figures["steps"],
                "loss": f"{figures['best']:.3f}",
            }
        )
    return rows


if __name__ == "__main__":
    main()
