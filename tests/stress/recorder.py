"""Watches a program: every call that changes files, with its data, and every promise that a save is safe."""

import builtins
import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charlm.checkpoint.run_folder import keep_only
from charlm.checkpoint.step import save_step
from charlm.training import saving

# ------------------------------------------------------------------------------------------------------------ calls


@dataclass(frozen=True)
class Call:
    """A call to the file system: create, write, fsync, open (of a folder), mkdir, rename, unlink or rmdir."""

    name: str
    path: Path
    target: Path | None = None
    data: bytes = b""


Around = Callable[[Call, Callable[..., Any]], Any]
_WATCHED = {
    "mkdir": "mkdir", "rename": "rename", "replace": "rename", "unlink": "unlink", "rmdir": "rmdir", "open": "open",
    "fsync": "fsync",
}  # fmt: skip


@contextlib.contextmanager
def watched(root: Path, around: Around) -> Iterator[None]:
    """Lead every call that changes files under ``root`` through ``around(call, perform)``; paths are relative to it.

    ``perform()`` makes the call; of a write, ``perform(data)`` writes other data.
    """
    # Until Python 3.10 pathlib keeps the functions of os in a place of its own.
    owners = [os, *([type(pathlib._normal_accessor)] if hasattr(pathlib, "_normal_accessor") else [])]
    with contextlib.ExitStack() as undo:
        for owner in owners:
            for name, called in _WATCHED.items():
                if name != "open" or owner is os:
                    _replace(undo, owner, name, _around_function(getattr(os, name), called, root, around))
        _replace(undo, builtins, "open", _around_open(builtins.open, root, around))
        yield


def _replace(undo: contextlib.ExitStack, owner: Any, name: str, function: Any) -> None:
    undo.callback(setattr, owner, name, owner.__dict__[name])
    setattr(owner, name, staticmethod(function))


def _around_function(genuine: Callable[..., Any], name: str, root: Path, around: Around) -> Callable[..., Any]:
    def call(first, *arguments, **options):
        path = _relative(root, first, options.get("dir_fd"))
        # A file that is opened to be read changes nothing; a folder is opened to be synced or emptied.
        if path is None or (name == "open" and not (root / path).is_dir()):
            return genuine(first, *arguments, **options)
        target = _relative(root, arguments[0]) if name == "rename" else None
        return around(Call(name, path, target), lambda: genuine(first, *arguments, **options))

    return call


def _around_open(genuine: Callable[..., Any], root: Path, around: Around) -> Callable[..., Any]:
    def call(file, mode="r", *arguments, **options):
        path = _relative(root, file) if mode in ("wb", "xb") else None
        if path is None:
            return genuine(file, mode, *arguments, **options)
        opened = around(Call("create", path), lambda: genuine(file, mode, *arguments, **options))
        return _WatchedFile(opened, path, around)

    return call


def _relative(root: Path, path: Any, folder: int | None = None) -> Path | None:
    """Where a path, or an open file, lies below ``root``; None elsewhere."""
    if isinstance(path, int):
        path = _path_of(path)
    if folder is not None:
        path = _path_of(folder) / path
    path = Path(os.fsdecode(path)).absolute()
    return path.relative_to(root) if path.is_relative_to(root) else None


def _path_of(handle: int) -> Path:
    return Path(f"/proc/self/fd/{handle}").readlink()


class _WatchedFile:
    """A file being written, whose every write really happens at once."""

    def __init__(self, file: Any, path: Path, around: Around) -> None:
        self._file, self._path, self._around = file, path, around
        self.flush, self.fileno, self.close = file.flush, file.fileno, file.close

    def write(self, data: bytes) -> int:
        return self._around(Call("write", self._path, data=bytes(data)), lambda part=data: self._write(part))

    def _write(self, data: bytes) -> int:
        written = self._file.write(data)
        self._file.flush()
        return written

    def __enter__(self) -> "_WatchedFile":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


# --------------------------------------------------------------------------------------------------------- promises


@dataclass(frozen=True)
class Begun:
    """A save of ``files`` has begun."""

    step: int
    files: dict[str, bytes]


@dataclass(frozen=True)
class Acknowledged:
    """The save that was begun last is said to be safe."""


@dataclass(frozen=True)
class Released:
    """From now on only ``kept`` steps are needed."""

    kept: frozenset[int]


def replace_saves(save: Callable[..., Any], keep: Callable[..., Any]) -> None:
    """Put others in the place of ``save_step`` and ``keep_only`` wherever a training calls them."""
    saving.save_step = save
    saving.keep_only = keep


@contextlib.contextmanager
def noted_promises(note: Callable[[Begun | Acknowledged | Released], None]) -> Iterator[None]:
    """Tell ``note`` of every ``save_step`` that begins and returns, and of every ``keep_only``."""

    def saving(run, step, files):
        note(Begun(step, dict(files)))
        path = save_step(run, step, files)
        note(Acknowledged())
        return path

    def keeping(run, steps):
        note(Released(frozenset(steps)))
        keep_only(run, steps)

    replace_saves(saving, keeping)
    try:
        yield
    finally:
        replace_saves(save_step, keep_only)
