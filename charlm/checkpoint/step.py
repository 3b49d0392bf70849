"""Checkpoints: directories that are whole or absent.

A run is a folder of steps, ``run/step-N/``. A step is written aside, its manifest of sizes and SHA-256 digests last,
synced, and renamed into place (``disk.write_folder``). Only after that is it reported as saved. Whoever reads a file
checks it against the manifest first. No pickle: tensors are safetensors, everything else strict JSON, so opening a
stranger's checkpoint runs no code.
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
from charlm.system.disk import ASIDE, read_at_most, write_folder

logger = logging.getLogger("charlm")

FORMAT = 1
CONFIG, MODEL, TOKENIZER = "config.json", "model.safetensors", "tokenizer.model"
STATE_TENSORS, STATE = "training.safetensors", "training.json"
GRADIENTS = "gradients.safetensors"
"""The rms of gradients on the training text, which dynamic evaluation needs; in the best step of a finished run."""
MANIFEST = "manifest.json"
GENERATION_FILES = (CONFIG, MODEL, TOKENIZER)
ALL_FILES = (*GENERATION_FILES, STATE_TENSORS, STATE)
_OPTIONAL = (TOKENIZER, GRADIENTS)
# What makes a step be passed over. Ctrl-C while one is read is a CharlmError, too, but says nothing about the step.
_UNUSABLE = (DataError, InputOutputError, MissingInputError)
_STEP_NAME = re.compile(r"step-([0-9]{1,15})")


@dataclass(frozen=True)
class Checkpoint:
    """One step, checked: ``files`` holds the bytes that were asked for, ``config`` the parsed config.json."""

    path: Path
    files: Mapping[str, bytes]
    config: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Training steps behind these weights."""
        return int(self.config["step"])

    @property
    def validation(self) -> float | None:
        """Validation loss at this step in nats per character; None if it was not evaluated here."""
        return _validation_of(self.config)


def _validation_of(config: Mapping[str, Any]) -> float | None:
    loss: Any = config.get("validation")
    return float(loss) if type(loss) in (int, float) and math.isfinite(loss) else None


def save_step(run: Path, step: int, files: Mapping[str, bytes]) -> Path:
    """Write ``run/step-<step>`` with ``files``; an older version of the same step is replaced.

    When this returns, the step survives a power cut. Raises ``InputOutputError`` where the disk refuses; then nothing
    new is left behind and what was saved before still stands.
    """
    final = run / f"step-{step}"
    try:
        write_folder(final, with_manifest(files))
    except OSError as error:
        raise InputOutputError(
            f"{final} could not be saved ({error.strerror or error}); make room or mend the disk, "
            "then go on with charlm train --resume"
        ) from None
    return final


