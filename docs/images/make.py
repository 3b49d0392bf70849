"""Make the pictures of the documentation.

Only this script needs matplotlib, pyte, selenium and chromium with its driver:

    pip install -e ".[serve]" && pip install matplotlib pyte selenium
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
import fcntl
import html
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

OPTIMIZER = {"optimizer": "adamw", "beta2": 0.999}
"""Of charlm's runs in loss.svg."""

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#00795A", "#555555"
"""Of the palette of Okabe and Ito, which colour-blind readers can tell apart; the green is darker."""
SANS, MONO = "Helvetica, Arial, 'DejaVu Sans', sans-serif", "Menlo, Consolas, 'DejaVu Sans Mono', monospace"

SECONDS, SEED, HIDDEN, ADAM_LR = 90.0, 1, 512, 1e-3
"""Of the trainings in loss.svg. The learning rate of Adam is the best of three in benchmarks/README.md."""
MOMENTS = (3.0, 5.0, 8.0, 12.0, 17.0, 24.0, 33.0, 45.0, 60.0, 75.0, SECONDS)
"""Seconds of training at which the losses are measured. The measurement itself is not counted."""
WINDOW = 256
"""Length of the crops that the validation text is cut into, as in nanoGPT's README."""

CURVES = {
    "charlm": ("charlm, one core", "o-", BLUE, 5, (-135, -10)),
    "plain, Adam": ("nn.LSTM as in tutorials, Adam", "s--", ORANGE, -1, (9, -8)),
    "plain, SGD": ("nn.LSTM as in tutorials, SGD", "^:", GREY, -1, (9, 8)),
}
"""Trainers of loss.jsonl: label, line, colour; the point at which the label is, and its offset."""
NANOGPT = (180.0, 1.4697)
"""Seconds and validation loss that nanoGPT's README gives for its training on an A100."""

WIDTHS = (32, 64, 128)
CURVE_OPTIONS = ("--layers", "1", "--steps", "1000", "--eval-every", "50", "--lr", "0.01", "--precision", "fp32",
                 "--threads", "1", "--quiet")  # fmt: skip
"""Of the trainings in curve.svg."""

BLOCKS = "▏▎▍▌▋▊▉█"

COLUMNS, ROWS = 90, 24
TRAINING = ("charlm", "train", "tinyshakespeare.txt", "--time", "25s")

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


# ------------------------------------------------------------------------------------------------ measure


def measure(text: Path) -> None:
    """Train charlm and the plain trainer of benchmarks/peers.py in turns, and write their losses to loss.jsonl.

    All use one thread and count CPU time: the seconds of a core that does nothing else, also on a busy machine.
    """
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import peers
    import plain_trainer
    import torch
    from results import provenance

    from charlm.checkpoint.run_folder import RunFolder
    from charlm.corpus.preparation import prepare
    from charlm.corpus.prepared import open_corpus, parse_split
    from charlm.corpus.text import open_source
    from charlm.engine import create_engine
    from charlm.evaluation.measure import evaluate
    from charlm.training import trainer as charlm_trainer

    def engine_of(trainer: Any) -> Any:
        """An engine with the weights that would be saved now."""
        if isinstance(trainer, peers.Peer):
            return plain_trainer.PlainEngine(trainer.model)
        inner = trainer.trainer
        with inner.state.average.applied():
            weights = inner.model.weights()
        return create_engine(inner.model.config, weights, "cpu", "fp32", threads=1)

    torch.set_num_threads(1)
    plain_trainer.time = charlm_trainer.time = SimpleNamespace(monotonic=time.process_time)
    peers.Charlm.add_to_curve = lambda self: None  # its evaluations for benchmarks/peers.py are not needed here
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        prepare(run / "corpus", open_source([str(text)]), split=parse_split("90/10/0"))
        corpus = open_corpus(run / "corpus")
        held_out = [plain_trainer.held_out_ids(corpus)]
        settings = {"seconds": SECONDS, "seed": SEED, "options": {"threads": 1}}
        with RunFolder(run).lock():
            trainers = {
                "charlm": peers.Charlm(run, corpus, settings, rounds=3),
                "plain, Adam": peers.Peer(corpus, HIDDEN, "adam", ADAM_LR, SEED),
                "plain, SGD": peers.Peer(corpus, HIDDEN, "sgd", peers.SGD_LR, SEED),
            }
            curves: dict[str, list[list[float]]] = {name: [] for name in trainers}
            for moment in MOMENTS:
                for name, trainer in trainers.items():
                    trainer.train_until(moment)
                    loss = evaluate(engine_of(trainer), corpus.tokenizer, held_out, WINDOW).nats_per_char
                    curves[name].append([round(trainer.clock.seconds, 2), round(loss, 4)])
                    if isinstance(trainer, peers.Peer):
                        trainer.model.train()
                    sys.stderr.write(f"{name}: {curves[name][-1]}\n")
    with (HERE / "loss.jsonl").open("w", encoding="utf-8") as file:
        for name, curve in curves.items():
            steps = trainers[name].steps if name != "charlm" else trainers[name].trainer.progress.step
            line = {"trainer": name, "text": text.name, "seed": SEED, "steps": steps}
            clock = {"clock": "CPU time, one thread", "window": WINDOW}
            file.write(json.dumps({**line, **clock, "seconds, loss": curve, **provenance()}) + "\n")


