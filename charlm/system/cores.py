"""How many processor cores charlm may use. More threads than cores only wait for one another."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
MIN_ROWS_PER_THREAD = 4
"""The recurrence divides the rows of a batch among threads, and each thread reads all weights for each time step. On
one thread 4 rows took 1.3 (AVX-512) to 1.6 times (AVX2) as long as 2, and 2 rows about as long as 1 (Zen 4)."""


def cores() -> int:
    """The number of cores that this process may use: its CPU affinity, or its container's CPU quota if that is less."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(affinity, _cgroup_quota() or affinity)


def useful_threads(available: int, rows: int) -> int:
    """How many of the ``available`` threads a batch of ``rows`` can use; at most one for each core."""
    return max(1, min(available, cores(), rows // MIN_ROWS_PER_THREAD))


def _cgroup_quota() -> int | None:
    """The CPU quota of a container in cores (``docker --cpus``), rounded up; None where there is no limit."""
    try:
        if (_CGROUP / "cpu.max").exists():
            quota, period = (_CGROUP / "cpu.max").read_text().split()
        else:
            quota, period = ((_CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return max(1, math.ceil(int(quota) / int(period))) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return None
