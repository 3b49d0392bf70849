"""A file system in memory that tracks which data would survive a power cut."""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stress.recorder import Call


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
    """A change of a folder's entries: ``node`` moves from the name ``before`` to ``after``; None means no entry."""

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
    """A file system in memory that tracks which data would survive a power cut."""

    def __init__(self) -> None:
        self._root = _Folder()

    def make(self, call: Call) -> None:
        """Apply a recorded call."""
        folder, name = self._find(call.path.parent), call.path.name
        if call.name == "fsync":
            self._sync(self._find(call.path))
        elif call.name == "write":
            self._find(call.path).current += call.data
        elif call.name in ("create", "mkdir"):
            folder.change(_File() if call.name == "create" else _Folder(), None, name)
        elif call.name == "rename":
            assert call.target is not None
            assert call.target.parent == call.path.parent, "a rename between folders would be two changes"
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
        """Write one state that a power cut may leave into the folder ``into``."""
        self._write(self._root, into, draw, in_order)

    def _write(self, folder: _Folder, into: Path, draw: random.Random, in_order: bool) -> None:
        into.mkdir()
        for name, node in folder.after_a_cut(draw, in_order).items():
            if isinstance(node, _File):
                (into / name).write_bytes(node.after_a_cut(draw))
            else:
                self._write(node, into / name, draw, in_order)
