"""The folder of a run: locked while it is trained, cleaned of what a killed process left, and found again."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from charlm.checkpoint.step import MANIFEST, steps_of
from charlm.errors import CannotCreateError, MissingInputError
from charlm.system.disk import ASIDE, UNFINISHED, open_own, remove

RUNS = Path("checkpoints")
"""Where runs go, and are looked for, unless a person names another place."""

_DELETED = ".deleted-"


def keep_only(run: Path, steps: Iterable[int]) -> None:
    """Delete every step of ``run`` but ``steps``: each is renamed first, so none is ever seen half-deleted.

    What earlier calls could not finish on a failing disk goes, too. Call it only while holding the run's lock.
    """
    clean(run)
    keep = set(steps)
    for step, path in steps_of(run):
        if step not in keep:
            doomed = path.with_name(f"{_DELETED}{path.name}")
            with contextlib.suppress(OSError):
                remove(doomed)
                path.rename(doomed)
                remove(doomed)


def is_unfinished(path: Path) -> bool:
    """Whether a save that was killed has left ``path``."""
    return path.name.startswith(UNFINISHED)


def clean(run: Path) -> None:
    """Remove what a killed process left unfinished. Call it only while holding the run's lock."""
    for path in list(run.iterdir()):
        if path.name.startswith((UNFINISHED, _DELETED)):
            with contextlib.suppress(OSError):
                remove(path)
        elif path.name.startswith(ASIDE):
            original = path.with_name(path.name.removeprefix(ASIDE))
            with contextlib.suppress(OSError):
                remove(path) if original.exists() else path.rename(original)


@contextlib.contextmanager
def lock_run(run: Path) -> Iterator[None]:
    """Hold ``run`` for this process. Raises ``CannotCreateError`` if another one has it, or it cannot be written."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        file = open(run / ".lock", "ab", opener=open_own)  # noqa: SIM115  # closed below, after the lock is let go
    except OSError as error:
        raise CannotCreateError(
            f"{run} cannot be written ({error.strerror}); choose another place with --out"
        ) from None
    with file:
        try:
            _lock(file.fileno())
        except OSError:
            raise CannotCreateError(
                f"{run} is being trained by another process; wait for it, stop it, or choose another --out"
            ) from None
        yield


def _lock(handle: int) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]  # there on Windows only
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def newest_run(folder: Path, to_resume: bool = False) -> Path:
    """The run in ``folder`` whose last step is the newest. Raises ``MissingInputError`` if there is none.

    An exported model counts as one, unless it is ``to_resume``.
    """
    times = {}
    if folder.is_dir():
        for run in folder.iterdir():
            homes = [step for _, step in (steps_of(run) if run.is_dir() else [])] + [run] * (not to_resume)
            stamps = [home / MANIFEST for home in homes]
            times[run] = max((stamp.stat().st_mtime for stamp in stamps if stamp.exists()), default=-math.inf)
    newest = max(times, key=lambda run: times[run], default=None)
    if newest is None or times[newest] == -math.inf:
        raise MissingInputError(f"there is no run in {folder}/ yet; train one (charlm train FILE) or name one")
    return newest
