"""Results on disk for the benchmarks that run for hours, so that they can be interrupted and continued.

Each finished measurement is one JSON object, appended as a line to ``benchmarks/results/NAME.jsonl``. A line is either
complete or absent. Measurements that a file already contains are skipped. The key of a measurement is ``settings``,
everything that defines it. It includes the engine, because the value of a training time depends on it. If a key is
duplicate, the later line counts.

    text, settings      what was measured: the text's name; its sha256, the split, seconds of training, seed, options,
                        charlm's engine
    figures             the measured values
    recipe              the model and training settings that charlm chose, as in config.json; null if there are none
    wall_seconds        duration of the measurement, evaluations included; after an interruption, only the last part
    cpu_seconds         CPU time of all threads; low compared with wall_seconds if the machine had other work
    date, machine, versions, commit

Ctrl-C ends a benchmark at any time. The same command continues with the missing measurements.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fcntl
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from common import make_parser, print_table

import charlm
from charlm import native
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.step import open_checkpoint
from charlm.config import parse_duration
from charlm.corpus.prepared import Corpus
from charlm.runs import TrainingResult
from charlm.system.cores import cores
from charlm.system.devices import choose_precision
from charlm.training.options import TrainingOptions, definitions
from charlm.training.recipe import Recipe, resolve
from charlm.training.speed import MachineSpeed

FOLDER = Path(__file__).with_name("results")
FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "bf16", "i8mm", "sve")
"""The processor features that determine the speed of training."""
Entry = dict[str, Any]
Row = dict[str, Any]


class Results:
    """A file of results. ``path`` does not have to exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[Entry]:
        """All results, one for each key. A truncated last line is ignored. Exits at any other invalid line."""
        return list(self._by_key().values())

    def find(self, settings: Mapping[str, Any]) -> Entry | None:
        """The result with exactly these settings, or None."""
        return self._by_key().get(key(settings))

    def add(self, entry: Mapping[str, Any]) -> None:
        """Append ``entry``, which must contain ``settings``, to the file and flush it to the disk."""
        line = json.dumps(to_json(entry), allow_nan=False, ensure_ascii=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # another benchmark may be writing at the same time
            file.seek(0)
            data = file.read()
            whole = data.rfind(b"\n") + 1
            if _entry(data[whole:]):
                line = "\n" + line
            else:
                file.truncate(whole)
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def _by_key(self) -> dict[str, Entry]:
        lines = self.path.read_bytes().split(b"\n") if self.path.exists() else []
        found = {}
        for number, line in enumerate(lines, 1):
            entry = _entry(line)
            if entry:
                found[key(entry["settings"])] = entry
            elif line.strip() and number < len(lines):
                raise SystemExit(f"line {number} of {self.path} is not a valid result; fix or delete it")
        return found


def _entry(line: bytes) -> Entry | None:
    with contextlib.suppress(ValueError):
        entry = json.loads(line)
        if isinstance(entry, dict) and isinstance(entry.get("settings"), dict):
            return entry
    return None


def key(settings: Mapping[str, Any]) -> str:
    """A string that is equal for equal settings in any order."""
    return json.dumps(to_json(settings), sort_keys=True)


def to_json(value: Any) -> Any:
    """``value`` as JSON can store it: paths and non-finite numbers become strings."""
    if isinstance(value, Mapping):
        return {str(name): to_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(part) for part in value]
    if isinstance(value, Path) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return value


# ------------------------------------------------------------------------------------------------ measurements


@dataclass(frozen=True)
class Measurement:
    """A future line of the file. ``measure`` returns its ``figures`` and ``recipe``."""

    text: Path
    settings: dict[str, Any]
    measure: Callable[[], dict[str, Any]]
    is_complete: Callable[[Entry], bool] = lambda entry: True
    """Whether an existing line with these settings has all values that are needed now."""


def measurement_parser(documentation: str | None, name: str) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks with results on disk have."""
    parser = make_parser(documentation)
    default = FOLDER / f"{name}.jsonl"
    parser.add_argument("--results", type=Path, default=default, help=f"file to append to (default {default.name})")
    parser.add_argument("--table", action="store_true", help="only print the results in the file")
    return parser


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Add --split, --seeds and --set."""
    parser.add_argument("--split", default="90/10/0", help="train/validation/test (default 90/10/0)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds (default 1 2 3)")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="options of charlm train, such as size=small lr=0.01"
    )


def run_measurements(
    arguments: argparse.Namespace,
    measurements: Iterable[Measurement],
    table: Callable[[Sequence[Entry]], Sequence[Row]],
) -> None:
    """Run the missing measurements one after the other, then print the ``table`` of all results in the file."""
    results, stopped = Results(arguments.results), False
    try:
        for measurement in () if arguments.table else measurements:
            measure_once(results, measurement)
    except KeyboardInterrupt:
        stopped = True
    rows = table(results.entries())
    if arguments.json:
        print(json.dumps({"rows": rows}, ensure_ascii=False))
    elif rows:
        print_table(rows)
    else:
        print(f"{results.path} has no results yet")
    if stopped:
        print("interrupted; the same command continues with the missing measurements", file=sys.stderr)
        raise SystemExit(130)


