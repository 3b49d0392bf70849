"""A step: one checkpoint, as a folder that is complete or absent.

A run is a folder of steps, ``run/step-N/``. ``save_step`` writes a step under another name, file by file, and last of
all ``manifest.json`` with the sizes and SHA-256 digests of the other files. A step becomes valid at one place: the
rename to ``step-N`` in ``disk.write_folder``, after everything has been synced. Only then is it reported as saved.

``open_checkpoint`` checks every file against the manifest before it is used. There is no pickle: tensors are
safetensors, everything else is strict JSON, so opening a checkpoint from an unknown source runs no code.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charlm.config import MAX_JSON_BYTES, dump_json, parse_json
from charlm.errors import CharlmError, DataError, InputOutputError, MissingInputError
from charlm.system.disk import REPLACED_PREFIX, read_at_most, write_folder

logger = logging.getLogger("charlm")

FORMAT = 1
CONFIG, MODEL, TOKENIZER = "config.json", "model.safetensors", "tokenizer.model"
STATE_TENSORS, STATE = "training.safetensors", "training.json"
GRADIENTS = "gradients.safetensors"
"""The rms of gradients on the training text, for dynamic evaluation; only in the best step of a finished run."""
MANIFEST = "manifest.json"
GENERATION_FILES = (CONFIG, MODEL, TOKENIZER)
ALL_FILES = (*GENERATION_FILES, STATE_TENSORS, STATE)
_OPTIONAL = (TOKENIZER, GRADIENTS)
_NEVER_NEGATIVE = ("step", "seconds", "ids_seen", "validation")
# Errors that make a run fall back to another step. Not CharlmError: that includes Ctrl-C while a step is read.
_STEP_ERRORS = (DataError, InputOutputError, MissingInputError)
_STEP_NAME = re.compile(r"step-([0-9]{1,15})")


@dataclass(frozen=True)
class Checkpoint:
    """One step whose files passed their checks: ``files`` by name, and ``config``, the parsed config.json."""

    path: Path
    files: Mapping[str, bytes]
    config: Mapping[str, Any]

    @property
    def step(self) -> int:
        """The number of training steps before it was saved."""
        return int(self.config["step"])

    @property
    def validation(self) -> float | None:
        """Validation loss at this step in nats per character; None if it was not measured at this step."""
        return _validation_of(self.config)

    @property
    def name(self) -> str:
        """The names of run and step, as in "corpus/step-400", or that of an exported model; without the way there."""
        path = self.path.resolve()
        return f"{path.parent.name}/{path.name}" if has_step_name(path) else path.name

    @property
    def is_finished(self) -> bool:
        """Whether training had ended. The checkpoint must be opened with the file ``STATE``."""
        training = parse_json(self.files[STATE], str(self.path / STATE))
        return isinstance(training, dict) and training.get("finished") is True

    def precision_costs(self) -> dict[str, float]:
        """Nats per character that faster precisions cost, as measured when it was saved; empty if they were not."""
        costs = self.config.get("precision_costs")
        if not isinstance(costs, dict):
            return {}
        return {name: float(cost) for name, cost in costs.items() if type(cost) in (int, float)}


def _validation_of(config: Mapping[str, Any]) -> float | None:
    loss: Any = config.get("validation")
    return float(loss) if type(loss) in (int, float) and math.isfinite(loss) else None


def save_step(run: Path, step: int, files: Mapping[str, bytes]) -> Path:
    """Write ``run/step-<step>`` with ``files`` and a manifest; an older version of the same step is replaced.

    When this returns, the step survives a power cut. Raises ``InputOutputError`` where writing fails; then nothing new
    is left behind and earlier steps are still there.
    """
    final = run / f"step-{step}"
    try:
        write_folder(final, with_manifest(files))
    except OSError as error:
        raise InputOutputError(
            f"{final} could not be saved ({error.strerror or error}); make room or fix the disk, "
            "then continue with charlm train --resume"
        ) from None
    return final


def with_manifest(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """``files`` and, as the last entry, the manifest of their sizes and digests."""
    entries = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    return {**files, MANIFEST: dump_json({"format": FORMAT, "files": entries, "sha256": _entries_digest(entries)})}


def _entries_digest(entries: Any) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def open_checkpoint(path: Path, prefer: str = "best", names: Iterable[str] = GENERATION_FILES) -> Checkpoint:
    """Open a run or one of its steps and check the files ``names``.

    In a run, ``prefer="best"`` opens the step with the lowest validation loss (the latest step if none has one),
    ``prefer="latest"`` the newest. A step that fails its checks is skipped with a warning. If ``path`` is a
    step, there is no fallback to another. Raises ``MissingInputError`` or ``DataError``.
    """
    if not path.exists():
        raise MissingInputError(
            f"{path} does not exist; name a run or one of its steps, or train one: charlm train FILE"
        )
    if not path.is_dir():
        raise DataError(f"{path} is a file, but a charlm checkpoint is a folder; name a run or one of its steps")
    steps = step_folders(path)
    if (path / MANIFEST).exists() or (not steps and _STEP_NAME.fullmatch(path.name)):
        return _read(path, names)
    if not steps:
        if run := next((each for each in sorted(path.iterdir()) if each.is_dir() and step_folders(each)), None):
            raise MissingInputError(f"{path} is a folder of runs; name one of them, such as {run}")
        raise MissingInputError(
            f"{path} has no checkpoint yet; wait if it is being trained, or name another run or one of its steps"
        )
    return _first_valid(path, _ordered(steps, prefer), names)


def _first_valid(run: Path, candidates: list[Path], names: Iterable[str]) -> Checkpoint:
    first_error: CharlmError | None = None
    for candidate in candidates:
        try:
            checkpoint = _read(candidate, names)
        except _STEP_ERRORS as error:
            logger.warning("%s is skipped: %s", candidate, error)
            first_error = first_error or error
        else:
            return checkpoint
    raise DataError(f"{run} has no checkpoint that passes its checks; first error: {first_error}")


def _ordered(steps: list[tuple[int, Path]], prefer: str) -> list[Path]:
    newest_first = [path for _, path in sorted(steps, reverse=True)]
    if prefer == "latest":
        return newest_first
    losses = {path: _validation_or_infinity(path) for path in newest_first}
    # sorted() is stable: among steps with equal losses, or without a loss, the newest comes first.
    return sorted(newest_first, key=lambda path: losses[path])


def _validation_or_infinity(path: Path) -> float:
    try:
        loss = _validation_of(_read(path, (CONFIG,)).config)
    except _STEP_ERRORS:
        return math.inf
    return math.inf if loss is None else loss


def step_folders(run: Path) -> list[tuple[int, Path]]:
    """Number and folder of every step of ``run``, ascending, whether or not it passes its checks."""
    found = {}
    try:
        entries = sorted(run.iterdir())
    except OSError as error:
        raise MissingInputError(f"{run} cannot be read ({error.strerror}); check its permissions") from None
    for entry in entries:  # REPLACED_PREFIX sorts before "step-", so the new version takes precedence over the old one
        match = _STEP_NAME.fullmatch(entry.name.removeprefix(REPLACED_PREFIX))
        if match:
            found[int(match[1])] = entry
    return sorted(found.items())


def has_step_name(path: Path) -> bool:
    """Whether ``path`` has the name of a step."""
    return _STEP_NAME.fullmatch(path.name) is not None


def has_training_state(path: Path) -> bool:
    """Whether the step or exported model ``path`` has the files to resume training."""
    return STATE in _read_manifest(path)


def _read(path: Path, names: Iterable[str]) -> Checkpoint:
    entries = _read_manifest(path)
    wanted = [name for name in names if name in entries or name not in _OPTIONAL]
    files = {name: _read_file(path, name, entries) for name in wanted}
    config = parse_json(files.get(CONFIG) or _read_file(path, CONFIG, entries), f"{path / CONFIG}")
    if not isinstance(config, dict) or type(config.get("format")) is not int or type(config.get("step")) is not int:
        raise DataError(f"{path / CONFIG} lacks `format` or `step`, so it is not a charlm checkpoint; use another step")
    _refuse_newer(path, config["format"])
    for name in _NEVER_NEGATIVE:
        number = config.get(name)
        if isinstance(number, (int, float)) and number < 0:
            raise DataError(f"{path / CONFIG}: {name} is {number:g}, which is out of range; use another step")
    return Checkpoint(path, files, config)


def _refuse_newer(path: Path, version: int) -> None:
    if version > FORMAT:
        raise DataError(f"{path} was saved by a newer charlm (format {version}); update charlm to open it")


def _read_manifest(path: Path) -> dict[str, Any]:
    where = path / MANIFEST
    try:
        manifest = parse_json(read_at_most(where, MAX_JSON_BYTES + 1), str(where))
    except FileNotFoundError:
        raise DataError(
            f"{path} has no {MANIFEST}: it is not a charlm checkpoint, or an incomplete one; use another step"
        ) from None
    except OSError as error:
        raise InputOutputError(f"{where} could not be read ({error.strerror}); check the disk") from None
    if not isinstance(manifest, dict) or type(manifest.get("format")) is not int:
        raise DataError(f"{where} is not a manifest of charlm; restore it from a backup or use another step")
    _refuse_newer(path, manifest["format"])
    entries = manifest.get("files")
    # Compared exactly, so that every flipped bit is noticed.
    if not isinstance(entries, dict) or manifest != {
        "format": FORMAT,
        "files": entries,
        "sha256": _entries_digest(entries),
    }:
        raise DataError(f"{where} is damaged; restore it from a backup or use another step")
    return entries


def _read_file(path: Path, name: str, entries: Mapping[str, Any]) -> bytes:
    where = path / name
    entry = entries.get(name)
    if not isinstance(entry, dict):
        raise DataError(f"{path} lacks {name}, which is needed here; use another step")
    try:
        size = where.stat().st_size
        size_is_valid = size == entry.get("bytes") and (size <= MAX_JSON_BYTES or not name.endswith(".json"))
        data = read_at_most(where, size + 1) if size_is_valid else b""
    except FileNotFoundError:
        raise DataError(f"{where} is missing; restore it from a backup or use another step") from None
    except OSError as error:
        raise InputOutputError(f"{where} could not be read ({error.strerror}); check the disk") from None
    if not size_is_valid or hashlib.sha256(data).hexdigest() != entry.get("sha256"):
        raise DataError(
            f"{where} is damaged (its content is not what was saved); restore it from a backup or use another step"
        )
    return data
