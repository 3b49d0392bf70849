"""metrics.jsonl: the measurements of a training, one JSON object per line.

It is for users and plots. If it cannot be written, training continues. It is read only to drop the lines after the
checkpoint from which a run continues.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from charlm.system.disk import open_without_links, write_synced

logger = logging.getLogger("charlm")


class MetricsLog:
    """The file ``metrics.jsonl`` of the folder ``run``. Of several processes, only one ``writes``."""

    def __init__(self, run: Path, *, writes: bool = True) -> None:
        self._path = run / "metrics.jsonl"
        self._writes = writes

    def write(self, kind: str, step: int, seconds: float, **values: Any) -> None:
        """Append a line. ``kind`` is "train" or "valid", ``seconds`` the time spent on the run so far."""
        if not self._writes:
            return
        entry = {"kind": kind, "step": step, "seconds": round(seconds, 3), **values}
        finite = {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in entry.items()}
        try:
            with open(self._path, "a", encoding="utf-8", opener=open_without_links) as file:
                file.write(json.dumps(finite) + "\n")
        except OSError as error:
            _warn(error)

    def forget_after(self, step: int, evaluated_step: int | None) -> None:
        """Drop the lines after the checkpoint that is resumed, because those steps run again."""
        if not self._writes or self._path.is_symlink() or not self._path.is_file():
            return
        try:
            lines = self._path.read_text("utf-8", "replace").splitlines()
            kept = [line + "\n" for line in lines if _is_before(line, step, evaluated_step)]
            write_synced(self._path, "".join(kept).encode())
        except OSError as error:
            _warn(error)


def _warn(error: OSError) -> None:
    logger.warning("metrics.jsonl could not be written (%s); training continues", error.strerror)


def _is_before(line: str, now: int, evaluated_step: int | None) -> bool:
    """Whether a line is from before the checkpoint that training continues from."""
    try:
        entry = json.loads(line)
        step, kind = int(entry["step"]), entry["kind"]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return False  # a killed process may have written half a line
    return step < now or (step == now and (kind != "valid" or evaluated_step == now))
