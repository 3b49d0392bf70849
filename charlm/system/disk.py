"""Files and folders that are whole or absent, and survive a power cut once they are there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

UNFINISHED = ".unfinished-"
"""How the name of what is being written begins."""
ASIDE = ".aside-"
"""And, for a moment, of what is being replaced by a newer version of itself."""


def write_folder(final: Path, files: Mapping[str, bytes], replace: bool = True) -> None:
    """Write a folder of ``files`` as ``final``, whole or not at all; an older version of it goes if ``replace``.

    It is written aside, file by file with fsync and in the order given, then renamed into place, and the folder around
    it synced. Raises ``OSError`` where the disk refuses; then nothing new is left behind.
    """
    unfinished, aside = (final.with_name(f"{prefix}{final.name}") for prefix in (UNFINISHED, ASIDE))
    try:
        remove(unfinished)
        unfinished.mkdir()
        for name, data in files.items():
            _write_synced(unfinished / name, data)
        _sync_folder(unfinished)
        if replace and final.exists():
            remove(aside)
            final.rename(aside)
        unfinished.rename(final)
        _sync_folder(final.parent)
        remove(aside)
    except BaseException:  # Ctrl-C, too, leaves nothing behind
        with contextlib.suppress(OSError):
            remove(unfinished)
        raise


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_synced(path: Path, data: bytes) -> None:
    """Replace the file ``path`` by ``data``, whole or not at all. Raises ``OSError``."""
    unfinished = path.with_name(f"{UNFINISHED}{path.name}")
    unfinished.unlink(missing_ok=True)
    try:
        _write_synced(unfinished, data)
        unfinished.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def sync_made(folders: Iterable[Path]) -> None:
    """Let folders that were just made survive a power cut: what they hold, and their names in their parents."""
    for folder in folders:
        _sync_folder(folder)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows has no handle on a folder; its renames are journalled
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Delete a folder, or whatever else has its name; what a link points to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def open_own(path: str, flags: int) -> int:
    """Open without following a link out of the run, and without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)


def read_at_most(where: Path, size: int) -> bytes:
    """The first ``size`` bytes of a file. Raises ``OSError``, also for a pipe or a device, which might never end."""
    with open(where, "rb", opener=lambda path, flags: os.open(path, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return file.read(size) or b""  # None where reading would have to wait
