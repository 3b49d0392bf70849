"""The measurements of a run, from its metrics.jsonl, as columns."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from charlm.arguments import check_path, names_keywords
from charlm.checkpoint.run_folder import METRICS
from charlm.checkpoint.step import CONFIG, MANIFEST, has_step_name, open_checkpoint
from charlm.config import parse_json
from charlm.errors import CharlmError, DataError, InputOutputError, MissingInputError
from charlm.system.disk import open_without_links

Columns = dict[str, list[Any]]

_COLUMNS = {
    "train_nats_per_char": "train_nats_per_char", "valid_nats_per_char": "valid_nats_per_char", "lr": "rate",
    "grad_norm": "grad_norm", "clipped_share": "clipped", "skipped_steps": "skipped_steps",
}  # fmt: skip
"""Columns, and what they are called in the file."""
KINDS = ("train", "valid")
_MAX_LINE_BYTES = 1 << 16


@names_keywords
def metrics(run: str | Path) -> Columns:
    """The measurements of a training as columns, lists of equal length, in the order of the steps.

    ``kind`` is "train" (every 50 steps) or "valid" (an evaluation), ``step`` and ``seconds`` count from the beginning
    of the run, ``epochs`` the passes over the training text. ``train_nats_per_char`` is the mean of the steps since the
    evaluation before, ``valid_nats_per_char`` the validation loss, ``lr`` the learning rate. Of the steps since the
    evaluation before, ``grad_norm`` is the mean norm of the gradient before clipping, ``clipped_share`` the share whose
    gradient was clipped; ``skipped_steps`` is the number of those skipped so far. What was not measured, or is not
    finite, is None. ``pandas.DataFrame(charlm.metrics(run))`` makes a table of it.

    Raises ``MissingInputError`` where the run or its metrics.jsonl is missing.
    """
    folder = run_with_metrics(check_path("run", run))
    return read_metrics(folder, read_config(folder))


def run_with_metrics(path: Path) -> Path:
    """The run that ``path`` is, or is a step of. Raises ``MissingInputError`` unless it has a metrics.jsonl."""
    run = path.parent if has_step_name(path) and not (path / METRICS).exists() else path
    if (run / METRICS).is_file():
        return run
    if not path.exists():
        raise MissingInputError(f"{path} does not exist; name a run, or train one: charlm train FILE")
    if (path / MANIFEST).exists():
        raise MissingInputError(f"{path} is an exported model, which has no {METRICS}; name the run it came from")
    raise MissingInputError(f"{path} has no {METRICS}; name another run, or wait for its first steps")


def read_config(run: Path) -> Mapping[str, Any]:
    """The config.json of the latest step; empty before the first one, or where none passes its checks."""
    try:
        return open_checkpoint(run, "latest", (CONFIG,)).config
    except CharlmError:
        return {}


def read_metrics(run: Path, config: Mapping[str, Any], kinds: Collection[str] = KINDS) -> Columns:
    """``metrics`` of the run whose latest config.json is ``config``, of some ``kinds`` of lines.

    Lines that are damaged are left out.
    """
    columns: Columns = {name: [] for name in ("kind", "step", "seconds", "epochs", *_COLUMNS)}
    epochs_per_step = _epochs_per_step(config)
    for entry in _entries(run / METRICS, kinds):
        columns["kind"].append(entry["kind"])
        columns["step"].append(entry["step"])
        columns["seconds"].append(float(entry["seconds"]))
        columns["epochs"].append(None if epochs_per_step is None else entry["step"] * epochs_per_step)
        for name, key in _COLUMNS.items():
            value = entry.get(key)
            columns[name].append(value if type(value) in (int, float) else None)
    return columns


def _entries(path: Path, kinds: Collection[str]) -> Iterator[dict[str, Any]]:
    quoted = [f'"{kind}"'.encode() for kind in kinds]
    try:
        with open(path, "rb", opener=open_without_links) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            while line := file.readline(_MAX_LINE_BYTES):
                if not any(kind in line for kind in quoted):
                    continue  # without the time that parsing takes
                try:
                    entry = parse_json(line, METRICS)
                except DataError:
                    continue  # a killed process may have written half a line
                if isinstance(entry, dict) and _is_complete(entry, kinds):
                    yield entry
    except OSError as error:
        raise InputOutputError(f"{path} could not be read ({error.strerror}); check the disk") from None


def _is_complete(entry: Mapping[str, Any], kinds: Collection[str]) -> bool:
    return entry.get("kind") in kinds and type(entry.get("step")) is int and type(entry.get("seconds")) in (int, float)


def _epochs_per_step(config: Mapping[str, Any]) -> float | None:
    """Passes over the training text per step, the mean up to the latest checkpoint; None where that is unknown."""
    try:
        size = config["corpus"]["splits"]["train"]
        ids = size["ids"] - size.get("prefix_ids", 0)
        return float(config["ids_seen"]) / float(ids) / int(config["step"])
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError):
        return None
