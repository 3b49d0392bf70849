"""charlm on a GPU: whether it computes the same as on the CPU, how fast it trains, and how fast it writes.

    python benchmarks/gpu.py tinyshakespeare.txt names.txt [--only losses steps ...] [--results FILE]

One script of a few minutes for whoever has a GPU, the most important parts first. Every figure is a line of
results/gpu.jsonl as soon as it is there, so that an interrupted run keeps what it has measured. The CUDA device is the
current one; without one the script says so and measures nothing. The first text runs on, the second has a document on
each line.

    losses      the first 50 training losses on CUDA beside those on the CPU in float32, in each precision, without
                dropout: the largest relative difference
    graph       the first 50 losses with dropout, with the captured graph and without it: whether they are equal
    steps       a training step of charlm, as ``charlm train`` makes it, beside one of a plain nn.LSTM in float16 and
                bfloat16 autocast and in float32, of several shapes: milliseconds, and million characters a second;
                of one shape the kernels that take the most time
    train       ``charlm train TEXT --split 90/10/0 --time 60s``, then ``charlm eval``
    resume      20 steps, and 10 and a resume to 20: whether the weights are the same, bit by bit
    write       characters a second that a model writes, in one stream and in many, on CUDA and on the CPU
    documents   characters a second that documents are learnt with, packed and padded
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from results import FOLDER, Results, circumstances
from torch import nn
from torch.nn import functional as F

import charlm
from charlm import runs
from charlm.checkpoint.run_folder import RunFolder
from charlm.model import char_lm
from charlm.runs import PreparedRun, RunOptions, TextOptions, new_run
from charlm.training import update
from charlm.training.events import Stepped
from charlm.training.options import TrainingOptions

BPTT = 128
VOCABULARY = 322
"""That of tinyshakespeare: 66 characters and 256 byte pieces."""
WARM_UP, TIMED, ROUNDS = 10, 30, 3
UNDROPPED = {"dropout_hidden": 0.0, "dropout_output": 0.0, "state_reset": 0.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="a text that runs on, of some hundred thousand characters")
    parser.add_argument("lines", type=Path, help="a text with a document on each line")
    parser.add_argument("--results", type=Path, default=FOLDER / "gpu.jsonl", help="the file to add to")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts (default: all)")
    parser.add_argument("--time", default="60s", help="length of the training (default 60s)")
    parser.add_argument("--shapes", nargs="+", default=["2x512", "3x1024", "1x512"], help="layers x width of the steps")
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 128, 256], help="streams of the steps")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16", "fp16"], help="default fp32 bf16 fp16")
    parser.add_argument("--options", default="", help='more options for the training, such as "--batch 32"')
    parser.add_argument("--device", default="cuda", help="cpu tries the script out (default cuda)")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device here; nothing was measured")
    notes = Notes(arguments)
    for part in arguments.only:
        print(f"-- {part}", file=sys.stderr)
        try:
            PARTS[part](arguments, notes)
        except Exception as error:  # the parts after it must not be lost
            traceback.print_exc()
            notes.add(part, {}, {"error": f"{type(error).__name__}: {error}"[:400]})


class Notes:
    """Writes a line for every figure, and prints it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._results = Results(arguments.results)
        self._circumstances = {**circumstances(), "gpu": gpu_name()}

    def add(self, part: str, settings: dict[str, Any], figures: dict[str, Any]) -> None:
        settings = {"part": part, "gpu": self._circumstances["gpu"], **settings}
        self._results.add({"settings": settings, "figures": figures, **self._circumstances})
        shown = {**{name: value for name, value in settings.items() if name != "gpu"}, **figures}
        print(json.dumps(shown), flush=True)


def gpu_name() -> str | None:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# ---------------------------------------------------------------------------------------------------- losses


def losses(arguments: argparse.Namespace, notes: Notes) -> None:
    """Compare the first losses with those of the CPU in float32."""
    wanted = {"size": "large", "steps": 50, "batch": 64, "bptt": 64, "lr": 2e-3, "average": "none", **UNDROPPED}
    expected = _losses(arguments.text, "cpu", "fp32", wanted)
    for precision in arguments.precisions:
        found = _losses(arguments.text, arguments.device, precision, wanted)
        apart = [abs(a - b) / b for a, b in zip(found, expected, strict=True)]
        figures = {"largest_relative_difference": max(apart), "first": apart[0], "last": apart[-1]}
        notes.add(
            "losses", {"precision": precision, **wanted}, {**figures, "loss": found[-1], "cpu_loss": expected[-1]}
        )


def graph(arguments: argparse.Namespace, notes: Notes) -> None:
    """Compare updates replayed from a graph with the same updates launched one kernel after the other."""
    wanted = {"size": "large", "steps": 50, "batch": 64, "bptt": 64, "dropout_output": 0.3, "dropout_hidden": 0.3}
    for precision in arguments.precisions:
        captured = _losses(arguments.text, arguments.device, precision, wanted)
        with mock.patch.object(update, "_EAGER_UPDATES", 1 << 30):
            eager = _losses(arguments.text, arguments.device, precision, wanted)
        apart = max(abs(a - b) / b for a, b in zip(captured, eager, strict=True))
        figures = {"equal": captured == eager, "largest_relative_difference": apart}
        notes.add("graph", {"precision": precision, **wanted}, figures)


