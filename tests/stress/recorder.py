"""Intercepts every call that changes files, with its data, and records when saves start and return."""

import builtins
import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charlm.checkpoint.run_folder import RunFolder
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


Interceptor = Callable[[Call, Callable[..., Any]], Any]
_WATCHED = {
    "mkdir": "mkdir", "rename": "rename", "replace": "rename", "unlink": "unlink", "rmdir": "rmdir", "open": "open",
    "fsync": "fsync",
}  # fmt: skip


@contextlib.contextmanager
def intercept_calls(root: Path, around: Interceptor) -> Iterator[None]:
    """Pass every call that changes files under ``root`` to ``around(call, perform)``; paths are relative to ``root``.

    ``perform()`` makes the call; for a write, ``perform(data)`` writes other data.
    """
    # Up to Python 3.10 pathlib holds its own references to the functions of os.
    owners = [os, *([type(pathlib._normal_accessor)] if hasattr(pathlib, "_normal_accessor") else [])]
    with contextlib.ExitStack() as undo:
        for owner in owners:
            for name, called in _WATCHED.items():
                if name != "open" or owner is os:
                    _replace(undo, owner, name, _intercept_function(getattr(os, name), called, root, around))
        _replace(undo, builtins, "open", _intercept_open(builtins.open, root, around))
        yield


def _replace(undo: contextlib.ExitStack, owner: Any, name: str, function: Any) -> None:
    undo.callback(setattr, owner, name, owner.__dict__[name])
    setattr(owner, name, staticmethod(function))


def _intercept_function(original: Callable[..., Any], name: str, root: Path, around: Interceptor) -> Callable[..., Any]:
    def call(first, *arguments, **options):
        path = _relative(root, first, options.get("dir_fd"))
        # Opening a file for reading changes nothing; a folder is opened to be synced or emptied.
        if path is None or (name == "open" and not (root / path).is_dir()):
            return original(first, *arguments, **options)
        target = _relative(root, arguments[0]) if name == "rename" else None
        return around(Call(name, path, target), lambda: original(first, *arguments, **options))

    return call


def _intercept_open(original: Callable[..., Any], root: Path, around: Interceptor) -> Callable[..., Any]:
    def call(file, mode="r", *arguments, **options):
        path = _relative(root, file) if mode in ("wb", "xb") else None
        if path is None:
            return original(file, mode, *arguments, **options)
        opened = around(Call("create", path), lambda: original(file, mode, *arguments, **options))
        return _InterceptedFile(opened, path, around)

    return call


def _relative(root: Path, path: Any, folder: int | None = None) -> Path | None:
    """The path of a path or an open file relative to ``root``; None if it is not below ``root``."""
    if isinstance(path, int):
        path = _path_of(path)
    if folder is not None:
        path = _path_of(folder) / path
    path = Path(os.fsdecode(path)).absolute()
    return path.relative_to(root) if path.is_relative_to(root) else None


def _path_of(handle: int) -> Path:
    return Path(f"/proc/self/fd/{handle}").readlink()


class _InterceptedFile:
    """A file opened for writing that flushes after each write."""

    def __init__(self, file: Any, path: Path, around: Interceptor) -> None:
        self._file, self._path, self._around = file, path, around
        self.flush, self.fileno, self.close = file.flush, file.fileno, file.close

    def write(self, data: bytes) -> int:
        return self._around(Call("write", self._path, data=bytes(data)), lambda part=data: self._write(part))

    def _write(self, data: bytes) -> int:
        written = self._file.write(data)
        self._file.flush()
        return written

    def __enter__(self) -> "_InterceptedFile":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


# ------------------------------------------------------------------------------------------------------------ saves


@dataclass(frozen=True)
class SaveStarted:
    """A save of ``files`` has started."""

    step: int
    files: dict[str, bytes]


@dataclass(frozen=True)
class SaveReturned:
    """The save that was started last has returned, so its step must survive."""


@dataclass(frozen=True)
class StepsReleased:
    """From now on only the steps in ``kept`` must survive."""

    kept: frozenset[int]


def replace_saves(save: Callable[..., Any], keep: Callable[..., Any]) -> None:
    """Replace ``save_step`` and ``RunFolder.keep_only`` wherever a training calls them."""
    saving.save_step = save
    RunFolder.keep_only = keep


@contextlib.contextmanager
def record_saves(note: Callable[[SaveStarted | SaveReturned | StepsReleased], None]) -> Iterator[None]:
    """Call ``note`` when a ``save_step`` starts or returns, and for every ``keep_only``."""

    def saving(run, step, files):
        note(SaveStarted(step, dict(files)))
        path = save_step(run, step, files)
        note(SaveReturned())
        return path

    keep_only = RunFolder.keep_only

    def keeping(folder, steps):
        note(StepsReleased(frozenset(steps)))
        keep_only(folder, steps)

    replace_saves(saving, keeping)
    try:
        yield
    finally:
        replace_saves(save_step, keep_only)