def with_manifest(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """``files`` and, last, the manifest of their sizes and digests."""
    entries = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    return {**files, MANIFEST: dump_json({"format": FORMAT, "files": entries, "sha256": _entries_digest(entries)})}


def _entries_digest(entries: Any) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def open_checkpoint(path: Path, prefer: str = "best", names: Iterable[str] = GENERATION_FILES) -> Checkpoint:
    """Open a run or one of its steps and check the files ``names``.

    Of a run, the step with the lowest validation loss is taken (``prefer="best"``; the latest if none has one) or the
    newest (``prefer="latest"``); one that fails its checks is passed over with a warning. A step named directly is
    taken or refused. Raises ``MissingInputError`` or ``DataError``.
    """
    if not path.exists():
        raise MissingInputError(
            f"{path} does not exist; name a run or one of its steps, or train one: charlm train FILE"
        )
    if not path.is_dir():
        raise DataError(f"{path} is a file; a charlm checkpoint is a folder (other programs' files are never opened)")
    steps = steps_of(path)
    if (path / MANIFEST).exists() or (not steps and _STEP_NAME.fullmatch(path.name)):
        return _read(path, names)
    if not steps:
        raise MissingInputError(f"{path} has no checkpoint in it yet; name a run of charlm train, or train one")
    return _first_valid(path, _ranked(steps, prefer), names)


def _first_valid(run: Path, candidates: list[Path], names: Iterable[str]) -> Checkpoint:
    first_error: CharlmError | None = None
    for candidate in candidates:
        try:
            checkpoint = _read(candidate, names)
        except _UNUSABLE as error:
            logger.warning("%s is passed over: %s", candidate, error)
            first_error = first_error or error
        else:
            return checkpoint
    raise DataError(f"{run} has no checkpoint that passes its checks; the best of them fails so: {first_error}")


def _ranked(steps: list[tuple[int, Path]], prefer: str) -> list[Path]:
    newest_first = [path for _, path in sorted(steps, reverse=True)]
    if prefer == "latest":
        return newest_first
    losses = {path: _peek_validation(path) for path in newest_first}
    # sorted() is stable: among equals, and among those without a loss, the newest comes first.
    return sorted(newest_first, key=lambda path: losses[path])


def _peek_validation(path: Path) -> float:
    try:
        loss = _validation_of(_read(path, (CONFIG,)).config)
    except _UNUSABLE:
        return math.inf
    return math.inf if loss is None else loss


def steps_of(run: Path) -> list[tuple[int, Path]]:
    found = {}
    try:
        entries = sorted(run.iterdir())
    except OSError as error:
        raise MissingInputError(f"{run} cannot be read ({error.strerror}); check its permissions") from None
    for entry in entries:  # ".aside-" sorts before "step-", so a finished step takes precedence over its older version
        match = _STEP_NAME.fullmatch(entry.name.removeprefix(ASIDE))
        if match:
            found[int(match[1])] = entry
    return sorted(found.items())


def is_step(path: Path) -> bool:
    """Whether ``path`` has the name of a step."""
    return _STEP_NAME.fullmatch(path.name) is not None


def has_training_state(path: Path) -> bool:
    """Whether the step or export ``path`` was saved with what a training needs to go on."""
    return STATE in _read_manifest(path)


def step_numbers(run: Path) -> list[int]:
    """The steps a run has, ascending, whether or not they pass their checks."""
    return [step for step, _ in steps_of(run)] if run.is_dir() else []


def _read(path: Path, names: Iterable[str]) -> Checkpoint:
    entries = _read_manifest(path)
    wanted = [name for name in names if name in entries or name not in _OPTIONAL]
    files = {name: _read_file(path, name, entries) for name in wanted}
    config = parse_json(files.get(CONFIG) or _read_file(path, CONFIG, entries), f"{path / CONFIG}")
    if not isinstance(config, dict) or type(config.get("format")) is not int or type(config.get("step")) is not int:
        raise DataError(f"{path / CONFIG} does not say its format and step; it is no charlm checkpoint")
    _refuse_newer(path, config["format"])
    return Checkpoint(path, files, config)


def _refuse_newer(path: Path, version: int) -> None:
    if version > FORMAT:
        raise DataError(f"{path} was saved by a newer charlm (format {version}); update charlm to open it")


def _read_manifest(path: Path) -> dict[str, Any]:
    where = path / MANIFEST
    try:
        manifest = parse_json(read_at_most(where, MAX_JSON_BYTES + 1), str(where))
    except FileNotFoundError:
        raise DataError(f"{path} has no {MANIFEST}: it is no charlm checkpoint, or not a whole one") from None
    except OSError as error:
        raise InputOutputError(f"{where} could not be read: {error.strerror}") from None
    if not isinstance(manifest, dict) or type(manifest.get("format")) is not int:
        raise DataError(f"{where} is no manifest of charlm's; restore it from a backup or use another step")
    _refuse_newer(path, manifest["format"])
    entries = manifest.get("files")
    # Exactly this, so that no flipped bit goes unnoticed.
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
        raise DataError(f"{path} was saved without {name}; it cannot be used for this")
    try:
        size = where.stat().st_size
        whole = size == entry.get("bytes") and (size <= MAX_JSON_BYTES or not name.endswith(".json"))
        data = read_at_most(where, size + 1) if whole else b""
    except FileNotFoundError:
        raise DataError(f"{where} is missing; restore it from a backup or use another step") from None
    except OSError as error:
        raise InputOutputError(f"{where} could not be read: {error.strerror}") from None
    if not whole or hashlib.sha256(data).hexdigest() != entry.get("sha256"):
        raise DataError(f"{where} is damaged (its content is not what was saved); restore it or use another step")
    return data