def _losses(text: Path, device: str, precision: str, wanted: dict[str, Any]) -> list[float]:
    found: list[float] = []

    def note(event: Any) -> None:
        if isinstance(event, Stepped):
            found.append(event.nats_per_char)

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        charlm.train(text, out=out, device=device, precision=precision, on_event=note, **wanted)
    return found


# ---------------------------------------------------------------------------------------------------- steps


class PlainModel(nn.Module):
    """What a user of torch writes: an embedding, one nn.LSTM of all layers, a decoder tied to the embedding."""

    def __init__(self, layers: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, hidden)
        self.lstm = nn.LSTM(hidden, hidden, layers)
        self.bias = nn.Parameter(torch.zeros(VOCABULARY))
        nn.init.normal_(self.embedding.weight, 0.0, 0.2)

    def forward(self, ids_TB: torch.Tensor, state: Any) -> Any:
        x_TBH, state = self.lstm(self.embedding(ids_TB), state)
        return F.linear(x_TBH, self.embedding.weight, self.bias), state


def steps(arguments: argparse.Namespace, notes: Notes) -> None:
    """Time a step of charlm and one of nn.LSTM, in turns."""
    for layers, hidden in (map(int, shape.split("x")) for shape in arguments.shapes):
        for batch in arguments.batches:
            shape = {"layers": layers, "hidden": hidden, "batch": batch, "bptt": BPTT}
            with contextlib.ExitStack() as opened:
                contenders = {
                    f"nn.LSTM {name}": plain_step(arguments.device, layers, hidden, batch, kind)
                    for name, kind in PLAIN_KINDS.items()
                    if kind is None or arguments.device != "cpu"
                }
                for precision in arguments.precisions:
                    step = opened.enter_context(charlm_step(arguments, precision, shape))
                    contenders[f"charlm {precision}"] = step
                rounds: dict[str, list[float]] = {name: [] for name in contenders}
                for _ in range(ROUNDS):
                    for name, work in contenders.items():
                        rounds[name].append(seconds_of(work))
                for name, seconds in rounds.items():
                    middle = median(seconds)
                    figures = {"ms": 1000 * middle, "million_chars_per_s": batch * BPTT / middle / 1e6}
                    notes.add("steps", {"contender": name, **shape}, figures)
                if (layers, batch) == (2, 128) and torch.cuda.is_available():
                    for name, work in contenders.items():
                        notes.add("kernels", {"contender": name, **shape}, {"kernels": kernels_of(work)})


PLAIN_KINDS = {"float16 autocast": torch.float16, "bfloat16 autocast": torch.bfloat16, "float32": None}


