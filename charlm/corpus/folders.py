"""The files of a folder that a training or an evaluation reads."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

logger = logging.getLogger("charlm")


@dataclass
class _Walk:
    """What is below a folder."""

    files: list[tuple[str, ...]] = field(default_factory=list)
    """Paths relative to the folder, in parts."""
    links: list[tuple[str, ...]] = field(default_factory=list)
    """Those that are links to files."""
    linked: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def visible_files(folder: Path) -> list[Path]:
    """All files below ``folder``, sorted by path, except hidden files and runs of charlm.

    A file that several names lead to by links is there once. Folders that are links, and those that cannot be read,
    are left out, which is logged.
    """
    walk = _Walk()
    _walk(folder, (), walk)
    files = [folder.joinpath(*parts) for parts in sorted(walk.files + _unread(folder, walk))]
    warn_of(
        walk.linked,
        "did not enter {} that is a link",
        "did not enter {} that are links",
        "to read it, name it",
        "folder",
    )
    warn_of(walk.unreadable, "could not read {}", "could not read {}", "check the permissions", "folder")
    return files


def _walk(folder: Path, parents: tuple[str, ...], walk: _Walk) -> None:
    try:
        with os.scandir(folder) as scanned:
            entries = list(scanned)
    except OSError:
        walk.unreadable.append(str(folder))
        return
    if any(entry.name == ".lock" for entry in entries) and (folder / "corpus").is_dir():
        return  # a run
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if entry.is_symlink():
                walk.linked.append(entry.path)
            else:
                _walk(Path(entry.path), (*parents, entry.name), walk)
        elif entry.is_file():
            (walk.links if entry.is_symlink() else walk.files).append((*parents, entry.name))


def _unread(folder: Path, walk: _Walk) -> list[tuple[str, ...]]:
    """The links to files that no other name leads to."""
    if not walk.links:
        return []
    seen = {_identity(folder, parts) for parts in walk.files}
    found = []
    for parts in sorted(walk.links):
        identity = _identity(folder, parts)
        if identity not in seen:
            seen.add(identity)
            found.append(parts)
    return found


def _identity(folder: Path, parts: tuple[str, ...]) -> tuple[int, int]:
    status = folder.joinpath(*parts).stat()
    return status.st_dev, status.st_ino


def warn_of(names: Sequence[str], one: str, several: str, advice: str = "", noun: str = "file") -> None:
    """Log a warning that counts ``names`` and names the first; nothing if there is none.

    ``one`` and ``several`` are the sentence for one name and for several; {} in it is their number and ``noun``.
    """
    if not names:
        return
    shown = ", ".join(names[:3])[:200] + (", ..." if len(names) > 3 else "")
    sentence = one.format(f"1 {noun}") if len(names) == 1 else several.format(f"{len(names):,} {noun}s")
    logger.warning("%s: %s%s", sentence, shown, f"; {advice}" if advice else "")
