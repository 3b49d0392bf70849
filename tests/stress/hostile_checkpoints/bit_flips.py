"""Every single flipped bit must be noticed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import charlm
from charlm import runs
from charlm.checkpoint.step import CONFIG, MANIFEST, MODEL, STATE, STATE_TENSORS, TOKENIZER
from charlm.errors import CharlmError
from charlm.training.recipe import Request
from stress.hostile_checkpoints.mutant import Mutant, lay_out
from stress.hostile_checkpoints.templates import Template

RANDOM_BITS = 2000


def flip_bits(template: Template, folder: Path, limit: int | None) -> tuple[int, list[str]]:
    """Flip bits one by one; returns how many, and those that nobody noticed."""
    run = lay_out(Mutant(template.files, template.step, False, folder / "m"), folder / "flipped")
    flipped, missed = 0, []
    for name, everywhere, opener in (
        (CONFIG, True, "generate"),
        (TOKENIZER, True, "generate"),
        (MANIFEST, True, "generate"),
        (MODEL, False, "generate"),
        (STATE, True, "resume"),
        (STATE_TENSORS, False, "resume"),
    ):
        path = run / template.step / name
        bits: Any = range(8 * path.stat().st_size)
        most = limit if everywhere else min(RANDOM_BITS, limit or RANDOM_BITS)
        if most is not None:
            bits = random.Random(name).sample(bits, min(most, len(bits)))
        missed += [f"{name} bit {bit}" for bit in bits if not _noticed(run, path, bit, opener)]
        flipped += len(bits)
    return flipped, missed


def _noticed(run: Path, path: Path, bit: int, opener: str) -> bool:
    with open(path, "r+b", buffering=0) as file:
        file.seek(bit // 8)
        before = file.read(1)
        _write_at(file, bit // 8, bytes([before[0] ^ 1 << bit % 8]))
        try:
            if opener == "generate":
                charlm.load(path.parent)
            else:
                with runs.resumed_run(run, Request()):
                    pass
        except CharlmError as error:
            return error.exit_code == 65
        finally:
            _write_at(file, bit // 8, before)
    return False


def _write_at(file: Any, position: int, data: bytes) -> None:
    file.seek(position)
    file.write(data)
