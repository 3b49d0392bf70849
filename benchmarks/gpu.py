"""charlm on a GPU: whether it computes the same as on the CPU, and how fast it trains and generates.

    python benchmarks/gpu.py tinyshakespeare.txt names.txt [--only losses steps ...] [--results FILE]

It takes a few minutes. Each figure is appended to results/gpu.jsonl at once, so that an interrupted benchmark keeps its
results. It uses the current CUDA device, and exits without measuring anything if there is none. The first text is
running text, the second has one document per line.

    losses      the first 50 training losses on CUDA compared with those on the CPU in float32, in each precision,
                without dropout: the largest relative difference
    graph       50 losses with dropout and a second generation, with and without the captured graph: whether they are
                equal
    steps       a training step of ``charlm train`` compared with one of a plain nn.LSTM in float16 and bfloat16
                autocast and in float32, for several shapes: milliseconds, and million characters per second; for one
                shape also the kernels that take the most time
    train       ``charlm train TEXT --split 90/10/0 --time 60s``, then ``charlm eval``
    resume      20 steps, and 10 steps resumed to 20: whether the weights are the same, bit by bit
    write       characters per second of generation, in one stream and in many, on CUDA and on the CPU
    documents   characters per second of training on documents
    long        only if it is named: trainings of 2 x 512 with 32 streams for as many steps as two CPU cores make in 10,
                30 and 60 minutes, with the defaults, evaluated on text that had no influence
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
from results import FOLDER, Results, provenance
from torch import nn
from torch.nn import functional as F

import charlm
from charlm import runs
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.step import open_checkpoint
from charlm.runs import PreparedRun, RunOptions, new_run
from charlm.training import update
from charlm.training.events import Stepped
from charlm.training.options import TrainingOptions
from charlm.training.text_options import TextOptions

BPTT = 128
VOCABULARY = 322
"""The vocabulary size of tinyshakespeare: 66 characters and 256 byte pieces."""
WARM_UP_STEPS, TIMED_STEPS, ROUNDS = 16, 48, 3
"""Multiples of 16, because a GPU's steps end in groups of that many."""
NO_DROPOUT = {"dropout_hidden": 0.0, "dropout_output": 0.0, "state_reset": 0.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="running text of some hundred thousand characters")
    parser.add_argument("lines", type=Path, help="a text with one document per line")
    parser.add_argument("--results", type=Path, default=FOLDER / "gpu.jsonl", help="file to append to")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[part for part in PARTS if part != "long"],
                        help="parts (default: all but long)")  # fmt: skip
    parser.add_argument("--time", default="60s", help="duration of the training (default 60s)")
    parser.add_argument("--shapes", nargs="+", default=["2x512", "3x1024", "1x512"], help="layers x width for steps")
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 128, 256], help="streams for steps")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16", "fp16"], help="default fp32 bf16 fp16")
    parser.add_argument("--options", default="", help='more options for train, such as "--batch 32"')
    parser.add_argument("--device", default="cuda", help="use cpu to test the script (default cuda)")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch found no CUDA device; nothing was measured")
    recorder = Recorder(arguments)
    for part in arguments.only:
        print(f"-- {part}", file=sys.stderr)
        try:
            PARTS[part](arguments, recorder)
        except Exception as error:  # the other parts should still run
            traceback.print_exc()
            recorder.add(part, {}, {"error": f"{type(error).__name__}: {error}"[:400]})


