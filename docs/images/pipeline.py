"""pipeline.svg: the stages from a text to a model and to new text, and one LSTM cell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shapes import BLUE, GREEN, GREY, ORANGE, SANS, box, caption, line, rectangle, svg


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
