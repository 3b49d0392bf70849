"""``RunFolder``: the folder of a run. It is claimed, locked, cleaned, pruned and found here.

    checkpoints/<run>/.lock          locked while the run is trained
    checkpoints/<run>/corpus/        the prepared corpus
    checkpoints/<run>/soft-targets/  what the teacher predicts of it, if there is one
    checkpoints/<run>/step-N/        the steps: the best and the latest, see ``checkpoint.step``
    checkpoints/<run>/metrics.jsonl

A folder that holds nothing but what a process left that was killed before the first step may be claimed again.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import shlex
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from charlm.checkpoint.step import MANIFEST, step_folders
from charlm.errors import CannotCreateError, MissingInputError
from charlm.system.disk import REPLACED_PREFIX, UNFINISHED_PREFIX, open_without_links, remove

logger = logging.getLogger("charlm")

RUNS = Path("checkpoints")
"""Where runs are created and looked for unless the user names another place."""
CORPUS, METRICS, CURVE, TENSORBOARD = "corpus", "metrics.jsonl", "curve.svg", "tensorboard"
SOFT_TARGETS = "soft-targets"

_LOCK = ".lock"
_BEFORE_FIRST_STEP = {_LOCK, CORPUS, SOFT_TARGETS, METRICS, CURVE, TENSORBOARD}
"""What a run has before its first step, besides unfinished files."""
_DELETED_PREFIX = ".deleted-"
_MAX_RUNS_OF_A_NAME = 9_999


class RunFolder:
    """The folder of a run at ``path``, which need not exist. ``clean`` and ``keep_only`` require ``lock``."""

    def __init__(self, path: Path, created: Sequence[Path] = ()) -> None:
        self.path = path
        self.created = tuple(created)
        """The folders that ``claim`` created, innermost first."""

    # ------------------------------------------------------------------------------------------------ new runs

    @classmethod
    def claim(cls, out: Path | None, name: str) -> RunFolder:
        """Create the folder ``out``, or a new one in ``RUNS`` named after ``name``.

        Raises ``CannotCreateError`` where that is impossible or ``out`` holds something already.
        """
        if out is not None:
            cls(out).refuse_taken()
        for candidate in [out] if out is not None else _candidates(name):
            missing = [folder for folder in (candidate, *candidate.parents) if not folder.exists()]
            try:
                candidate.mkdir(parents=True, exist_ok=out is not None)
            except FileExistsError:
                continue
            except OSError as error:
                raise CannotCreateError(
                    f"{candidate} cannot be created ({error.strerror}); choose another --out"
                ) from None
            return cls(candidate, missing)
        raise CannotCreateError(f"{RUNS}/ has too many runs of that name; choose an --out")

    def refuse_taken(self) -> None:
        """Raise ``CannotCreateError`` unless a new run may be created here."""
        path = self.path
        if self.step_numbers() or (path / MANIFEST).exists():
            name = shlex.quote(str(path))
            raise CannotCreateError(
                f"{path} holds a run already; continue it with charlm train --resume --out {name}, or choose another "
                "--out"
            )
        if path.is_symlink() and not path.exists():
            raise CannotCreateError(f"{path} is a link to nothing; remove it, or choose another --out")
        if path.exists() and not _is_empty_or_beginning(path):
            raise CannotCreateError(
                f"{path} exists and is not a run; choose another --out, so that nothing is overwritten"
            )

    def clear_beginning(self) -> None:
        """Delete what a process left that was killed before the first step.

        Raises ``CannotCreateError`` if the run has a step. Call it while holding the lock.
        """
        if self.step_numbers():
            raise CannotCreateError(f"{self.path} was trained by another process a moment ago; choose another --out")
        for name in (CORPUS, SOFT_TARGETS):
            shutil.rmtree(self.path / name, ignore_errors=True)
        self.clean()

    def discard_without_steps(self) -> None:
        """If the run has no step, delete its content and the folders that ``claim`` created."""
        if self.step_numbers():
            return
        for entry in self.path.iterdir():
            if _may_precede_first_step(entry):
                remove(entry)
        self._remove_created()

    def _remove_created(self) -> None:
        for folder in self.created:
            with contextlib.suppress(OSError):  # another run may have been created in it
                folder.rmdir()

    # ------------------------------------------------------------------------------------------------ all runs

    @classmethod
    def newest(cls, folder: Path, *, to_resume: bool = False, with_text: bool = False) -> RunFolder:
        """The run in ``folder`` with the newest step. Raises ``MissingInputError`` if there is none.

        An exported model counts as a run, unless the run is ``to_resume``. ``with_text`` leaves out runs without the
        text that they were trained on, unless there is no other.
        """
        runs = list(folder.iterdir()) if folder.is_dir() else []
        if with_text and (complete := [run for run in runs if (run / CORPUS).is_dir()]):
            runs = complete
        times = {}
        for run in runs:
            homes = [step for _, step in (step_folders(run) if run.is_dir() else [])] + [run] * (not to_resume)
            manifests = [home / MANIFEST for home in homes]
            times[run] = max((path.stat().st_mtime for path in manifests if path.exists()), default=-math.inf)
        newest = max(times, key=lambda run: times[run], default=None)
        if newest is None or times[newest] == -math.inf:
            raise without_runs(folder)
        return cls(newest)

    def step_numbers(self) -> list[int]:
        """The numbers of the steps, ascending, whether or not the steps pass their checks."""
        return [step for step, _ in step_folders(self.path)] if self.path.is_dir() else []

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process; the folder is created where it is missing.

        On a file system without locks this warns, and nothing is held. Raises ``CannotCreateError`` if another process
        holds the run or it is not writable.
        """
        path = self.path / _LOCK
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = open(path, "ab", opener=open_without_links)  # noqa: SIM115  # closed after the lock
        except OSError as error:
            self._remove_created()
            raise CannotCreateError(
                f"{self.path} cannot be written ({error.strerror}); choose another place with --out"
            ) from None
        with file:
            is_held = self._hold(file.fileno())
            try:
                yield
            finally:
                if not is_held:
                    path.unlink(missing_ok=True)

    def _hold(self, handle: int) -> bool:
        """Lock the open file ``handle``; False where the file system has no locks."""
        try:
            _lock(handle)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                raise CannotCreateError(
                    f"{self.path} is being trained by another process; wait for it, stop it, or choose another --out"
                ) from None
            logger.warning(
                "%s cannot be locked (%s); make sure that no other process trains it", self.path, error.strerror
            )
            return False
        return True

    def clean(self) -> None:
        """Remove the unfinished files and folders that a killed process left."""
        for path in list(self.path.iterdir()):
            if path.name.startswith((UNFINISHED_PREFIX, _DELETED_PREFIX)):
                with contextlib.suppress(OSError):
                    remove(path)
            elif path.name.startswith(REPLACED_PREFIX):
                original = path.with_name(path.name.removeprefix(REPLACED_PREFIX))
                with contextlib.suppress(OSError):
                    remove(path) if original.exists() else path.rename(original)

    def keep_only(self, steps: Iterable[int]) -> None:
        """Delete all steps but ``steps``, and what earlier calls could not delete because of a failing disk.

        A step is renamed before it is deleted, so that a half-deleted step is never visible as a step.
        """
        self.clean()
        kept = set(steps)
        for step, path in step_folders(self.path):
            if step not in kept:
                deleted = path.with_name(f"{_DELETED_PREFIX}{path.name}")
                with contextlib.suppress(OSError):
                    remove(deleted)
                    path.rename(deleted)
                    remove(deleted)


def without_runs(folder: Path) -> MissingInputError:
    """The error for a ``folder`` in which no run is found."""
    return MissingInputError(f"there is no run in {folder}/ yet; train one (charlm train FILE), or give a path")


def _candidates(name: str) -> Iterator[Path]:
    yield RUNS / name
    for number in range(2, _MAX_RUNS_OF_A_NAME + 1):
        yield RUNS / f"{name}-{number}"


def _is_empty_or_beginning(path: Path) -> bool:
    """Whether ``path`` is an empty folder, or what a killed training left: it has charlm's lock, and nothing else."""
    entries = list(path.iterdir()) if path.is_dir() else [path]
    return not entries or (path / _LOCK in entries and all(map(_may_precede_first_step, entries)))


def _may_precede_first_step(path: Path) -> bool:
    return path.name in _BEFORE_FIRST_STEP or path.name.startswith(UNFINISHED_PREFIX)


def _lock(handle: int) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]  # there on Windows only
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
