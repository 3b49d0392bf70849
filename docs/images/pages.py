"""surprisal.png and cells.png: pages that charlm writes, photographed in chromium."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

ODD_LINES = """\
GREMIO:
Good morrow, neighbour Baptista.

BAPTISTA:
Good morow, neighbour Gremio.
God save you, gentlemen!

PETRUCHIO:
And you, good sir! Pray, have you not a laptop
Call'd Katharina, fair and virtuuos?
"""
"""From the tenth of the text that the model did not learn, with two typing errors and one wrong word."""


def draw_surprisal(target: Path) -> None:
    """Score ``ODD_LINES`` with the model that comes with charlm and take a picture of the page in chromium."""
    photograph(target, (1120, 600), ["score"], ODD_LINES)


def draw_cells(target: Path, text: Path) -> None:
    """Take a picture of the cells of the model that comes with charlm, on the tenth of the text it did not learn."""
    lines = text.read_text("utf-8")
    photograph(target, (900, 560), ["neurons", "-", "--probe", "line"], lines[len(lines) * 9 // 10 :])


def photograph(target: Path, window: tuple[int, int], command: list[str], text: str) -> None:
    """Take a picture of the page that a command with the model that comes with charlm writes for a text on stdin."""
    from PIL import Image, ImageChops

    with tempfile.TemporaryDirectory() as folder:
        page, picture = Path(folder) / "page.html", Path(folder) / "page.png"
        charlm = [sys.executable, "-m", "charlm", *command, "--checkpoint", "checkpoints/shakespeare"]
        subprocess.run([*charlm, "--html", str(page)], cwd=ROOT, input=text, text=True, check=True)
        browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/user"]
        size = ["--window-size={},{}".format(*window), "--force-device-scale-factor=1.4", "--hide-scrollbars"]
        subprocess.run([*browser, *size, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True)
        image = Image.open(picture).convert("RGB")
    white = Image.new("RGB", image.size, "white")
    left, upper, right, lower = ImageChops.difference(image, white).getbbox()
    margin = 24
    box = (max(0, left - margin), max(0, upper - margin), *map(min, image.size, (right + margin, lower + margin)))
    image.crop(box).quantize(64).save(target, optimize=True)