# ------------------------------------------------------------------------------------------------ loss


def draw_losses(target: Path) -> None:
    """Draw the curves of loss.jsonl, and charlm's longer runs and nanoGPT's recorded figure as points."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.rcParams.update(
        {"svg.hashsalt": "charlm", "font.size": 11, "axes.spines.top": False, "axes.spines.right": False}
    )
    figure, axes = plt.subplots(figsize=(8.3, 4.6), layout="constrained")

    def label(text: str, point: tuple[float, float], colour: str, shift: tuple[float, float]) -> None:
        axes.annotate(text, point, shift, textcoords="offset points", va="center", color=colour)

    for line in (HERE / "loss.jsonl").read_text("utf-8").splitlines():
        result = json.loads(line)
        name, form, colour, shown, shift = CURVES[result["trainer"]]
        curve = result["seconds, loss"]
        axes.plot(*zip(*curve, strict=True), form, color=colour, markersize=5)
        label(f"{name}: {curve[-1][1]:.2f}", curve[shown], colour, shift)
    runs = list(long_runs())
    axes.plot(*zip(*runs, strict=True), "o", color=BLUE, markersize=8, markerfacecolor="white", markeredgewidth=2)
    for (seconds, loss), shift in zip(runs, ((-115, -17), (-84, -17)), strict=True):
        label(f"charlm, two cores, {seconds / 60:.0f} min: {loss:.2f}", (seconds, loss), BLUE, shift)
    axes.plot(*NANOGPT, "D", color=GREEN, markersize=8)
    label(f"nanoGPT, 3 minutes on an A100,\nrandom crops: {NANOGPT[1]:.2f}", NANOGPT, GREEN, (4, 22))
    axes.set(xscale="log", xlim=(2.7, 1100), ylim=(1.15, 3.6))
    axes.set_xlabel(
        "seconds, logarithmic; curves: CPU time on one core, circles: runs on two cores, mean of three seeds"
    )
    axes.set_title("Validation loss on tinyshakespeare, nats per character in crops of 256", loc="left", fontsize=11)
    ticks = (3, 10, 30, 60, 120, 180, 600)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(color="#dddddd")
    figure.savefig(target, facecolor="white", metadata={"Date": None})


def long_runs() -> Iterator[tuple[float, float]]:
    """Seconds and mean loss over the seeds of charlm's runs in quality.jsonl on the processor of loss.jsonl."""
    lines = (ROOT / "benchmarks" / "results" / "quality.jsonl").read_text("utf-8").splitlines()
    results = [json.loads(line) for line in lines]
    for seconds in (120.0, 600.0):
        expected = {"split": "90/10/0", "engine": "native avx512_bf16", "seconds": seconds, "options": OPTIMIZER}
        chosen = [result for result in results if expected.items() <= result["settings"].items()]
        yield seconds, mean(result["figures"]["crops_256"] for result in chosen)


# ------------------------------------------------------------------------------------------------ curve


def draw_curve(target: Path, text: Path) -> None:
    """Train three models of different width and let ``charlm plot`` draw them."""
    charlm = [sys.executable, "-m", "charlm"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / text.name).symlink_to(text.resolve())
        for width in WIDTHS:
            options = ["--hidden", str(width), *CURVE_OPTIONS, "--out", f"width-{width}"]
            subprocess.run([*charlm, "train", text.name, *options], cwd=folder, env=environment, check=True)
        runs = [f"width-{width}" for width in WIDTHS]
        subprocess.run([*charlm, "plot", *runs, "-o", str(target)], cwd=folder, env=environment, check=True)


# ------------------------------------------------------------------------------------------------ terminal


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


