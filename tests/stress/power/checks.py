"""Looks at what a power cut has left of a run: is all there that was promised?"""

from dataclasses import dataclass
from pathlib import Path

from charlm.checkpoint.run_folder import clean
from charlm.checkpoint.step import ALL_FILES, CONFIG, GENERATION_FILES, Checkpoint, open_checkpoint, step_numbers
from charlm.config import parse_json
from charlm.corpus.prepared import open_corpus
from charlm.errors import CharlmError
from stress.helpers import leftovers
from stress.recorder import Acknowledged, Begun, Released


class Promises:
    """What has been saved, by step in all its versions, and which version of which step must be there."""

    def __init__(self) -> None:
        self._versions: dict[int, list[dict[str, bytes]]] = {}
        self._promised: dict[int, int] = {}
        self._begun = 0

    def note(self, entry: Begun | Acknowledged | Released) -> None:
        """Take in the next entry of a record."""
        if isinstance(entry, Begun):
            self._versions.setdefault(entry.step, []).append(entry.files)
            self._begun = entry.step
        elif isinstance(entry, Acknowledged):
            self._promised[self._begun] = len(self._versions[self._begun]) - 1
        else:
            self._promised = {step: version for step, version in self._promised.items() if step in entry.kept}

    @property
    def any(self) -> bool:
        """Whether any step must be there."""
        return bool(self._promised)

    def are_kept(self, opened: Checkpoint, prefer: str) -> bool:
        """Whether ``opened`` is as new, or as good, as it must be."""
        new_enough = any(self._agreeing(opened)[self._promised.get(opened.step, 0) :])
        if prefer == "latest":
            return new_enough and opened.step >= max(self._promised, default=0)
        losses = [self._validation(step) for step in self._promised]
        mine = 9.9 if opened.validation is None else opened.validation
        return new_enough and mine <= min(losses, default=9.9)

    def were_made(self, opened: Checkpoint) -> bool:
        """Whether ``opened`` holds, byte by byte, what was once to be saved under its step."""
        return any(self._agreeing(opened))

    def _agreeing(self, opened: Checkpoint) -> list[bool]:
        """Of each version of its step, whether ``opened`` agrees with it."""
        versions = self._versions.get(opened.step, [])
        return [dict(opened.files) == {name: version[name] for name in opened.files} for version in versions]

    def _validation(self, step: int) -> float:
        config = parse_json(self._versions[step][self._promised[step]][CONFIG], "")
        return 9.9 if config["validation"] is None else config["validation"]


@dataclass
class Found:
    """How many states were looked at, and in how many of them something was amiss."""

    states: int = 0
    damaged: int = 0
    lost: int = 0
    corrupt: int = 0
    left_over: int = 0


def look(run: Path, promises: Promises, corpus: bool, found: Found) -> None:
    """Open the run as it was left, and again after what ``charlm train --resume`` does first."""
    found.states += 1
    found.damaged += any(not _is_whole(run / f"step-{step}") for step in step_numbers(run))
    lost = not _opens(run, promises, found) or (corpus and promises.any and not _has_corpus(run))
    if run.is_dir():
        clean(run)
        lost = not _opens(run, promises, found) or lost
        found.left_over += bool(leftovers(run))
    found.lost += lost


def _opens(run: Path, promises: Promises, found: Found) -> bool:
    for prefer, names in (("latest", ALL_FILES), ("best", GENERATION_FILES)):
        try:
            opened = open_checkpoint(run, prefer, names)
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
        return bool(open_checkpoint(step, names=ALL_FILES))
    except CharlmError:
        return False


def _has_corpus(run: Path) -> bool:
    try:
        open_corpus(run / "corpus").check_ids()
    except CharlmError:
        return False
    return True
