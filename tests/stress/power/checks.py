"""Checks that a run contains every step that was reported as saved, after a power cut."""

from dataclasses import dataclass
from pathlib import Path

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.step import ALL_FILES, CONFIG, GENERATION_FILES, Checkpoint, open_checkpoint
from charlm.config import parse_json
from charlm.corpus.prepared import open_corpus
from charlm.errors import CharlmError
from stress.helpers import leftovers
from stress.recorder import SaveReturned, SaveStarted, StepsReleased


class ExpectedSteps:
    """All versions that were saved of each step, and which version of which steps must exist."""

    def __init__(self) -> None:
        self._versions: dict[int, list[dict[str, bytes]]] = {}
        self._required: dict[int, int] = {}
        self._current = 0

    def note(self, entry: SaveStarted | SaveReturned | StepsReleased) -> None:
        """Update with the next entry of a record."""
        if isinstance(entry, SaveStarted):
            self._versions.setdefault(entry.step, []).append(entry.files)
            self._current = entry.step
        elif isinstance(entry, SaveReturned):
            self._required[self._current] = len(self._versions[self._current]) - 1
        else:
            self._required = {step: version for step, version in self._required.items() if step in entry.kept}

    @property
    def any(self) -> bool:
        """Whether any step must exist."""
        return bool(self._required)

    def is_new_enough(self, opened: Checkpoint, prefer: str) -> bool:
        """Whether ``opened`` is as new ("latest"), or has as low a loss ("best"), as it must."""
        new_enough = any(self._agreeing(opened)[self._required.get(opened.step, 0) :])
        if prefer == "latest":
            return new_enough and opened.step >= max(self._required, default=0)
        losses = [self._validation(step) for step in self._required]
        mine = 9.9 if opened.validation is None else opened.validation
        return new_enough and mine <= min(losses, default=9.9)

    def was_saved(self, opened: Checkpoint) -> bool:
        """Whether ``opened`` holds exactly the bytes of a version that was saved of its step."""
        return any(self._agreeing(opened))

    def _agreeing(self, opened: Checkpoint) -> list[bool]:
        """For each version of its step, whether ``opened`` equals it."""
        versions = self._versions.get(opened.step, [])
        return [dict(opened.files) == {name: version[name] for name in opened.files} for version in versions]

    def _validation(self, step: int) -> float:
        config = parse_json(self._versions[step][self._required[step]][CONFIG], "")
        return 9.9 if config["validation"] is None else config["validation"]


@dataclass
class Counts:
    """How many states were checked, and in how many of them something was wrong."""

    states: int = 0
    damaged: int = 0
    lost: int = 0
    corrupt: int = 0
    left_over: int = 0


def check_run(run: Path, expected: ExpectedSteps, corpus: bool, found: Counts) -> None:
    """Open the run as the power cut left it, and again after the clean-up of ``charlm train --resume``."""
    found.states += 1
    found.damaged += any(not _is_whole(run / f"step-{step}") for step in RunFolder(run).step_numbers())
    lost = not _opens(run, expected, found) or (corpus and expected.any and not _has_corpus(run))
    if run.is_dir():
        RunFolder(run).clean()
        lost = not _opens(run, expected, found) or lost
        found.left_over += bool(leftovers(run))
    found.lost += lost


def _opens(run: Path, expected: ExpectedSteps, found: Counts) -> bool:
    for prefer, names in (("latest", ALL_FILES), ("best", GENERATION_FILES)):
        try:
            opened = open_checkpoint(run, prefer, names)
        except CharlmError:
            if expected.any:
                return False
            continue
        if not expected.was_saved(opened):
            found.corrupt += 1
        elif not expected.is_new_enough(opened, prefer):
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
