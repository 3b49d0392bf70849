"""Forked processes: libraries that compute in threads hang in the child if the parent has used them.

A fork copies only the thread that calls it. GNU's OpenMP, which torch uses, then waits for threads that do not exist.
With one thread it does not wait.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path


class _Forks:
    """``lost`` says whether this process has lost threads, ``at_fork`` whether a child that is forked now would."""

    lost = at_fork = False

    def before(self) -> None:
        self.at_fork = self.lost or ("torch" in sys.modules and _has_other_threads())

    def after_in_child(self) -> None:
        self.lost = self.at_fork


def _has_other_threads() -> bool:
    """Whether there are threads that Python did not start; true where that is unknown."""
    tasks = Path("/proc/self/task")
    return not tasks.is_dir() or len(list(tasks.iterdir())) > threading.active_count()


_forks = _Forks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_forks.before, after_in_child=_forks.after_in_child)


def has_lost_threads() -> bool:
    """Whether this process was forked from one that had imported torch and had threads besides Python's."""
    return _forks.lost