class Recorder:
    """Appends each result to the file and prints it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._results = Results(arguments.results)
        self._provenance = {**provenance(), "gpu": gpu_name()}

    def add(self, part: str, settings: dict[str, Any], figures: dict[str, Any]) -> None:
        settings = {"part": part, "gpu": self._provenance["gpu"], **settings}
        self._results.add({"settings": settings, "figures": figures, **self._provenance})
        printed = {**{name: value for name, value in settings.items() if name != "gpu"}, **figures}
        print(json.dumps(printed), flush=True)


def gpu_name() -> str | None:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# ---------------------------------------------------------------------------------------------------- losses


def losses(arguments: argparse.Namespace, recorder: Recorder) -> None:
    """Compare the first training losses with those on the CPU in float32."""
    options = {"size": "large", "steps": 50, "batch": 64, "bptt": 64, "lr": 2e-3, "average": "none", **NO_DROPOUT}
    expected = _losses(arguments.text, "cpu", "fp32", options)
    for precision in arguments.precisions:
        actual = _losses(arguments.text, arguments.device, precision, options)
        differences = [abs(a - b) / b for a, b in zip(actual, expected, strict=True)]
        figures = {
            "largest_relative_difference": max(differences),
            "first": differences[0],
            "last": differences[-1],
            "loss": actual[-1],
            "cpu_loss": expected[-1],
        }
        recorder.add("losses", {"precision": precision, **options}, figures)


def graph(arguments: argparse.Namespace, recorder: Recorder) -> None:
    """Compare updates replayed from a CUDA graph with the same updates launched kernel by kernel.

    Half of them are those of a second generation, which has a teacher.
    """
    dropouts = {"dropout_output": 0.3, "dropout_hidden": 0.3}
    options = {"size": "large", "steps": 50, "generations": 2, "batch": 64, "bptt": 64, **dropouts}
    for precision in arguments.precisions:
        captured = _losses(arguments.text, arguments.device, precision, options)
        with mock.patch.object(update, "_EAGER_UPDATES", 1 << 30):
            eager = _losses(arguments.text, arguments.device, precision, options)
        difference = max(abs(a - b) / b for a, b in zip(captured, eager, strict=True))
        figures = {"equal": captured == eager, "largest_relative_difference": difference}
        recorder.add("graph", {"precision": precision, **options}, figures)


def _losses(text: Path, device: str, precision: str, options: dict[str, Any]) -> list[float]:
    losses: list[float] = []

    def on_event(event: Any) -> None:
        if isinstance(event, Stepped):
            losses.append(event.nats_per_char)

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        charlm.train(text, out=out, device=device, precision=precision, on_event=on_event, **options)
    return losses


# ---------------------------------------------------------------------------------------------------- steps


class PlainModel(nn.Module):
    """The usual model in plain torch: an embedding, one nn.LSTM with all layers, a decoder tied to the embedding."""

    def __init__(self, layers: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, hidden)
        self.lstm = nn.LSTM(hidden, hidden, layers)
        self.bias = nn.Parameter(torch.zeros(VOCABULARY))
        nn.init.normal_(self.embedding.weight, 0.0, 0.2)

    def forward(self, ids_TB: torch.Tensor, state: Any) -> Any:
        x_TBH, state = self.lstm(self.embedding(ids_TB), state)
        return F.linear(x_TBH, self.embedding.weight, self.bias), state


def steps(arguments: argparse.Namespace, recorder: Recorder) -> None:
    """Time a step of charlm and of nn.LSTM in interleaved rounds."""
    for layers, hidden in (map(int, shape.split("x")) for shape in arguments.shapes):
        for batch in arguments.batches:
            shape = {"layers": layers, "hidden": hidden, "batch": batch, "bptt": BPTT}
            with contextlib.ExitStack() as stack:
                contenders = {
                    f"nn.LSTM {name}": plain_step(arguments.device, layers, hidden, batch, dtype)
                    for name, dtype in PLAIN_DTYPES.items()
                    if dtype is None or arguments.device != "cpu"
                }
                for precision in arguments.precisions:
                    step = stack.enter_context(charlm_step(arguments, precision, shape))
                    contenders[f"charlm {precision}"] = step
                rounds: dict[str, list[float]] = {name: [] for name in contenders}
                for _ in range(ROUNDS):
                    for name, work in contenders.items():
                        rounds[name].append(seconds_of(work))
                for name, seconds in rounds.items():
                    step_seconds = median(seconds)
                    speed = batch * BPTT / step_seconds / 1e6
                    figures = {"ms": 1000 * step_seconds, "million_chars_per_s": speed}
                    recorder.add("steps", {"contender": name, **shape}, figures)
                if (layers, batch) == (2, 128) and torch.cuda.is_available():
                    for name, work in contenders.items():
                        recorder.add("kernels", {"contender": name, **shape}, {"kernels": slowest_kernels(work)})


PLAIN_DTYPES = {"float16 autocast": torch.float16, "bfloat16 autocast": torch.bfloat16, "float32": None}


def plain_step(device: str, layers: int, hidden: int, batch: int, dtype: torch.dtype | None) -> Callable[[], object]:
    """An update of the plain model, ids on the device. float16 uses a GradScaler, float32 does not use TF32."""
    torch.manual_seed(1)
    model = PlainModel(layers, hidden).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    state: Any = tuple(torch.zeros(layers, batch, hidden, device=device) for _ in range(2))
    ids_TB = torch.randint(66, (BPTT + 1, batch), device=device)

    def step() -> None:
        nonlocal state
        with torch.autocast(device, dtype, enabled=dtype is not None):
            logits_TBV, new_state = model(ids_TB[:-1], state)
        loss = F.cross_entropy(logits_TBV.float().flatten(0, 1), ids_TB[1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        state = tuple(tensor.detach().float() for tensor in new_state)

    return step


@contextlib.contextmanager
def charlm_step(arguments: argparse.Namespace, precision: str, shape: dict[str, int]) -> Iterator[Callable[[], object]]:
    """A function that makes the next complete step of a training, as ``charlm train`` does."""
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
    """Mean duration of a call in seconds, kernels on the device included."""
    for _ in range(WARM_UP_STEPS):
        work()
    synchronize()
    start = time.perf_counter()
    for _ in range(TIMED_STEPS):
        work()
    synchronize()
    return (time.perf_counter() - start) / TIMED_STEPS


def slowest_kernels(work: Callable[[], object]) -> list[list[Any]]:
    """Name, microseconds and number of launches of the kernels that take the most time in a step."""
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
    """Run a charlm command. Returns its output."""
    line = [sys.executable, "-m", "charlm", *map(str, words)]
    return subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True, env=os.environ).stdout


def train(arguments: argparse.Namespace, recorder: Recorder) -> None:
    """Train with the command line and evaluate."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        start = time.perf_counter()
        options = ["--split", "90/10/0", "--time", arguments.time, "--device", arguments.device, "--json"]
        options += shlex.split(arguments.options)
        trained = json.loads(command("train", arguments.text, "--out", run, *options))
        spent = time.perf_counter() - start
        # The evaluation reads one stream and runs on the CPU: a GPU would launch kernels for each character.
        evaluated = json.loads(command("eval", "-c", run, "--split", "valid", "--json"))
        metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        curve = [[m["seconds"], m["step"], m["valid_nats_per_char"]] for m in metrics if m["kind"] == "valid"]
        config = json.loads((run / f"step-{RunFolder(run).step_numbers()[-1]}" / "config.json").read_text())
    figures = {
        "trained": trained,
        "wall_seconds": spent,
        "nats_per_char": evaluated["nats_per_char"],
        "engine": evaluated["engine"],
        "curve": curve,
        "recipe": {"model": config["model"], "training": config["training"]},
    }
    recorder.add("train", {"time": arguments.time, "split": "90/10/0", "options": arguments.options}, figures)


