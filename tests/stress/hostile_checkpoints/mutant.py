"""A run that is being changed: its files, what was done to them, who must refuse them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from charlm.checkpoint.step import (
    ALL_FILES,
    CONFIG,
    FORMAT,
    GENERATION_FILES,
    MANIFEST,
    STATE,
    STATE_TENSORS,
    TOKENIZER,
)
from stress.hostile_checkpoints.openers import OPENERS

CORPUS, METRICS, LOCK = "corpus/corpus.json", "metrics.jsonl", ".lock"


@dataclass(frozen=True)
class Link:
    """A symbolic link under a file's name."""

    target: str


@dataclass(frozen=True)
class Odd:
    """No file at all under a file's name: a "pipe" or a "folder"."""

    kind: str


Content = Any
"""bytes, a ``Link`` or an ``Odd``."""


@dataclass
class Mutant:
    """A run being changed. ``files`` are named by their paths in the run; ``step`` is the folder of its checkpoint."""

    original: Mapping[str, bytes]
    step: str
    sealed: bool
    marker: Path
    """A file that comes into being when code in a checkpoint runs."""
    files: dict[str, Content] = field(default_factory=dict)
    what: list[str] = field(default_factory=list)
    refused_by: set[str] = field(default_factory=set)
    """Openers that must refuse, even though the manifest is right."""
    codes: set[int] = field(default_factory=lambda: {65})
    """Exit codes that are right."""
    entries: dict[str, Any] | None = None
    """What the manifest is to say; None for the truth."""

    def __post_init__(self) -> None:
        self.files = dict(self.original)

    def path(self, name: str) -> str:
        """The path of a checkpoint's file."""
        return f"{self.step}/{name}"

    def readers(self, path: str) -> set[str]:
        """Which openers read a file."""
        if path in {self.path(name) for name in (*GENERATION_FILES, MANIFEST)}:
            return set(OPENERS)
        checked_by_resume = {self.path(STATE), self.path(STATE_TENSORS), CORPUS, "corpus/tokenizer.model"}
        return {"resume"} if path in checked_by_resume else set()

    def put(self, path: str, content: Content, refused: bool = False) -> None:
        """Replace a file; with ``refused`` all who read it must refuse it."""
        self.files[path] = content
        self.what.append(f"{path} = {content!r:.60}")
        if refused:
            self.refused_by |= self.readers(path)
        if not isinstance(content, bytes):
            self.codes |= {66, 74}
        if path == LOCK:
            self.codes |= {73}

    def json(self, path: str) -> Any:
        """A file's JSON, to be changed and put back."""
        return json.loads(self.files[path])

    def put_json(self, path: str, values: Any, refused: bool = False) -> None:
        """Write JSON, with NaN and Infinity where ``values`` have them; what the manifest says is sealed later."""
        if path == self.path(MANIFEST):
            self.entries = values.get("files", {}) if isinstance(values, dict) else {}
        self.put(path, (json.dumps(values, indent=2, sort_keys=True) + "\n").encode(), refused)

    def seen(self, path: str) -> bytes:
        """The bytes that whoever opens a file gets; none where they have no end or there are none."""
        content = self.files.get(path, b"")
        if isinstance(content, Link):
            sibling = f"{path.rpartition('/')[0]}/{content.target}"
            if sibling != path and isinstance(self.files.get(sibling), bytes):
                return self.files[sibling]
            target = Path(content.target)
            with contextlib.suppress(OSError):
                return target.read_bytes() if target.is_absolute() and target.is_file() else b""
        return content if isinstance(content, bytes) else b""

    def changed(self) -> set[str]:
        """Paths that are no longer what they were."""
        paths = {*self.original, *self.files}
        return {p for p in paths if p not in self.files or p not in self.original or self.seen(p) != self.original[p]}


def seal(mutant: Mutant, draw: random.Random) -> None:
    """Make the digests true again, as an attacker would."""
    tokenizer, config, manifest = (mutant.path(name) for name in (TOKENIZER, CONFIG, MANIFEST))
    changed = mutant.changed()
    if tokenizer in changed and config not in changed:
        _seal_tokenizer(mutant, config, mutant.seen(tokenizer))
        if draw.random() < 0.5:
            mutant.files["corpus/tokenizer.model"] = mutant.files.get(tokenizer, b"")
            _seal_tokenizer(mutant, CORPUS, mutant.seen(tokenizer))
    if manifest in changed and mutant.entries is None:
        return
    entries = mutant.entries
    if entries is None:
        present = [name for name in ALL_FILES if mutant.path(name) in mutant.files]
        entries = {name: entry(mutant.seen(mutant.path(name))) for name in present}
    sealed = {"format": FORMAT, "files": entries, "sha256": _digest(entries)}
    mutant.files[manifest] = (json.dumps(sealed, indent=2, sort_keys=True) + "\n").encode()


def _seal_tokenizer(mutant: Mutant, path: str, model: bytes) -> None:
    values = mutant.json(path)
    values["tokenizer"]["sha256"] = hashlib.sha256(model).hexdigest()
    mutant.files[path] = json.dumps(values).encode()


def entry(data: bytes) -> dict[str, Any]:
    """What a manifest says of a file."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _digest(entries: Any) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def lay_out(mutant: Mutant, run: Path) -> Path:
    """Write the run where nothing of the last one is left."""
    if run.exists():
        shutil.rmtree(run)
    for name, content in mutant.files.items():
        path = run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, Link):
            path.symlink_to(content.target)
        elif content.kind == "pipe":
            os.mkfifo(path)
        else:
            path.mkdir()
    return run
