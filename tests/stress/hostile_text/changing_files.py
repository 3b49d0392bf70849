"""Texts that change, grow or disappear while a training reads them."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import charlm
from charlm.errors import CharlmError
from charlm.runs import RunOptions, new_run
from charlm.training.options import TrainingOptions
from charlm.training.text_options import TextOptions
from stress.hostile_text.checks import check_message
from stress.hostile_text.models import SMALL


def _into_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES: dict[str, Callable[[Path], Any]] = {
    "removed": lambda path: path.unlink(),
    "extended": lambda path: path.write_bytes(path.read_bytes() + "\nand more, ünlike before\n".encode() * 500),
    "an incomplete character appended": lambda path: path.write_bytes(path.read_bytes() + b"\xc3"),
    "truncated": lambda path: os.truncate(path, 3000),
    "emptied": lambda path: os.truncate(path, 0),
    "replaced": lambda path: path.write_text("αβγδ εζηθ\n" * 3000, encoding="utf-8"),
    "replaced by a folder": _into_folder,
}


def try_changing_files(folder: Path, passes: Sequence[int]) -> int:
    """Change, extend or remove a text during each of the three passes that read it; returns the number of trials."""
    count = 0
    for change in CHANGES:
        for at in passes:
            for form in (None, "lines"):
                _train_on_changing(folder, change, at, form)
                count += 1
    return count


def _train_on_changing(folder: Path, change: str, at: int, form: str | None) -> None:
    path, run = folder / "changing.txt", folder / "changed" / "run"
    path.write_text("".join(f"line {number} of a text\n" for number in range(2000)))
    passed = [0]

    def progress(characters: int) -> None:
        passed[0] += 1
        if passed[0] == at:
            CHANGES[change](path)

    texts = TextOptions([str(path)], documents=form)
    options = {name: value for name, value in SMALL.items() if name not in ("device", "precision")}
    try:
        with new_run(texts, TrainingOptions(**options), RunOptions(run, None, "cpu", "fp32", progress)) as prepared:
            for _ in prepared.trainer.events():
                pass
    except CharlmError as error:
        check_message(error)
        assert not run.parent.exists(), f"{change}: a run that failed was left behind"
    except Exception as error:
        raise AssertionError(f"{change} in pass {at}, documents {form}: {error!r}") from error
    else:
        charlm.load(run, device="cpu", threads=1).generate("", 3, seed=1)
        shutil.rmtree(run.parent)
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
