"""Power cuts: what of a run survives when everything that was not synced may be gone.

The calls to the file system that trainings make are recorded, with their data. A power cut at any point of the record
leaves what was synced before; of the rest it leaves what it likes: a file's unsynced data may be lost, cut or zero, and
of a folder's unsynced creations, renames and removals only the first few, or (harder) any of them, may have happened.
In each such state the run must open at the last step that was reported as saved, with the bytes that were saved.
"""

import builtins
import contextlib
import logging
import os
import pathlib
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import charlm
from charlm import checkpoint as ckpt
from charlm.config import dump_json
from charlm.corpus import open_corpus
from charlm.errors import CharlmError

SEQUENCES, SAVES = 10, 8
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where these campaigns write: what fails, and when, they decide by themselves, so there is no disk to wait for."""


def campaign(states: int = 2000) -> dict[str, int]:
    """``states`` power cuts over ``SEQUENCES`` sequences of saves, and a fifth as many over a whole training."""
    with without_warnings(), tempfile.TemporaryDirectory(dir=IN_MEMORY) as home:
        folder = Path(home).resolve()
        records = [
            _recorded(folder / f"saves-{seed}", lambda run, seed=seed: _saves(run, seed)) for seed in range(SEQUENCES)
        ]
        trained = _recorded(folder / "training", _train)
        truth = _cuts(records, states, folder)
        whole = _cuts([trained], states // 5, folder, "checkpoints/run", corpus=True)
        no_folders = _cuts(
            records, states // 5, folder, forgets=lambda call: call.name == "fsync" and not call.path.parts
        )
        no_files = _cuts(
            records, states // 5, folder, forgets=lambda call: call.name == "fsync" and len(call.path.parts) == 2
        )
    for found in (truth, whole):
        assert (found.lost, found.corrupt, found.left_over) == (0, 0, 0), found
    assert min(no_folders.lost, no_files.lost) > 0, (no_folders, no_files)
    assert no_files.corrupt == no_folders.corrupt == 0, "digests must tell"
    return {
        "states": truth.states,
        "states_with_damaged_steps": truth.damaged,
        "acknowledged_lost": truth.lost,
        "corrupt_loaded": truth.corrupt,
        "whole_run_states": whole.states,
        "whole_runs_lost": whole.lost,
        "without_directory_sync_states": no_folders.states,
        "without_directory_sync_lost": no_folders.lost,
        "without_file_sync_lost": no_files.lost,
    }


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Keep quiet about each damaged step that is passed over, and each line of metrics that could not be written."""
    logger = logging.getLogger("charlm")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


# ---------------------------------------------------------------------------------------------------- watching


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


# ---------------------------------------------------------------------------------------------------- recording


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


Record = list[Call | Begun | Acknowledged | Released]


def _recorded(root: Path, work: Callable[[Path], None]) -> Record:
    """What ``work(root)`` does to the files under ``root``, and what it promises meanwhile."""
    root.mkdir()
    record: Record = []

    def note(call: Call, perform: Callable[..., Any]) -> Any:
        result = perform()
        record.append(call)
        return result

    with watched(root, note), noted_promises(record.append):
        work(root)
    shutil.rmtree(root)
    return record


@contextlib.contextmanager
def noted_promises(note: Callable[[Begun | Acknowledged | Released], None]) -> Iterator[None]:
    """Tell ``note`` of every ``save_step`` that begins and returns, and of every ``keep_only``."""
    save_step, keep_only = ckpt.save_step, ckpt.keep_only

    def saving(run, step, files):
        note(Begun(step, dict(files)))
        path = save_step(run, step, files)
        note(Acknowledged())
        return path

    def keeping(run, steps):
        note(Released(frozenset(steps)))
        keep_only(run, steps)

    ckpt.save_step, ckpt.keep_only = saving, keeping
    try:
        yield
    finally:
        ckpt.save_step, ckpt.keep_only = save_step, keep_only


def _saves(run: Path, seed: int) -> None:
    """Saves as a training makes them: now and then a better one, now and then the same step once more."""
    draw, step, best = random.Random(seed), 0, (9.0, 0)
    for _ in range(SAVES):
        again = step > 0 and draw.random() < 0.3
        step += 0 if again else draw.randint(1, 50)
        validation = round(draw.uniform(1, 3), 3) if draw.random() < 0.6 else None
        if validation is not None and validation < best[0]:
            best = validation, step
        elif again and step == best[1]:
            validation = best[0]
        ckpt.save_step(run, step, _files(step, validation, draw))
        ckpt.keep_only(run, {step, best[1] or step})


