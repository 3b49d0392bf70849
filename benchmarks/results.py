"""What the benchmarks share that run for hours: results on disk, so that a campaign may be stopped and goes on later.

Every finished measurement is one line, a JSON object, at the end of ``benchmarks/results/NAME.jsonl``; a line is there
whole or not at all. What a file holds already is not measured again: the key is ``settings``, all that defines the
measurement, with what computes among it, since what a time is worth depends on that. Where a key stands twice, the
later line counts.

    text, settings      what was measured: the text's name; its sha256, the split, seconds of training, seed, options,
                        charlm's engine
    figures             what came out
    recipe              the model and the training that charlm chose, as its config.json has them; null where it did not
    wall_seconds        what the measurement took, evaluations included; after a stop, since then
    cpu_seconds         of all its threads together; few for its wall_seconds where others kept the machine busy
    date, machine, versions, commit

Ctrl-C ends a campaign at any time; the same command goes on with what is missing.
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
from charlm import native, runs
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.step import open_checkpoint
from charlm.corpus.prepared import Corpus
from charlm.runs import TrainingResult
from charlm.system.cores import cores
from charlm.system.devices import choose_precision
from charlm.training.options import TrainingOptions, definitions
from charlm.training.recipe import Recipe, resolve

FOLDER = Path(__file__).with_name("results")
FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "bf16", "i8mm", "sve")
"""Of a processor, what decides how fast a training is."""
Entry = dict[str, Any]
Row = dict[str, Any]


class Results:
    """The file ``path``, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[Entry]:
        """All that was measured, each key once. A torn last line counts as absent; exits at any other bad line."""
        return list(self._by_key().values())

    def find(self, settings: Mapping[str, Any]) -> Entry | None:
        """What was measured with exactly these settings."""
        return self._by_key().get(key(settings))

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write ``entry``, which has ``settings`` among its values, at the end of the file and onto the disk."""
        line = json.dumps(plain(entry), allow_nan=False, ensure_ascii=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # another campaign may write just now
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
                raise SystemExit(f"line {number} of {self.path} is no measurement; mend it or take it out")
        return found


def _entry(line: bytes) -> Entry | None:
    with contextlib.suppress(ValueError):
        entry = json.loads(line)
        if isinstance(entry, dict) and isinstance(entry.get("settings"), dict):
            return entry
    return None


def key(settings: Mapping[str, Any]) -> str:
    """The same text for the same settings, in whatever order."""
    return json.dumps(plain(settings), sort_keys=True)


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: paths and numbers that are not finite become texts."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, Path) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return value


# ------------------------------------------------------------------------------------------------ campaigns


@dataclass(frozen=True)
class Measurement:
    """One line to be: ``measure`` gives its ``figures`` and, where charlm was trained, its ``recipe``."""

    text: Path
    settings: dict[str, Any]
    measure: Callable[[], dict[str, Any]]
    is_complete: Callable[[Entry], bool] = lambda entry: True
    """Whether a line with these settings has all that is wanted now."""


def campaign_parser(documentation: str | None, name: str) -> argparse.ArgumentParser:
    """A parser with the options of all campaigns."""
    parser = make_parser(documentation)
    default = FOLDER / f"{name}.jsonl"
    parser.add_argument("--results", type=Path, default=default, help=f"the file to add to (default {default.name})")
    parser.add_argument("--table", action="store_true", help="measure nothing, only print what the file holds")
    return parser


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """--split, --seeds and --set."""
    parser.add_argument("--split", default="90/10/0", help="parts to learn, to steer by, to test on (default 90/10/0)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="default 1 2 3")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="options of charlm train, such as size=small lr=0.01"
    )


def carry_out(
    arguments: argparse.Namespace,
    measurements: Iterable[Measurement],
    table: Callable[[Sequence[Entry]], Sequence[Row]],
) -> None:
    """Measure what is missing, one after the other, and print the ``table`` of all that the file holds then."""
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
        print(f"{results.path} holds nothing yet")
    if stopped:
        print("stopped; the same command goes on with what is missing", file=sys.stderr)
        raise SystemExit(130)


def measure_once(results: Results, measurement: Measurement) -> bool:
    """Measure and write it down, unless it is there already; whether it was measured."""
    settings = measurement.settings
    told = ", ".join(f"{name} {value}" for name, value in plain(settings).items() if name != "sha256")
    found = results.find(settings)
    if found is not None and measurement.is_complete(found):
        print(f"{measurement.text.name}: {told}: there already", file=sys.stderr)
        return False
    print(f"{measurement.text.name}: {told}", file=sys.stderr)
    began, worked = time.perf_counter(), time.process_time()
    outcome = measurement.measure()
    spent = {"wall_seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - worked}
    results.add({"text": measurement.text.name, "settings": settings, **outcome, **spent, **circumstances()})
    return True


def circumstances() -> dict[str, Any]:
    """When, where and with what something is measured."""
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
    """Cores, the processor's name and those of its ``FEATURES``, and what charlm computes with on it."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        told = ""
    first = dict(line.partition(":")[::2] for line in told.partition("\n\n")[0].splitlines())
    facts = {name.strip(): value.strip() for name, value in first.items()}
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    return {
        "cores": cores(),
        "processor": facts.get("model name") or platform.processor() or platform.machine(),
        "features": [feature for feature in FEATURES if feature in flags],
        "engine": engine(),
        "threads": torch.get_num_threads(),
    }


