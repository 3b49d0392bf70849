"""terminal.svg: a training in a terminal."""

from __future__ import annotations

import fcntl
import html
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

from shapes import MONO, rectangle, svg

ROOT = Path(__file__).parent.parent.parent

BLOCKS = "▏▎▍▌▋▊▉█"

COLUMNS, ROWS = 90, 24
TRAINING = ("charlm", "train", "tinyshakespeare.txt", "--time", "25s")


def draw_terminal(target: Path, text: Path) -> None:
    """Train in a pseudo-terminal and draw its last screen that has a progress bar and at most ``ROWS`` lines."""
    import pyte

    screen = pyte.Screen(COLUMNS, 2 * ROWS)
    stream = pyte.ByteStream(screen)
    stream.feed(f"$ {' '.join(TRAINING)}\r\n".encode())
    kept: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / text.name).symlink_to(text.resolve())
        for output in run_in_terminal([sys.executable, "-m", *TRAINING], Path(folder)):
            stream.feed(output)
            lines = [line.rstrip() for line in screen.display]
            while not lines[-1]:
                lines.pop()
            if lines[-1].endswith(" left") and len(lines) <= ROWS:
                kept = lines
    target.write_text(terminal_svg(kept), encoding="utf-8")


def run_in_terminal(command: list[str], folder: Path) -> Iterator[bytes]:
    """The output of a command in a pseudo-terminal, as it comes."""
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=folder, env=environment, stdin=terminal, stdout=terminal, stderr=terminal):
        os.close(terminal)
        try:
            while output := os.read(reader, 256):
                yield output
        except OSError:  # the command has ended
            os.close(reader)


def terminal_svg(lines: list[str]) -> str:
    """Lines of a terminal as SVG. Block characters become rectangles, because fonts draw them with gaps."""
    width, height, margin = 8.4, 19, 14
    parts = []
    for row, line in enumerate(lines):
        y = margin + 14 + row * height
        plain = "".join(" " if character in BLOCKS else character for character in line)
        for column, character in enumerate(line):
            if character in BLOCKS:
                eighths = BLOCKS.index(character) + 1
                parts.append(rectangle(margin + column * width, y - 13, width * eighths / 8 + 0.2, 16, "#56B4E9"))
        if line:
            colour = "#F0E442" if line.startswith("$") else "#e8e8e8"
            length = f'textLength="{len(line) * width:.1f}" xml:space="preserve"'
            parts.append(f'<text x="{margin}" y="{y}" fill="{colour}" {length}>{html.escape(plain)}</text>')
    size = (round(2 * margin + COLUMNS * width), 2 * margin + height * len(lines))
    return svg(
        size, [rectangle(0, 0, *size, "#1e1e1e", radius=8), f'<g font-family="{MONO}" font-size="14">', *parts, "</g>"]
    )