def resume(arguments: argparse.Namespace, recorder: Recorder) -> None:
    """Whether an interrupted and resumed run ends with the same weights as an uninterrupted one."""
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
        recorder.add("resume", {"precision": precision}, {"same_bits": len(set(digests)) == 1, "digests": digests})


def _train_up_to(prepared: PreparedRun, step: int | None) -> None:
    for event in prepared.trainer.events():
        if isinstance(event, Stepped) and event.step == step:
            prepared.trainer.stop()


# ---------------------------------------------------------------------------------------------------- generation


def generation(arguments: argparse.Namespace, recorder: Recorder) -> None:
    """Characters per second, including the prompt and sampling."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        charlm.train(arguments.text, out=run, steps=30, size="large", device=arguments.device)
        for device in (arguments.device, "cpu", "auto"):
            model = charlm.load(run, device=device)
            for count, length in ((1, 2000), (4096, 100)):
                list(model.samples(min(count, 256), length=20, seed=1))  # initialization, not timed
                start = time.perf_counter()
                characters = sum(map(len, model.samples(count, length=length, seed=1)))
                speed = characters / (time.perf_counter() - start)
                figures = {"chars_per_s": speed, "engine": model.generation_engine.name}
                recorder.add("write", {"device": device, "samples": count, "length": length}, figures)


# ---------------------------------------------------------------------------------------------------- documents


def documents(arguments: argparse.Namespace, recorder: Recorder) -> None:
    """Speed of training on documents."""
    with tempfile.TemporaryDirectory() as folder:
        request = TrainingOptions(size="large", steps=100_000, eval_every=100_000, save_every="100000")
        texts = TextOptions([str(arguments.lines)], documents="lines")
        with new_run(texts, request, RunOptions(Path(folder) / "run", None, arguments.device)) as prepared:
            recorder.add("documents", {"layout": "padded"}, _document_speed(prepared))


def _document_speed(prepared: PreparedRun) -> dict[str, Any]:
    events = prepared.trainer.events()
    for _ in range(WARM_UP_STEPS):
        next(events)
    synchronize()
    start, characters = time.perf_counter(), 0
    for _ in range(TIMED_STEPS):
        event = next(events)
        characters += event.characters if isinstance(event, Stepped) else 0
    synchronize()
    seconds = time.perf_counter() - start
    return {"chars_per_s": characters / seconds, "ms": 1000 * seconds / TIMED_STEPS}


# ---------------------------------------------------------------------------------------------------- long trainings

STEPS_OF_MINUTES = {10: 2_088, 30: 6_264, 60: 12_528}
"""Measured on two cores with AVX-512 BF16 for ten minutes."""


def long(arguments: argparse.Namespace, recorder: Recorder) -> None:
    """The loss of trainings that take an hour on a CPU, by the number of their steps."""
    for split in ("90/10/0", "80/10/10"):
        for minutes, steps in STEPS_OF_MINUTES.items():
            with tempfile.TemporaryDirectory() as folder:
                run = Path(folder) / "run"
                options = {"size": "large", "batch": 32, "steps": steps, "split": split, "device": arguments.device}
                result = charlm.train(arguments.text, out=run, eval_every=max(1, steps // 12), **options)
                part = "valid" if split.endswith("/0") else "test"
                evaluated = json.loads(command("eval", "-c", run, "--split", part, "--json"))
                config = open_checkpoint(run).config
                figures = {
                    "best_validation": result.best_nats_per_char,
                    "best_step": config["step"],
                    part: evaluated["nats_per_char"],
                    "recipe": {"model": config["model"], "training": config["training"]},
                }
            recorder.add("long", {"minutes": minutes, **options}, figures)


PARTS: dict[str, Callable[[argparse.Namespace, Recorder], None]] = {
    "losses": losses,
    "graph": graph,
    "steps": steps,
    "train": train,
    "resume": resume,
    "write": generation,
    "documents": documents,
    "long": long,
}


if __name__ == "__main__":
    main()
