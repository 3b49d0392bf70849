"""The curve of a run, from its metrics.jsonl, which grows while it is trained."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from charlm.checkpoint.step import has_step_name
from charlm.system.disk import read_at_most

MAX_BYTES = 20_000_000
MAX_POINTS = 400
"""Of each curve. Those between are left out."""
_SECONDS_IN_TRAINING = 120.0
"""A run whose file has changed within this time is taken to be in training."""


def read_progress(path: Path) -> dict[str, Any]:
    """The losses of a run: lists of [step, nats per character]; empty for a model without the file."""
    run = path.parent if has_step_name(path) else path
    file = run / "metrics.jsonl"
    curves: dict[str, list[tuple[int, float]]] = {"train": [], "valid": []}
    changed = 0.0
    if file.is_file() and not file.is_symlink():
        changed = file.stat().st_mtime
        for line in read_at_most(file, MAX_BYTES).splitlines():
            if (point := _point(line)) is not None:
                curves[point[0]].append(point[1:])
    seconds = time.time() - changed
    return {
        **{name: _thinned(points) for name, points in curves.items()},
        "in_training": seconds < _SECONDS_IN_TRAINING,
    }


def _point(line: bytes) -> tuple[str, int, float] | None:
    """The kind, the step and the loss of a line; None for another line, or half of one."""
    try:
        entry = json.loads(line)
        kind, step = entry["kind"], int(entry["step"])
        nats = float(entry[f"{kind}_nats_per_char"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return (kind, step, nats) if kind in ("train", "valid") and math.isfinite(nats) else None


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    stride = max(1, math.ceil(len(points) / MAX_POINTS))
    return [*points[:-1:stride], *points[-1:]]
