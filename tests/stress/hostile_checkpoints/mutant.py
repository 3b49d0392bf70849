"""A mutated run: its files, the changes, and the openers that must refuse it."""

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
    GRADIENTS,
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
class SpecialFile:
    """A "pipe" or a "folder" in place of a file."""

    kind: str


Content = Any
"""bytes, a ``Link`` or an ``SpecialFile``."""


@dataclass
class Mutant:
    """A mutated run. ``files`` maps paths in the run to contents; ``step`` is the folder of its checkpoint."""

    original: Mapping[str, bytes]
    step: str
    sealed: bool
    marker: Path
    """A file that exists once code in a checkpoint has been executed."""
    files: dict[str, Content] = field(default_factory=dict)
    what: list[str] = field(default_factory=list)
    refused_by: set[str] = field(default_factory=set)
    """Openers that must refuse even if the manifest is correct."""
    codes: set[int] = field(default_factory=lambda: {65})
    """The expected exit codes."""
    entries: dict[str, Any] | None = None
    """The entries of the manifest; None for the correct ones."""

    def __post_init__(self) -> None:
        self.files = dict(self.original)

    def path(self, name: str) -> str:
        """The path of a checkpoint's file."""
        return f"{self.step}/{name}"

    def readers(self, path: str) -> set[str]:
        """The openers that read a file."""
        if path in {self.path(name) for name in (*GENERATION_FILES, MANIFEST)}:
            return set(OPENERS)
        if path == self.path(GRADIENTS):
            return {"measure"}
        if path in {CORPUS, "corpus/tokenizer.model"}:
            return {"resume", "measure"}
        return {"resume"} if path in {self.path(STATE), self.path(STATE_TENSORS)} else set()

    def put(self, path: str, content: Content, refused: bool = False) -> None:
        """Replace a file; with ``refused`` every opener that reads it must refuse it."""
        self.files[path] = content
        self.what.append(f"{path} = {content!r:.60}")
        if refused:
            self.refused_by |= self.readers(path)
        if not isinstance(content, bytes):
            self.codes |= {66, 74}
        if path == LOCK:
            self.codes |= {73}

    def json(self, path: str) -> Any:
        """A file's JSON, to be changed and passed to ``put_json``."""
        return json.loads(self.files[path])

    def put_json(self, path: str, values: Any, refused: bool = False) -> None:
        """Write JSON, which may hold NaN and Infinity; the manifest gets its digest later."""
        if path == self.path(MANIFEST):
            self.entries = values.get("files", {}) if isinstance(values, dict) else {}
        self.put(path, (json.dumps(values, indent=2, sort_keys=True) + "\n").encode(), refused)

    def seen(self, path: str) -> bytes:
        """The bytes that a reader of a file gets; empty if there are none or infinitely many."""
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
        """Paths whose contents have changed."""
        paths = {*self.original, *self.files}
        return {p for p in paths if p not in self.files or p not in self.original or self.seen(p) != self.original[p]}


def seal(mutant: Mutant, draw: random.Random) -> None:
    """Make the digests correct again, as an attacker would."""
    tokenizer, config, manifest = (mutant.path(name) for name in (TOKENIZER, CONFIG, MANIFEST))
    changed = mutant.changed()
    if tokenizer in changed and config not in changed:
        _seal_tokenizer(mutant, config, mutant.seen(tokenizer))
        if draw.random() < 0.5:
            mutant.files["corpus/tokenizer.model"] = mutant.files.get(tokenizer, b"")
            _seal_tokenizer(mutant, CORPUS, mutant.seen(tokenizer))
    _seal_corpus(mutant, config, changed, draw)
    if manifest in changed and mutant.entries is None:
        return
    entries = mutant.entries
    if entries is None:
        present = [name for name in (*ALL_FILES, GRADIENTS) if mutant.path(name) in mutant.files]
        entries = {name: entry(mutant.seen(mutant.path(name))) for name in present}
    sealed = {"format": FORMAT, "files": entries, "sha256": _digest(entries)}
    mutant.files[manifest] = (json.dumps(sealed, indent=2, sort_keys=True) + "\n").encode()


def _seal_tokenizer(mutant: Mutant, path: str, model: bytes) -> None:
    values = mutant.json(path)
    values["tokenizer"]["sha256"] = hashlib.sha256(model).hexdigest()
    mutant.files[path] = json.dumps(values).encode()


def _seal_corpus(mutant: Mutant, config: str, changed: set[str], draw: random.Random) -> None:
    """Make the digests of the ids and, half of the time, that of corpus.json correct."""
    ids = [path for path in changed if path.startswith("corpus/") and path.endswith((".ids", ".ends"))]
    if ids and CORPUS not in changed:
        values = mutant.json(CORPUS)
        for path in ids:
            split, _, kind = path.removeprefix("corpus/").partition(".")
            key = "sha256" if kind == "ids" else "ends_sha256"
            values["splits"][split][key] = hashlib.sha256(mutant.seen(path)).hexdigest()
        mutant.files[CORPUS] = json.dumps(values).encode()
    if CORPUS in mutant.changed() and config not in changed and (ids or draw.random() < 0.5):
        values = mutant.json(config)
        values["corpus"]["description_sha256"] = hashlib.sha256(mutant.seen(CORPUS)).hexdigest()
        mutant.files[config] = json.dumps(values).encode()


def entry(data: bytes) -> dict[str, Any]:
    """The manifest's entry for a file."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _digest(entries: Any) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def lay_out(mutant: Mutant, run: Path) -> Path:
    """Write the run into ``run``, which is removed first."""
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
