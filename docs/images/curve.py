"""curve.svg: what ``charlm plot`` draws of three trainings."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

WIDTHS = (32, 64, 128)
OPTIONS = ("--layers", "1", "--steps", "1000", "--eval-every", "50", "--lr", "0.01", "--precision", "fp32",
           "--threads", "1", "--quiet")  # fmt: skip
"""Of the trainings in curve.svg."""


def draw_curve(target: Path, text: Path) -> None:
    """Train three models of different width and let ``charlm plot`` draw them."""
    charlm = [sys.executable, "-m", "charlm"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / text.name).symlink_to(text.resolve())
        for width in WIDTHS:
            options = ["--hidden", str(width), *OPTIONS, "--out", f"width-{width}"]
            subprocess.run([*charlm, "train", text.name, *options], cwd=folder, env=environment, check=True)
        runs = [f"width-{width}" for width in WIDTHS]
        subprocess.run([*charlm, "plot", *runs, "-o", str(target)], cwd=folder, env=environment, check=True)
