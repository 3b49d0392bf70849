"""loss.svg: validation loss against seconds, of charlm, of torch's nn.LSTM and of nanoGPT."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

from shapes import BLUE, GREEN, GREY, ORANGE

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

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
    results = [result for line in lines if (result := json.loads(line))["text"] == "tinyshakespeare.txt"]
    for seconds in (120.0, 600.0):
        expected = {"split": "90/10/0", "engine": "native avx512_bf16", "seconds": seconds, "options": {}}
        chosen = [result for result in results if expected.items() <= result["settings"].items()]
        yield seconds, mean(result["figures"]["crops_256"] for result in chosen)
