"""Real runs in the middle of their training, before anything is done to them."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import charlm
from charlm.training.events import Stepped
from stress.helpers import random_words


@dataclass(frozen=True)
class Template:
    """The files of a run by their paths, and the name of its only step."""

    files: Mapping[str, bytes]
    step: str


_SHAPES: tuple[dict[str, Any], ...] = (
    {"layers": 1, "hidden": 8},
    {"layers": 2, "hidden": 12, "embedding": 8, "optimizer": "rmsprop", "dropout_hidden": 0.1},
    {"layers": 1, "hidden": 8, "documents": "lines", "split": "80/10/10"},
    {"layers": 1, "hidden": 8, "tokenizer": "byte", "optimizer": "sgd", "lr": 0.1},
)


def make_templates(folder: Path) -> list[Template]:
    """Real runs, trained in another process, because a fork of one that has computed in threads would hang."""
    text = folder / "text.txt"
    words = ["the", "cat", "sat", "naïve", "on", "a", "mat\n", "and", "42", "dogs\n"]
    text.write_text(random_words(random.Random(5), 1200, words), encoding="utf-8")
    homes = [folder / f"template-{number}" for number in range(len(_SHAPES))]
    process = multiprocessing.get_context("fork").Process(target=_train, args=(text, homes))
    process.start()
    process.join()
    assert process.exitcode == 0, "the runs to be mutated could not be trained"
    return [_read_template(home) for home in homes]


def _train(text: Path, homes: list[Path]) -> None:
    torch.set_num_threads(1)
    for home, shape in zip(homes, _SHAPES, strict=True):
        with contextlib.suppress(_Enough):
            charlm.train(
                text, out=home, steps=100, bptt=16, batch=4, eval_every=20, save_every="20", lr=shape.get("lr", 1e-2),
                threads=1, device="cpu", precision="fp32", on_event=_until_step_21,
                **{name: value for name, value in shape.items() if name != "lr"},
            )  # fmt: skip


class _Enough(Exception):
    pass


def _until_step_21(event: Any) -> None:
    if isinstance(event, Stepped) and event.step == 21:
        raise _Enough


def _read_template(home: Path) -> Template:
    files = {str(path.relative_to(home)): path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}
    (step,) = {path.partition("/")[0] for path in files if path.startswith("step-")}
    return Template(files, step)