# ------------------------------------------------------------------------------------------------ surprisal


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


# ------------------------------------------------------------------------------------------------ serve

WRITTEN = "#mode=write&prompt=ROMEO%3A&seed=7&length=300&run=1"
HELD = 30
"""The text in serve.png, and the character whose alternatives are shown."""


def draw_page(target: Path) -> None:
    """Take a picture of the page of ``charlm serve``, with a text by the model that comes with charlm."""
    from PIL import Image
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    command = [sys.executable, "-m", "charlm", "serve", "--checkpoint", "checkpoints/shakespeare", "--port", "0"]
    with (
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        try:
            address = re.search(r"http://\S+", server.stderr.readline())[0]
            with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as browser:
                size = {"width": 1280, "height": 940, "deviceScaleFactor": 1, "mobile": False}
                browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
                browser.get(address + WRITTEN)
                stop, characters = (By.ID, "write-stop"), (By.CSS_SELECTOR, "#write-text i")
                WebDriverWait(browser, 30).until(
                    lambda _: browser.find_elements(*characters) and not browser.find_element(*stop).is_enabled()
                )
                browser.find_elements(*characters)[HELD].click()
                browser.save_screenshot(f"{folder}/page.png")
        finally:
            server.terminate()
        Image.open(f"{folder}/page.png").convert("RGB").quantize(64).save(target, optimize=True)


# ------------------------------------------------------------------------------------------------ pipeline


def draw_pipeline(target: Path) -> None:
    """Draw the stages from a text to a model and to new text, and below them one LSTM cell."""
    arrows = "".join(
        f'<marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" orient="auto" '
        'markerUnits="userSpaceOnUse" markerWidth="11" markerHeight="11">'
        f'<path d="M0 0 L10 5 L0 10 z" fill="{colour}"/></marker>'
        for name, colour in (("grey", GREY), ("blue", BLUE), ("orange", ORANGE))
    )
    size = (800, 660)
    target.write_text(
        svg(
            size,
            [
                f"<defs>{arrows}</defs>",
                rectangle(0, 0, *size, "white"),
                f'<g font-family="{SANS}" font-size="13" fill="#111111">',
                *stages(),
                *cell(),
                "</g>",
            ],
        ),
        encoding="utf-8",
    )


def stages() -> Iterator[str]:
    """The stages of training, left to right, and of generation, right to left."""
    yield caption(10, 26, "Training", "start", bold=True)
    yield caption(10, 168, "Generation", "start", bold=True)
    above, below = 70, 208
    yield caption(32, above + 5, "text")
    yield caption(140, below + 5, "new text")
    for x, name, notes in (
        (84, "tokenizer", ("one number (id)", "per character")),
        (234, "corpus", ("B streams in", "chunks of T ids")),
        (384, "model", ("embedding, LSTM", "layers, decoder")),
        (534, "training", ("loss, gradients,", "new weights")),
        (684, "checkpoint", ()),
    ):
        yield from box(x, above, 88, name, BLUE)
        for number, note in enumerate(notes):
            yield caption(x + 44, above + 36 + 15 * number, note, size=12, colour=GREY)
    for x, name in ((234, "tokenizer"), (384, "generation"), (534, "engine")):
        yield from box(x, below, 88, name, GREEN)
    yield from box(684, below, 112, "LanguageModel", GREEN)
    for start, label in ((172, "ids"), (322, "chunks"), (472, "logits"), (622, "weights")):
        yield line(f"M{start} {above} h60", GREY, "grey")
        yield caption(start + 30, above - 7, label, size=12)
    yield line(f"M50 {above} H82", GREY, "grey")
    yield line(f"M728 {above + 18} V{below - 20}", GREY, "grey")
    for start, label in ((684, "weights"), (534, "logits"), (384, "ids"), (234, "")):
        yield line(f"M{start} {below} h-60", GREY, "grey")
        yield caption(start - 29, below - 7, label, size=12)
    yield line(f"M428 {below + 18} v22 H578 v-19", GREY, "grey")
    yield caption(503, below + 56, "the drawn id is the next input", size=12, colour=GREY)


def cell() -> Iterator[str]:
    """An LSTM cell: the memory c along the top, the output h along the bottom, four gates between them."""
    c, product, gate, h = 372, 424, 480, 536
    forget, enter, candidate, leave, out, up = 250, 330, 415, 505, 590, 668
    yield caption(10, 300, "One LSTM cell, one character", "start", bold=True)
    yield rectangle(180, 328, 450, 244, "#F2F4F7", radius=12)
    yield line(f"M60 {c} H738", BLUE, "blue", 3)
    yield line(f"M60 {h} H{leave} V{gate}", ORANGE, width=3)
    yield line(f"M205 606 V{h}", GREY, "grey", 3)
    for x in (forget, enter, candidate):
        yield line(f"M{x} {h} V{gate}", ORANGE, width=3)
    for path in (
        f"M{forget} {gate} V{c + 13}",
        f"M{enter} {gate} V{product} H{candidate - 13}",
        f"M{candidate} {gate} V{product + 13}",
        f"M{candidate} {product} V{c + 13}",
        f"M{leave} {gate} V454 H{out - 13}",
    ):
        yield line(path, GREY, "grey")
    yield line(f"M{out} {c} V441", BLUE, "blue", 3)
    yield line(f"M{out} 454 V{h} H738", ORANGE, "orange", 3)
    yield line(f"M{up} {c + 8} v-16", "white", width=11)
    yield line(f"M{up} {h} V330", ORANGE, "orange", 3)
    for x, name, symbol in (
        (forget, "forget f", "σ"),
        (enter, "input i", "σ"),
        (candidate, "candidate g", "tanh"),
        (leave, "output o", "σ"),
    ):
        yield from box(x - 24, gate, 48, symbol, GREEN)
        yield caption(x, h + 22, name)
    yield from box(out - 24, 404, 48, "tanh", GREEN, 26)
    for x, y, symbol in ((forget, c, "×"), (candidate, product, "×"), (candidate, c, "+"), (out, 454, "×")):
        yield f'<circle cx="{x}" cy="{y}" r="12" fill="white" stroke="{GREY}" stroke-width="1.5"/>'
        yield caption(x, y + 6, symbol, size=18)
    for y, name, before, after, colour in (
        (c, "c", "memory", "new memory", BLUE),
        (h, "h", "last output", "new output", ORANGE),
    ):
        yield caption(48, y + 5, name, bold=True, colour=colour)
        yield caption(752, y + 5, name, bold=True, colour=colour)
        yield caption(10, y + 28, before, "start", colour=colour)
        yield caption(790, y + 28, after, "end", colour=colour)
    yield caption(up, 320, "h, to the next layer or the decoder")
    yield caption(205, 624, "x, the input")
    yield caption(
        260, 600, "f, i, o = σ(W x + U h + b)    g = tanh(W x + U h + b), each with its own W, U and b", "start"
    )
    yield caption(260, 622, "new c = f × c + i × g    new h = o × tanh(new c)", "start")
    yield caption(260, 644, "The state (h, c) goes to the next character and, detached, to the next chunk.", "start")


def svg(size: tuple[float, float], parts: Iterable[str]) -> str:
    width, height = size
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        + ("\n".join(parts) + "\n</svg>\n")
    )