def engine() -> str:
    """What charlm computes with on this processor: "native avx2", "torch"."""
    return "torch" if native.find_library() is None else f"native {native.instruction_set()}"


def commit() -> str | None:
    """Git's name for the charlm that runs, with a "+" where its code was changed since; None where git knows none."""
    home = Path(charlm.__file__).parent

    def ask(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=home, check=True, capture_output=True, text=True).stdout.strip()

    try:
        name = ask("rev-parse", "--short=12", "HEAD")
        return name + ("+" if ask("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


# ------------------------------------------------------------------------------------------------ trainings


def sha256(text: Path) -> str:
    """The digest of a file."""
    return hashlib.sha256(text.read_bytes()).hexdigest()


def parse_wishes(pairs: Iterable[str]) -> dict[str, Any]:
    """Keywords for ``charlm.train`` from texts like "lr=0.01": the fields of ``TrainingOptions``, in their types.

    Exits where one has no such name or value.
    """
    options = definitions(TrainingOptions)
    fixed = ("time", "seed")
    wishes = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name not in options or name in fixed:
            known = ", ".join(name for name in options if name not in fixed)
            raise SystemExit(f"--set {pair}: write NAME=VALUE, where NAME is one of {known}")
        kind = options[name].kinds[0]
        try:
            wishes[name] = kind(value)
        except ValueError:
            raise SystemExit(f"--set {pair}: {value!r} is no {kind.__name__}") from None
    return wishes


def train(text: Path, out: Path, **wishes: Any) -> TrainingResult:
    """``charlm.train``, or where ``out`` holds a run already, what is left of it. Ctrl-C ends the campaign."""
    trained = (
        runs.resume(out) if out.exists() and RunFolder(out).step_numbers() else charlm.train(text, out=out, **wishes)
    )
    if trained.reason == "interrupted":
        raise KeyboardInterrupt
    return trained


def recipe_for(request: TrainingOptions, corpus: Corpus, device: torch.device) -> Recipe:
    """What charlm chooses for a training on ``corpus``."""
    return resolve(
        request,
        corpus.sizes["train"],
        corpus.sizes["valid"],
        corpus.tokenizer.vocabulary_size,
        device=str(device),
        precision=choose_precision("auto", device),
        instruction_set=native.instruction_set(),
    )


def recipe_of(run: Path) -> dict[str, Any]:
    """What charlm chose for a run."""
    config = open_checkpoint(run).config
    return {"model": config["model"], "training": config["training"]}


# ------------------------------------------------------------------------------------------------ tables


def grouped(entries: Iterable[Entry], *without: str) -> Iterator[tuple[dict[str, Any], list[Entry]]]:
    """Entries whose settings differ in nothing but those named, with the settings they share, in the file's order."""
    groups: dict[str, tuple[dict[str, Any], list[Entry]]] = {}
    for entry in entries:
        shared = {name: value for name, value in entry["settings"].items() if name not in without}
        groups.setdefault(key(shared), (shared, []))[1].append(entry)
    yield from groups.values()


def over_seeds(values: Sequence[float], digits: int = 4) -> str:
    """The mean, and from where to where the values go if there are several."""
    if not values:
        return "-"
    middle = f"{mean(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def in_words(options: Mapping[str, Any]) -> str:
    """Options as --set takes them; a dash for none."""
    return " ".join(f"{name}={value}" for name, value in options.items()) or "-"


def duration(seconds: float) -> str:
    """Seconds as --time takes them."""
    return f"{seconds / 60:g}m" if seconds % 60 == 0 else f"{seconds:g}s"
