"""evaluations.jsonl: what ``charlm eval`` measured on the splits of a run, one JSON object per line.

It is for ``charlm runs``. Training and loading never read it. A run that cannot be written has none.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from charlm.checkpoint.step import has_step_name
from charlm.config import parse_json
from charlm.errors import DataError
from charlm.system.disk import open_without_links, read_at_most

logger = logging.getLogger("charlm")

EVALUATIONS = "evaluations.jsonl"
_MAX_BYTES = 1 << 24


def note_evaluation(step: Path, split: str, figures: Mapping[str, Any]) -> None:
    """Append what was measured on ``split`` with the checkpoint ``step``, a folder of a run; else do nothing."""
    if not has_step_name(step):
        return
    line = json.dumps({"step": int(step.name.rpartition("-")[2]), "split": split, **figures}) + "\n"
    try:
        with open(step.parent / EVALUATIONS, "a", encoding="utf-8", opener=open_without_links) as file:
            file.write(line)
    except OSError as error:
        logger.debug("%s was not written (%s)", step.parent / EVALUATIONS, error.strerror)


def noted_evaluation(run: Path, split: str, step: int) -> tuple[float, float | None] | None:
    """The loss of ``step`` on ``split`` in nats per character and its standard error, as measured last; else None."""
    try:
        lines = read_at_most(run / EVALUATIONS, _MAX_BYTES).splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            entry = parse_json(line, EVALUATIONS)
        except DataError:
            continue  # half a line
        if isinstance(entry, dict) and entry.get("step") == step and entry.get("split") == split:
            loss, error = _number(entry.get("nats_per_char")), _number(entry.get("standard_error"))
            if loss is not None:
                return loss, error
    return None


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None
