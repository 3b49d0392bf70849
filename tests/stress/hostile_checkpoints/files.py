"""Mutations of whole files: their bytes, links, pipes, and other formats under our names."""

from __future__ import annotations

import io
import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from charlm.checkpoint.step import CONFIG
from stress.hostile_checkpoints.mutant import LOCK, METRICS, Link, Mutant, SpecialFile


def _step_file(mutant: Mutant, draw: random.Random) -> str:
    """A file of the checkpoint."""
    return draw.choice(sorted(path for path in mutant.files if path.startswith(mutant.step)))


def _any_file(mutant: Mutant, draw: random.Random) -> str:
    """A file of the checkpoint, less often another file of the run."""
    if draw.random() < 0.8:
        return _step_file(mutant, draw)
    return draw.choice(sorted(mutant.files))


def flip(mutant: Mutant, draw: random.Random) -> None:
    path = _any_file(mutant, draw)
    data = bytearray(mutant.files[path])
    for _ in range(draw.choice([1, 1, 2, 8, 100]) if data else 0):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    mutant.put(path, bytes(data))


def overwrite(mutant: Mutant, draw: random.Random) -> None:
    path = _any_file(mutant, draw)
    data = bytearray(mutant.files[path])
    start = draw.randrange(len(data) + 1)
    length = draw.choice([1, 4, 8, 512, 4096])
    data[start : start + length] = draw.choice([draw.randbytes(length), bytes(length), b"\xff" * length])
    mutant.put(path, bytes(data))


def truncate(mutant: Mutant, draw: random.Random) -> None:
    path = _any_file(mutant, draw)
    data = mutant.files[path]
    mutant.put(path, data[: draw.choice([0, 1, 7, 8, 9, len(data) // 2, max(0, len(data) - 1)])])


def extend(mutant: Mutant, draw: random.Random) -> None:
    path = _any_file(mutant, draw)
    data = mutant.files[path]
    mutant.put(path, data + draw.choice([b"\0", b" ", b"\n", b"{}", draw.randbytes(1000), bytes(5_000_000), data]))


def swap(mutant: Mutant, draw: random.Random) -> None:
    one, other = _step_file(mutant, draw), _any_file(mutant, draw)
    contents = mutant.files[one], mutant.files[other]
    mutant.put(one, contents[1])
    mutant.put(other, contents[0])


def delete(mutant: Mutant, draw: random.Random) -> None:
    path = _any_file(mutant, draw)
    del mutant.files[path]
    mutant.what.append(f"no {path}")
    mutant.codes |= {66, 74}


def link(mutant: Mutant, draw: random.Random) -> None:
    path = _any_file(mutant, draw)
    own = path.rpartition("/")[2]
    others = [CONFIG, "../" * 12 + "etc/passwd", "/dev/null", "/proc/self/mem", "/proc/self/environ", ".", "gone"]
    mutant.put(path, Link(draw.choice(["/etc/passwd", own, "/dev/zero", "/dev/zero", *others])))


def put_special_file(mutant: Mutant, draw: random.Random) -> None:
    mutant.put(_any_file(mutant, draw), SpecialFile(draw.choice(["pipe", "pipe", "folder"])))


def add_leftovers(mutant: Mutant, draw: random.Random) -> None:
    """Add other entries to the folder of a step: links out of the run, pipes, other steps."""
    victim = str(mutant.marker.parent / "victim")
    content = draw.choice(
        [Link(victim), Link(victim + "/thesis.txt"), Link("."), SpecialFile("pipe"), SpecialFile("folder"), b"x"]
    )
    names = [LOCK, f".unfinished-{mutant.step}", f".aside-{mutant.step}", ".deleted-step-3", "step-99", "step-5",
             ".unfinished-metrics.jsonl", METRICS, "step-999999999999999", "step-1/manifest.json"]  # fmt: skip
    name = draw.choice(names)
    mutant.put(name, content)
    mutant.codes |= {73}


# -------------------------------------------------------------------------------------------- other programs' files


class _Evil:
    """An object whose unpickling creates the marker file."""

    def __init__(self, marker: Path, by: str) -> None:
        self.marker, self.by = marker, by

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        if self.by == "eval":
            return eval, (f"open({str(self.marker)!r}, 'w').close()",)
        return (os.system, (f"touch {self.marker}",)) if self.by == "system" else (Path.touch, (self.marker,))


def put_foreign_format(mutant: Mutant, draw: random.Random) -> None:
    """Put pickles, and archives of torch.save and numpy, under our names."""
    path = _step_file(mutant, draw)
    evil = _Evil(mutant.marker, draw.choice(["eval", "system", "touch"]))
    kind = draw.choice(["pickle", "pickle", "torch", "torch evil", "torch old", "numpy", "behind"])
    mutant.what.append(kind)
    saved = io.BytesIO()
    if kind == "pickle":
        saved.write(pickle.dumps(evil, protocol=draw.randrange(6)))
    elif kind == "numpy":
        np.save(saved, np.array([evil], object), allow_pickle=True)
    elif kind == "behind":
        saved.write(mutant.files[path] + pickle.dumps(evil))
    else:
        weights = {"lstm.weight": torch.zeros(3, 4)}
        torch.save({"model": weights, "evil": evil} if kind == "torch evil" else weights, saved,
                   _use_new_zipfile_serialization=kind != "torch old")  # fmt: skip
    mutant.put(path, saved.getvalue(), refused=kind != "behind")