def measure_once(results: Results, measurement: Measurement) -> bool:
    """Measure and store the result, unless the file already has it. Returns whether it was measured."""
    settings = measurement.settings
    described = ", ".join(f"{name} {value}" for name, value in to_json(settings).items() if name != "sha256")
    found = results.find(settings)
    if found is not None and measurement.is_complete(found):
        print(f"{measurement.text.name}: {described}: already measured", file=sys.stderr)
        return False
    print(f"{measurement.text.name}: {described}", file=sys.stderr)
    wall_start, cpu_start = time.perf_counter(), time.process_time()
    outcome = measurement.measure()
    spent = {"wall_seconds": time.perf_counter() - wall_start, "cpu_seconds": time.process_time() - cpu_start}
    results.add({"text": measurement.text.name, "settings": settings, **outcome, **spent, **provenance()})
    return True


def provenance() -> dict[str, Any]:
    """Date, machine, versions and commit of a measurement."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {
            "charlm": charlm.__version__,
            **{name: importlib.metadata.version(name) for name in ("torch", "numpy")},
            "python": platform.python_version(),
        },
        "commit": commit(),
    }


def machine() -> dict[str, Any]:
    """Cores, the processor's name, the ``FEATURES`` that it has, charlm's engine, and the number of threads."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:
        cpuinfo = ""
    first = dict(line.partition(":")[::2] for line in cpuinfo.partition("\n\n")[0].splitlines())
    facts = {name.strip(): value.strip() for name, value in first.items()}
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    return {
        "cores": cores(),
        "processor": facts.get("model name") or platform.processor() or platform.machine(),
        "features": [feature for feature in FEATURES if feature in flags],
        "engine": engine_name(),
        "threads": torch.get_num_threads(),
    }


def engine_name() -> str:
    """The engine that charlm uses on this processor, such as "native avx2" or "torch"."""
    return "torch" if native.find_library() is None else f"native {native.instruction_set()}"


def commit() -> str | None:
    """The git commit of the imported charlm, with a "+" if its code was modified since. None outside a repository."""
    home = Path(charlm.__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=home, check=True, capture_output=True, text=True).stdout.strip()

    try:
        name = git("rev-parse", "--short=12", "HEAD")
        return name + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


# ------------------------------------------------------------------------------------------------ trainings


def sha256(text: Path) -> str:
    """The SHA-256 digest of a file in hexadecimal."""
    return hashlib.sha256(text.read_bytes()).hexdigest()


def parse_options(pairs: Iterable[str]) -> dict[str, Any]:
    """Convert strings such as "lr=0.01" to keywords for ``charlm.train``, in the types of ``TrainingOptions``.

    Exits if a name or a value is invalid.
    """
    known = definitions(TrainingOptions)
    fixed = ("time", "seed")
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name not in known or name in fixed:
            names = ", ".join(name for name in known if name not in fixed)
            raise SystemExit(f"--set {pair}: write NAME=VALUE, where NAME is one of {names}")
        kind = known[name].kinds[0]
        try:
            options[name] = kind(value)
        except ValueError:
            raise SystemExit(f"--set {pair}: {value!r} is not of type {kind.__name__}") from None
    return options


def train(text: Path, out: Path, **options: Any) -> TrainingResult:
    """``charlm.train``, or ``charlm.resume`` if ``out`` contains a run. Raises KeyboardInterrupt after Ctrl-C."""
    trained = (
        charlm.resume(out) if out.exists() and RunFolder(out).step_numbers() else charlm.train(text, out=out, **options)
    )
    if trained.reason == "interrupted":
        raise KeyboardInterrupt
    return trained


def recipe_for(request: TrainingOptions, corpus: Corpus, device: torch.device) -> Recipe:
    """The recipe that charlm chooses on ``corpus``. For a time limit it measures the speed of the machine."""
    seconds = request.get("time")
    return resolve(
        request,
        corpus.sizes["train"],
        corpus.sizes["valid"],
        corpus.tokenizer.vocabulary_size,
        device=str(device),
        precision=choose_precision("auto", device),
        speedometer=None if seconds is None else MachineSpeed(corpus, parse_duration(seconds)),
    )


def recipe_of(run: Path) -> dict[str, Any]:
    """The model and training settings of a run."""
    config = open_checkpoint(run).config
    return {"model": config["model"], "training": config["training"]}


# ------------------------------------------------------------------------------------------------ tables


def grouped(entries: Iterable[Entry], *without: str) -> Iterator[tuple[dict[str, Any], list[Entry]]]:
    """Group the entries whose settings are equal except for ``without``. Yields the shared settings and the entries."""
    groups: dict[str, tuple[dict[str, Any], list[Entry]]] = {}
    for entry in entries:
        shared = {name: value for name, value in entry["settings"].items() if name not in without}
        groups.setdefault(key(shared), (shared, []))[1].append(entry)
    yield from groups.values()


def mean_and_range(values: Sequence[float], digits: int = 4) -> str:
    """The mean, and for several values also (minimum-maximum). A dash for no values."""
    if not values:
        return "-"
    middle = f"{mean(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def format_options(options: Mapping[str, Any]) -> str:
    """Options as --set accepts them. A dash for no options."""
    return " ".join(f"{name}={value}" for name, value in options.items()) or "-"


def format_duration(seconds: float) -> str:
    """Seconds as --time accepts them."""
    return f"{seconds / 60:g}m" if seconds % 60 == 0 else f"{seconds:g}s"