def rectangle(x: float, y: float, width: float, height: float, colour: str, *, radius: float = 0) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" rx="{radius}" fill="{colour}"/>'


def box(x: float, y: float, width: float, label: str, colour: str, height: float = 36) -> Iterator[str]:
    """A stage whose centre has the height ``y``."""
    yield (
        f'<rect x="{x}" y="{y - height / 2}" width="{width}" height="{height}" rx="6" fill="white" '
        f'stroke="{colour}" stroke-width="2"/>'
    )
    yield caption(x + width / 2, y + 5, label, size=14)


def line(path: str, colour: str, arrow: str = "", width: float = 1.5) -> str:
    end = f' marker-end="url(#{arrow})"' if arrow else ""
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{end}/>'


def caption(
    x: float,
    y: float,
    text: str,
    anchor: str = "middle",
    *,
    size: int = 13,
    bold: bool = False,
    colour: str = "#111111",
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"{weight} '
        f'xml:space="preserve">{html.escape(text)}</text>'
    )


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
    parser.add_argument("--text", type=Path, help="tinyshakespeare.txt, for measure, terminal and cells")
    arguments = parser.parse_args()
    needs_text = {"curve", "measure", "terminal", "cells"} & set(arguments.names)
    if needs_text and arguments.text is None:
        parser.error(f"{min(needs_text)} needs --text")
    for name in arguments.names:
        if name == "measure":
            measure(arguments.text)
    for name, draw in PICTURES.items():
        stem = Path(name).stem
        if stem in arguments.names:
            draw(HERE / name, *([arguments.text] if stem in needs_text else []))


if __name__ == "__main__":
    main()
