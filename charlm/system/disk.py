"""Atomic writes: files and folders that are complete or absent, and survive a power cut once they are written."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

UNFINISHED_PREFIX = ".unfinished-"
"""Prefix of the name of a file or folder while it is being written."""
REPLACED_PREFIX = ".aside-"
"""Prefix of the name of a folder's old version while the new version takes its place."""
_NOT_SUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What ``fsync`` of a folder fails with on file systems that do not have it."""


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an ``OSError`` of a read or write, which has no file name, that of ``path``."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_folder(final: Path, files: Mapping[str, bytes], replace: bool = True) -> None:
    """Write a folder of ``files`` as ``final``, completely or not at all; with ``replace``, over an older version.

    The files are written in the order given, each with fsync, into a folder with another name. That folder is renamed
    to ``final``, and the parent folder is synced. Raises ``OSError`` where this fails; then nothing new is left behind.
    """
    unfinished, replaced = (final.with_name(f"{prefix}{final.name}") for prefix in (UNFINISHED_PREFIX, REPLACED_PREFIX))
    try:
        remove(unfinished)
        unfinished.mkdir()
        for name, data in files.items():
            _create_synced(unfinished / name, data)
        _sync_folder(unfinished)
        if replace and final.exists():
            remove(replaced)
            final.rename(replaced)
        unfinished.rename(final)  # from here on the new folder is valid
        _sync_folder(final.parent)
        remove(replaced)
    except BaseException:  # after Ctrl-C, too, nothing is left behind
        with contextlib.suppress(OSError):
            remove(unfinished)
        raise


def _create_synced(path: Path, data: bytes) -> None:
    with naming(path), open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_synced(path: Path, data: bytes) -> None:
    """Replace the content of the file ``path`` with ``data``, completely or not at all. Raises ``OSError``."""
    unfinished = path.with_name(f"{UNFINISHED_PREFIX}{path.name}")
    unfinished.unlink(missing_ok=True)
    try:
        _create_synced(unfinished, data)
        unfinished.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of ``path`` at the end, if nothing is raised. Raises ``OSError``.

    Anyone may write to the folder, such as /tmp: no link there is followed. A device or a pipe is written directly,
    because a file must not take its place.
    """
    if path.exists() and not path.is_file():
        with naming(path), open(path, "wb") as special:
            yield special
        return
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    unfinished.unlink(missing_ok=True)
    try:
        with naming(path), open(unfinished, "xb", opener=open_without_links) as file:  # "x" is O_EXCL
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def sync_folders(folders: Iterable[Path]) -> None:
    """Make new folders survive a power cut: their entries, and their own entries in their parents."""
    for folder in folders:
        _sync_folder(folder)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder; its renames are journalled
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with naming(folder):
            os.fsync(handle)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Delete a folder or a file if it exists; the target of a link is not deleted."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def open_without_links(path: str, flags: int) -> int:
    """An opener for ``open`` that follows no link, which could leave the run, and does not block on a pipe."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_at_most(path: Path, size: int) -> bytes:
    """The first ``size`` bytes of a file. Raises ``OSError``, also for a pipe or a device, which may never end."""
    with naming(path), open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return file.read(size) or b""  # None where reading would block