def _files(step: int, validation: float | None, draw: random.Random) -> dict[str, bytes]:
    described = {"format": 1, "step": step, "validation": validation}
    contents = {name: draw.randbytes(draw.randint(1, 5000)) for name in ckpt.ALL_FILES}
    return {**contents, ckpt.CONFIG: dump_json(described)}


def _train(root: Path) -> None:
    """A whole training, from the text on, saving often."""
    draw = random.Random(1)
    text = " ".join(draw.choice(["the", "cat", "sat", "on", "a", "mat"]) for _ in range(1500))
    with tempfile.TemporaryDirectory() as elsewhere:
        path = Path(elsewhere) / "text.txt"
        path.write_text(text)
        charlm.train(
            path, out=root / "checkpoints" / "run", layers=1, hidden=16, batch=4, bptt=16, steps=18, eval_every=6,
            save_every="4", threads=1, device="cpu", precision="fp32",
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------------- power cuts


@dataclass(eq=False)
class _File:
    lasting: bytes = b""
    current: bytes = b""

    def after_a_cut(self, draw: random.Random) -> bytes:
        rest = self.current[len(self.lasting) :]
        if not rest:
            return self.lasting
        kept = draw.randint(0, len(rest))
        return self.lasting + draw.choice(
            [b"", rest, rest[:kept], bytes(len(rest)), rest[:kept] + bytes(len(rest) - kept)]
        )


@dataclass(frozen=True)
class _Change:
    """To a folder's entries: ``node`` goes from the name ``before`` to the name ``after``; None is nowhere."""

    node: "_File | _Folder"
    before: str | None
    after: str | None

    def apply(self, entries: dict[str, "_File | _Folder"]) -> None:
        if entries.get(self.before or "") is self.node:
            del entries[self.before]
        if self.after is not None:
            entries[self.after] = self.node


@dataclass(eq=False)
class _Folder:
    lasting: dict[str, "_File | _Folder"] = field(default_factory=dict)
    current: dict[str, "_File | _Folder"] = field(default_factory=dict)
    unsynced: list[_Change] = field(default_factory=list)

    def change(self, node: "_File | _Folder", before: str | None, after: str | None) -> None:
        change = _Change(node, before, after)
        change.apply(self.current)
        self.unsynced.append(change)

    def after_a_cut(self, draw: random.Random, in_order: bool) -> dict[str, "_File | _Folder"]:
        entries, share = dict(self.lasting), draw.random()
        kept = self.unsynced[: draw.randint(0, len(self.unsynced))]
        if not in_order:
            kept = [change for change in self.unsynced if draw.random() < share]
        for change in kept:
            change.apply(entries)
        return entries


class Disk:
    """A file system in memory that knows what of it would survive a power cut."""

    def __init__(self) -> None:
        self._root = _Folder()

    def make(self, call: Call) -> None:
        """Repeat a call that was recorded."""
        folder, name = self._find(call.path.parent), call.path.name
        if call.name == "fsync":
            self._sync(self._find(call.path))
        elif call.name == "write":
            self._find(call.path).current += call.data
        elif call.name in ("create", "mkdir"):
            folder.change(_File() if call.name == "create" else _Folder(), None, name)
        elif call.name == "rename":
            assert call.target is not None
            assert call.target.parent == call.path.parent, "a rename between folders is two changes; none was ever seen"
            folder.change(folder.current[name], name, call.target.name)
        elif call.name in ("unlink", "rmdir"):
            folder.change(folder.current[name], name, None)

    def _find(self, path: Path) -> Any:
        node: Any = self._root
        for part in path.parts:
            node = node.current[part]
        return node

    def _sync(self, node: _File | _Folder) -> None:
        if isinstance(node, _File):
            node.lasting = node.current
        else:
            node.lasting, node.unsynced = dict(node.current), []

    def cut(self, into: Path, draw: random.Random, in_order: bool) -> None:
        """Write a state that a power cut may leave into the folder ``into``."""
        self._write(self._root, into, draw, in_order)

    def _write(self, folder: _Folder, into: Path, draw: random.Random, in_order: bool) -> None:
        into.mkdir()
        for name, node in folder.after_a_cut(draw, in_order).items():
            if isinstance(node, _File):
                (into / name).write_bytes(node.after_a_cut(draw))
            else:
                self._write(node, into / name, draw, in_order)


class _Promises:
    """What has been saved, by step in all its versions, and which version of which step must be there."""

    def __init__(self) -> None:
        self._versions: dict[int, list[dict[str, bytes]]] = {}
        self._promised: dict[int, int] = {}
        self._begun = 0

    def note(self, entry: Begun | Acknowledged | Released) -> None:
        if isinstance(entry, Begun):
            self._versions.setdefault(entry.step, []).append(entry.files)
            self._begun = entry.step
        elif isinstance(entry, Acknowledged):
            self._promised[self._begun] = len(self._versions[self._begun]) - 1
        else:
            self._promised = {step: version for step, version in self._promised.items() if step in entry.kept}

    @property
    def any(self) -> bool:
        return bool(self._promised)

    def are_kept(self, opened: ckpt.Checkpoint, prefer: str) -> bool:
        """Whether ``opened`` is as new, or as good, as it must be."""
        versions = [dict(opened.files) == {name: v[name] for name in opened.files} for v in self._versions[opened.step]]
        new_enough = any(versions[self._promised.get(opened.step, 0) :])
        if prefer == "latest":
            return new_enough and opened.step >= max(self._promised, default=0)
        losses = [self._validation(step) for step in self._promised]
        mine = 9.9 if opened.validation is None else opened.validation
        return new_enough and mine <= min(losses, default=9.9)

    def were_made(self, opened: ckpt.Checkpoint) -> bool:
        """Whether ``opened`` holds, byte by byte, what was once to be saved under its step."""
        return any(dict(opened.files) == {n: v[n] for n in opened.files} for v in self._versions.get(opened.step, []))

    def _validation(self, step: int) -> float:
        config = ckpt.parse_json(self._versions[step][self._promised[step]][ckpt.CONFIG], "")
        return 9.9 if config["validation"] is None else config["validation"]


@dataclass
class _Found:
    states: int = 0
    damaged: int = 0
    lost: int = 0
    corrupt: int = 0
    left_over: int = 0


def _cuts(
    records: list[Record],
    states: int,
    folder: Path,
    run: str = "",
    corpus: bool = False,
    forgets: Callable[[Call], bool] = lambda call: False,
) -> _Found:
    """Cut the power ``states`` times, half of them in order; calls that the disk ``forgets`` have no effect."""
    found = _Found()
    for number in range(states):
        draw = random.Random(number)
        record = records[number % len(records)]
        disk, promises = Disk(), _Promises()
        for entry in record[: draw.randint(0, len(record))]:
            if not isinstance(entry, Call):
                promises.note(entry)
            elif not forgets(entry):
                disk.make(entry)
        disk.cut(folder / "state", draw, in_order=number // len(records) % 2 == 0)
        _look(folder / "state" / run, promises, corpus, found)
        shutil.rmtree(folder / "state")
    return found


def _look(run: Path, promises: _Promises, corpus: bool, found: _Found) -> None:
    """Open the run as it was left, and again after what ``charlm train --resume`` does first."""
    found.states += 1
    found.damaged += any(not _is_whole(run / f"step-{step}") for step in ckpt.step_numbers(run))
    lost = not _opens(run, promises, found) or (corpus and promises.any and not _has_corpus(run))
    if run.is_dir():
        ckpt.clean(run)
        lost = not _opens(run, promises, found) or lost
        found.left_over += any(path.name.startswith((".unfinished", ".deleted", ".aside")) for path in run.iterdir())
    found.lost += lost


def _opens(run: Path, promises: _Promises, found: _Found) -> bool:
    for prefer, names in (("latest", ckpt.ALL_FILES), ("best", ckpt.GENERATION_FILES)):
        try:
            opened = ckpt.open_checkpoint(run, prefer, names)
        except CharlmError:
            if promises.any:
                return False
            continue
        if not promises.were_made(opened):
            found.corrupt += 1
        elif not promises.are_kept(opened, prefer):
            return False
    return True


def _is_whole(step: Path) -> bool:
    try:
        return bool(ckpt.open_checkpoint(step, names=ckpt.ALL_FILES))
    except CharlmError:
        return False


def _has_corpus(run: Path) -> bool:
    try:
        open_corpus(run / "corpus").check_ids()
    except CharlmError:
        return False
    return True