def plain_step(device: str, layers: int, hidden: int, batch: int, kind: torch.dtype | None) -> Callable[[], object]:
    """One update as a user of torch writes it, ids on the device; float16 with a GradScaler, float32 without TF32."""
    torch.manual_seed(1)
    model = PlainModel(layers, hidden).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)
    scaler = torch.amp.GradScaler(device, enabled=kind == torch.float16)
    state: Any = tuple(torch.zeros(layers, batch, hidden, device=device) for _ in range(2))
    ids_TB = torch.randint(66, (BPTT + 1, batch), device=device)

    def step() -> None:
        nonlocal state
        with torch.autocast(device, kind, enabled=kind is not None):
            logits_TBV, after = model(ids_TB[:-1], state)
        loss = F.cross_entropy(logits_TBV.float().flatten(0, 1), ids_TB[1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        state = tuple(each.detach().float() for each in after)

    return step


@contextlib.contextmanager
def charlm_step(arguments: argparse.Namespace, precision: str, shape: dict[str, int]) -> Iterator[Callable[[], object]]:
    """The next step of a training that ``charlm train`` would make, all that belongs to one included."""
    request = TrainingOptions(
        **shape, embedding=shape["hidden"], steps=100_000, eval_every=100_000, save_every="100000"
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        new_run(
            TextOptions([str(arguments.text)]),
            request,
            RunOptions(Path(folder) / "run", None, arguments.device, precision),
        ) as prepared,
    ):
        events = prepared.trainer.events()
        yield lambda: next(events)


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds of one call, the mean over several, with what they left to do on the device."""
    for _ in range(WARM_UP):
        work()
    synchronize()
    began = time.perf_counter()
    for _ in range(TIMED):
        work()
    synchronize()
    return (time.perf_counter() - began) / TIMED


def kernels_of(work: Callable[[], object]) -> list[list[Any]]:
    """Name, microseconds and number of the kernels that take the most time in a step."""
    from torch.profiler import ProfilerActivity, profile

    synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(3):
            work()
        synchronize()
    spent = sorted(profiler.key_averages(), key=lambda event: -event.self_device_time_total)[:10]
    return [[event.key[:80], round(event.self_device_time_total / 3, 1), event.count // 3] for event in spent]


# ---------------------------------------------------------------------------------------------------- train, resume


def command(*words: object) -> str:
    """What a command of charlm's prints."""
    line = [sys.executable, "-m", "charlm", *map(str, words)]
    return subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True, env=os.environ).stdout


def train(arguments: argparse.Namespace, notes: Notes) -> None:
    """Train for a minute as a person would, and evaluate."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        began = time.perf_counter()
        options = ["--split", "90/10/0", "--time", arguments.time, "--device", arguments.device, "--json"]
        options += shlex.split(arguments.options)
        trained = json.loads(command("train", arguments.text, "--out", run, *options))
        spent = time.perf_counter() - began
        # One stream is evaluated on the CPU: a GPU would launch kernels for each of its characters.
        evaluated = json.loads(command("eval", "-c", run, "--split", "valid", "--json"))
        metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        curve = [[m["seconds"], m["step"], m["valid_nats_per_char"]] for m in metrics if m["kind"] == "valid"]
        chosen = json.loads((run / f"step-{RunFolder(run).step_numbers()[-1]}" / "config.json").read_text())
    figures = {
        "trained": trained,
        "wall_seconds": spent,
        "nats_per_char": evaluated["nats_per_char"],
        "engine": evaluated["engine"],
        "curve": curve,
        "recipe": {"model": chosen["model"], "training": chosen["training"]},
    }
    notes.add("train", {"time": arguments.time, "split": "90/10/0", "options": arguments.options}, figures)


def resume(arguments: argparse.Namespace, notes: Notes) -> None:
    """Whether a run that was stopped and resumed ends with the weights of an uninterrupted one."""
    for precision in arguments.precisions:
        digests = []
        for stop_at in (None, 10):
            with tempfile.TemporaryDirectory() as folder:
                run = Path(folder) / "run"
                where = RunOptions(run, None, arguments.device, precision)
                with new_run(
                    TextOptions([str(arguments.text)]), TrainingOptions(size="medium", steps=20), where
                ) as prepared:
                    _train_up_to(prepared, stop_at)
                if stop_at is not None:
                    runs.resume(run)
                digests.append(hashlib.sha256((run / "step-20/model.safetensors").read_bytes()).hexdigest()[:16])
        notes.add("resume", {"precision": precision}, {"same_bits": len(set(digests)) == 1, "digests": digests})


def _train_up_to(prepared: PreparedRun, step: int | None) -> None:
    for event in prepared.trainer.events():
        if isinstance(event, Stepped) and event.step == step:
            prepared.trainer.stop()


# ---------------------------------------------------------------------------------------------------- write


def write(arguments: argparse.Namespace, notes: Notes) -> None:
    """Characters a second, the prompt and the sampling included."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        charlm.train(arguments.text, out=run, steps=30, size="large", device=arguments.device)
        for device in (arguments.device, "cpu", "auto"):
            model = charlm.load(run, device=device)
            for count, length in ((1, 2000), (4096, 100)):
                list(model.samples(min(count, 256), length=20, seed=1))  # what is prepared once
                began = time.perf_counter()
                written = sum(map(len, model.samples(count, length=length, seed=1)))
                speed = written / (time.perf_counter() - began)
                figures = {"chars_per_s": speed, "engine": model.generation_engine.name}
                notes.add("write", {"device": device, "samples": count, "length": length}, figures)


# ---------------------------------------------------------------------------------------------------- documents


def documents(arguments: argparse.Namespace, notes: Notes) -> None:
    """How fast documents are learnt, packed and padded."""
    packs = char_lm.packs
    for name, choice in (("packed", packs), ("padded", lambda tensor: False)):
        char_lm.packs = choice
        try:
            with tempfile.TemporaryDirectory() as folder:
                request = TrainingOptions(size="large", steps=100_000, eval_every=100_000, save_every="100000")
                texts = TextOptions([str(arguments.lines)], documents="lines")
                where = RunOptions(Path(folder) / "run", None, arguments.device)
                with new_run(texts, request, where) as prepared:
                    notes.add("documents", {"layout": name}, _document_speed(prepared))
        finally:
            char_lm.packs = packs


def _document_speed(prepared: PreparedRun) -> dict[str, Any]:
    events = prepared.trainer.events()
    for _ in range(WARM_UP):
        next(events)
    synchronize()
    began, characters = time.perf_counter(), 0
    for _ in range(TIMED):
        event = next(events)
        characters += event.characters if isinstance(event, Stepped) else 0
    synchronize()
    seconds = time.perf_counter() - began
    return {"chars_per_s": characters / seconds, "ms": 1000 * seconds / TIMED}


PARTS: dict[str, Callable[[argparse.Namespace, Notes], None]] = {
    "losses": losses,
    "graph": graph,
    "steps": steps,
    "train": train,
    "resume": resume,
    "write": write,
    "documents": documents,
}


if __name__ == "__main__":
    main()
