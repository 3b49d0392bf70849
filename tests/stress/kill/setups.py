"""The trainings that are killed."""

import random
from dataclasses import dataclass
from pathlib import Path

from charlm import native
from stress.helpers import WORDS, random_words


@dataclass(frozen=True)
class Kind:
    """A training: a text, options, and what runs it."""

    text: Path
    options: tuple[str, ...]
    engine: str


_MODEL = (
    "--layers", "2", "--hidden", "24", "--embedding", "16", "--dropout-input", "0.1", "--dropout-hidden", "0.2",
    "--dropout-output", "0.2", "--weight-drop", "0.2", "--lr", "5e-3", "--warmup", "3", "--seed", "3",
    "--device", "cpu", "--threads", "1", "--quiet",
)  # fmt: skip
_STREAMS = ("--batch", "8", "--bptt", "30")
_LINES = ("--documents", "lines", "--split", "80/10/10", "--batch", "30", "--bptt", "25")
_OFTEN = ("--steps", "48", "--eval-every", "7", "--save-every", "3")
_WORDS = (*WORDS, "and", "saw", "naïve", "dogs", "run")


def all_kinds(home: Path) -> list[Kind]:
    """Running text and lines, on both engines; in bfloat16, too, where the native engine is there."""
    running, lines = home / "salad.txt", home / "lines.txt"
    draw = random.Random(1)
    running.write_text(random_words(draw, 1400, _WORDS), encoding="utf-8")
    lengths = [draw.choice([1, 2, 3, 4, 5, 30]) for _ in range(300)]
    lines.write_text("\n".join(random_words(draw, length, _WORDS) for length in lengths), encoding="utf-8")
    texts = [(running, _STREAMS), (lines, _LINES)]
    there = native.find() is not None
    runs_by = [("native", "fp32"), ("torch", "fp32"), ("native", "bf16")] if there else [("torch", "fp32")]
    return [
        Kind(text, (*_MODEL, *options, *_OFTEN, "--precision", precision), engine)
        for engine, precision in runs_by
        for text, options in texts
    ]


def short_kind(home: Path) -> Kind:
    """A few steps with saves of all sorts: the first, a better one, one of the same step again, the last."""
    steps = ("--steps", "12", "--eval-every", "6", "--save-every", "4", "--precision", "fp32")
    return Kind(home / "salad.txt", (*_MODEL, *_STREAMS, *steps), "auto")


def noise_kind(home: Path) -> Kind:
    """A text from which nothing can be learnt, so that the rate is lowered soon (weight decay would learn that)."""
    path = home / "noise.txt"
    path.write_text("".join(random.Random(1).choices("abcdefghij", k=5000)))
    steps = (
        "--optimizer", "adam", "--lr", "0.1", "--steps", "60", "--eval-every", "2", "--save-every", "3",
        "--precision", "fp32",
    )  # fmt: skip
    return Kind(path, (*_MODEL, *_STREAMS, *steps), "auto")
