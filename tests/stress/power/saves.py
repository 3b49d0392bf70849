"""Records the file-system calls of sequences of saves and of a whole training."""

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import charlm
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.step import ALL_FILES, CONFIG
from charlm.config import dump_json
from charlm.training import saving
from stress.helpers import random_words
from stress.recorder import Call, SaveReturned, SaveStarted, StepsReleased, intercept_calls, record_saves

SAVES = 8

Record = list[Call | SaveStarted | SaveReturned | StepsReleased]


def recorded(root: Path, work: Callable[[Path], None]) -> Record:
    """The calls of ``work(root)`` that change files under ``root``, and its saves, in order."""
    root.mkdir()
    record: Record = []

    def note(call: Call, perform: Callable[..., Any]) -> Any:
        result = perform()
        record.append(call)
        return result

    with intercept_calls(root, note), record_saves(record.append):
        work(root)
    shutil.rmtree(root)
    return record


def saves(run: Path, seed: int) -> None:
    """Saves like those of a training: sometimes a better one, sometimes the same step again."""
    draw, step, best = random.Random(seed), 0, (9.0, 0)
    for _ in range(SAVES):
        again = step > 0 and draw.random() < 0.3
        step += 0 if again else draw.randint(1, 50)
        validation = round(draw.uniform(1, 3), 3) if draw.random() < 0.6 else None
        if validation is not None and validation < best[0]:
            best = validation, step
        elif again and step == best[1]:
            validation = best[0]
        saving.save_step(run, step, _files(step, validation, draw))
        RunFolder(run).keep_only({step, best[1] or step})


def _files(step: int, validation: float | None, draw: random.Random) -> dict[str, bytes]:
    described = {"format": 1, "step": step, "validation": validation}
    contents = {name: draw.randbytes(draw.randint(1, 5000)) for name in ALL_FILES}
    return {**contents, CONFIG: dump_json(described)}


def train(root: Path) -> None:
    """A whole training, including the preparation of its text, with frequent saves."""
    with tempfile.TemporaryDirectory() as elsewhere:
        path = Path(elsewhere) / "text.txt"
        path.write_text(random_words(random.Random(1), 1500))
        charlm.train(
            path, out=root / "checkpoints" / "run", layers=1, hidden=16, batch=4, bptt=16, steps=18, eval_every=6,
            save_every="4", threads=1, device="cpu", precision="fp32",
        )  # fmt: skip
