"""Scoring many short lines: charlm compared with a plain torch scorer, and the memory for ten times the lines.

    python benchmarks/scoring.py RUN FILE [--lines 1000000] [--rounds 3] [--json]

RUN is a run of ``charlm train --documents lines``. The lines of FILE are repeated until there are --lines. The
contenders have the same weights and use fp32 unless noted. They take turns in each round:

    charlm              charlm score < lines: the whole process, from splitting the input to printing the scores
    charlm bf16         the same with --precision bf16
    library             LanguageModel.score_documents on the lines in memory
    one at a time       the same model and engine, one line per call
    torch, padded       nn.Embedding, nn.LSTM and a tied decoder over batches of lines in input order, padded to the
                        longest, with the batch size that is best for it; cross entropy without the padding

The scores must agree to 1e-4 nats per character. ``chars_per_s`` counts real characters and end markers. The last rows
are the peak resident memory of ``charlm score`` from stdin for a tenth of the lines and for all.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from common import make_parser, report, take_turns
from torch import nn

import charlm
from charlm.checkpoint.model_parts import read_model_parts
from charlm.language_model import LanguageModel
from charlm.tokenizer.documents import DocumentTokenizer

TORCH_LINES, SINGLE_LINES, BATCHES = 50_000, 1_000, (64, 256, 1024)
_SCORE_AND_PRINT_PEAK = """
import sys
from charlm.cli.app import main
try:
    main()
except SystemExit:
    pass
status = open("/proc/self/status").read()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")), file=sys.stderr)
"""


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    model = charlm.load(arguments.run, device="cpu")
    file_lines = [line for line in arguments.file.read_text("utf-8").splitlines() if line]
    lines = list(itertools.islice(itertools.cycle(file_lines), arguments.lines))
    plain = PlainTorch(model)
    check(model, plain, file_lines[:500])
    batch = max(BATCHES, key=lambda batch: speed(file_lines[:10_000], lambda lines: plain.score(lines, batch)))
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        contenders = {
            "charlm": lambda: speed(lines, lambda _: score_stdin(arguments.run, Path(file.name))),
            "charlm bf16": lambda: speed(lines, lambda _: score_stdin(arguments.run, Path(file.name), "bf16")),
            "library": lambda: speed(lines, lambda lines: list(model.score_documents(lines))),
            "one at a time": lambda: speed(
                lines[:SINGLE_LINES], lambda lines: [list(model.score_documents([line])) for line in lines]
            ),
            f"torch, padded, {batch} lines": lambda: speed(
                lines[:TORCH_LINES], lambda lines: plain.score(lines, batch)
            ),
        }
        medians = {name: median(values) for name, values in take_turns(contenders, arguments.rounds).items()}
        whole = score_stdin(arguments.run, Path(file.name))
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("\n".join(lines[: len(lines) // 10]) + "\n")
        file.flush()
        tenth = score_stdin(arguments.run, Path(file.name))
    rows = [
        {"scorer": name, "chars_per_s": value, "charlm_over_it": medians["charlm"] / value}
        for name, value in medians.items()
    ]
    report(arguments, rows, peak_mb_for_a_tenth=tenth, peak_mb_for_all=whole, machine_engine=model.engine.name)


def speed(lines: list[str], work: Callable[[list[str]], object]) -> float:
    """Characters per second of ``work``, end markers included."""
    start = time.perf_counter()
    work(lines)
    return sum(len(line) + 1 for line in lines) / (time.perf_counter() - start)


def score_stdin(run: Path, path: Path, precision: str = "fp32") -> float:
    """Run ``charlm score`` on a file through a pipe. Returns its peak resident memory in MB."""
    with subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE) as source:
        command = [sys.executable, "-c", _SCORE_AND_PRINT_PEAK, "score", "--checkpoint", str(run), "--device", "cpu"]
        command += ["--precision", precision]
        completed = subprocess.run(
            command, stdin=source.stdout, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True
        )
    return int(completed.stderr.split()[-1]) * 1024 / 1e6


class PlainTorch:
    """A simple scorer in plain torch."""

    def __init__(self, model: LanguageModel) -> None:
        parts = read_model_parts(model.checkpoint)
        config, tokenizer, weights = parts.config, parts.tokenizer, parts.weights
        assert isinstance(tokenizer, DocumentTokenizer)
        self._tokenizer = tokenizer
        self._embedding = nn.Embedding.from_pretrained(torch.from_numpy(weights["embedding.weight"]))
        self._bias = torch.from_numpy(weights["decoder.bias"])
        self._lstm = nn.LSTM(config.embedding, config.hidden, config.layers)
        assert config.embedding == config.hidden, "nn.LSTM needs layers of equal width"
        with torch.no_grad():
            for layer in range(config.layers):
                for name in ("weight_ih", "weight_hh"):
                    getattr(self._lstm, f"{name}_l{layer}").copy_(torch.from_numpy(weights[f"lstm.{layer}.{name}"]))
                getattr(self._lstm, f"bias_ih_l{layer}").copy_(torch.from_numpy(weights[f"lstm.{layer}.bias"]))
                getattr(self._lstm, f"bias_hh_l{layer}").zero_()

    @torch.inference_mode()
    def score(self, lines: list[str], batch: int) -> list[float]:
        """The loss of each line in nats."""
        scores: list[float] = []
        for first in range(0, len(lines), batch):
            encoded = [self._tokenizer.encode(line).astype(np.int64) for line in lines[first : first + batch]]
            lengths = torch.tensor([len(ids) + 1 for ids in encoded])
            targets = nn.utils.rnn.pad_sequence(
                [torch.from_numpy(np.append(ids, self._tokenizer.end_id)) for ids in encoded]
            )
            inputs = torch.cat([torch.full((1, len(encoded)), self._tokenizer.start_id), targets[:-1]])
            hidden, _ = self._lstm(self._embedding(inputs))
            logits = nn.functional.linear(hidden, self._embedding.weight, self._bias)
            nats = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
            real = torch.arange(len(targets))[:, None] < lengths
            scores += (nats.view_as(targets) * real).sum(0).tolist()
        return scores


def check(model: LanguageModel, plain: PlainTorch, lines: list[str]) -> None:
    """Raise AssertionError unless both give the same scores."""
    ours = np.array([scored.nats for scored in model.score_documents(lines)])
    lengths = np.array([len(line) + 1 for line in lines])
    difference = np.abs(ours - np.array(plain.score(lines, 64))) / lengths
    assert difference.max() < 1e-4, difference.max()


if __name__ == "__main__":
    main()
