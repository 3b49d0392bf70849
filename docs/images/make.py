"""Make the pictures of the documentation.

The files beside this one draw them. Only they need matplotlib, pyte, pillow, selenium, and chromium with its driver:

    pip install -e ".[serve]" && pip install matplotlib pyte pillow selenium
    python docs/images/make.py loss pipeline surprisal serve
    python docs/images/make.py terminal --text tinyshakespeare.txt    # trains for 25 seconds
    python docs/images/make.py cells --text tinyshakespeare.txt
    python docs/images/make.py curve --text tinyshakespeare.txt       # trains three models, for 2 minutes
    python docs/images/make.py measure --text tinyshakespeare.txt     # writes loss.jsonl; 5 minutes of CPU time

    loss.svg        validation loss against seconds, from loss.jsonl and benchmarks/results/quality.jsonl
    curve.svg       what ``charlm plot`` draws of three trainings
    terminal.svg    a training in a terminal
    surprisal.png   the page that ``charlm score --html`` writes
    cells.png       the page that ``charlm neurons --html`` writes
    serve.png       the page of ``charlm serve``
    pipeline.svg    from a text to a model to new text, and one LSTM cell
"""

from __future__ import annotations

import argparse
from pathlib import Path

from curve import draw_curve
from losses import draw_losses, measure
from pages import draw_cells, draw_surprisal
from pipeline import draw_pipeline
from serving import draw_page
from terminal import draw_terminal

HERE = Path(__file__).parent

PICTURES = {
    "loss.svg": draw_losses,
    "curve.svg": draw_curve,
    "terminal.svg": draw_terminal,
    "surprisal.png": draw_surprisal,
    "cells.png": draw_cells,
    "serve.png": draw_page,
    "pipeline.svg": draw_pipeline,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="+", choices=["measure", *(Path(name).stem for name in PICTURES)], metavar="NAME"
    )
    parser.add_argument("--text", type=Path, help="tinyshakespeare.txt, for curve, measure, terminal and cells")
    arguments = parser.parse_args()
    needs_text = {"curve", "measure", "terminal", "cells"} & set(arguments.names)
    if needs_text and arguments.text is None:
        parser.error(f"{min(needs_text)} needs --text")
    if "measure" in arguments.names:
        measure(arguments.text)
    for name, draw in PICTURES.items():
        stem = Path(name).stem
        if stem in arguments.names:
            draw(HERE / name, *([arguments.text] if stem in needs_text else []))


if __name__ == "__main__":
    main()
