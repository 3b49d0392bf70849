"""How fast a training step is: charlm compared with a plain torch model.

    python benchmarks/training_step.py [TEXT] [--rounds 9] [--dropout] [--only 2x512 ...] [--threads N] [--json]

A step is forward pass, tied decoder, cross entropy, backward pass, clipping at 1.0 and fused Adam, with the state
carried from chunk to chunk. ``nn.LSTM`` is the usual model in plain torch: nn.Embedding, one nn.LSTM with all layers
and a decoder tied to the embedding. ``charlm`` is CharLM, called as in Trainer. All start with the same weights (the
losses of all characters must agree), read the same ids, and use the same number of threads and the same memory
allocator.

The ids are those of TEXT (UTF-8). Without it they are random, 66 distinct ids of a vocabulary of 322, as in
tinyshakespeare. With --dropout all apply locked dropout, 0.1 on the input of the first layer and 0.4 on the output of
the last. The table of charlm's first layer then has a row for each pair of a stream and a character.

    ms                  milliseconds per step, the median over the rounds
    chars_per_s         characters of a step (batch x chunk) / its time
    times_fp32          speed relative to nn.LSTM in fp32
    times_autocast      speed relative to nn.LSTM under bf16 autocast, where torch supports it
    share_of_gemm       floating-point operations per second that charlm executes in bf16, relative to torch.mm in bf16
                        on [8192, H] x [H, 4H] in the same run. The operations are three passes over all products
                        except the input of the first layer, which is a table over the distinct ids of a chunk
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import make_parser, report, seconds_per_call, take_turns
from torch import Tensor, nn
from torch.nn import functional as F

from charlm.config import ModelConfig, TrainingConfig
from charlm.model.char_lm import CharLM, cross_entropy, detach
from charlm.system.devices import autocast, keep_freed_memory
from charlm.tokenizer.characters import CharTokenizer
from charlm.training.optimizers import make_optimizer

VOCABULARY_SIZE, DISTINCT_IDS = 322, 66
GEMM_ROWS = 8192
TURN_SECONDS = 0.5
MAX_DIFFERENCE = 1e-4
TRAINING = TrainingConfig(lr=2e-3)
AUTOCAST = "nn.LSTM bf16 autocast"


@dataclass(frozen=True)
class Shape:
    """Layers, their width, and the chunk: ``batch`` streams of ``bptt`` characters."""

    layers: int
    hidden: int
    batch: int
    bptt: int

    def __str__(self) -> str:
        return f"{self.layers}x{self.hidden}, {self.batch} x {self.bptt}"

    def flops(self, vocabulary_size: int) -> int:
        """Floating-point operations of a step in charlm: each product, and the gradients of its input and weight."""
        hidden = self.hidden
        per_character = sum(4 * hidden * (hidden + (hidden if layer else 0)) for layer in range(self.layers))
        return 3 * 2 * (per_character + hidden * vocabulary_size) * self.batch * self.bptt


# The last two have the default batch and chunk length of ``charlm train``.
SHAPES = {
    "2x512": Shape(2, 512, 64, 128),
    "3x1024": Shape(3, 1024, 64, 64),
    "1x512": Shape(1, 512, 32, 128),
    "2x256": Shape(2, 256, 32, 128),
}


class PlainModel(nn.Module):
    """The weights of ``model`` in modules of torch, with the interface of CharLM. The state is one pair of tensors."""

    def __init__(self, model: CharLM) -> None:
        super().__init__()
        self.config = config = model.config
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding)
        self.lstm = nn.LSTM(config.embedding, config.hidden, config.layers)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary_size))
        with torch.no_grad():
            self.embedding.weight.copy_(model.embedding.weight)
            for number, layer in enumerate(model.layers()):
                getattr(self.lstm, f"weight_ih_l{number}").copy_(layer.weight_ih)
                getattr(self.lstm, f"weight_hh_l{number}").copy_(layer.weight_hh)
                getattr(self.lstm, f"bias_ih_l{number}").copy_(layer.bias)
                getattr(self.lstm, f"bias_hh_l{number}").zero_()

    def initial_state(self, batch: int) -> Any:
        zeros_LBH = torch.zeros(self.config.layers, batch, self.config.hidden)
        return ((zeros_LBH, zeros_LBH),)

    def forward(self, ids_TB: Tensor, state: Any, dropout_generator: torch.Generator | None = None) -> Any:
        x_TBE = _locked_dropout(self.embedding(ids_TB), self.config.dropout_input, dropout_generator)
        x_TBE, new_state = self.lstm(x_TBE, state[0])
        x_TBE = _locked_dropout(x_TBE, self.config.dropout_output, dropout_generator)
        return F.linear(x_TBE, self.embedding.weight, self.bias), (new_state,)


def _locked_dropout(x_TBE: Tensor, p: float, generator: torch.Generator | None) -> Tensor:
    if generator is None or not p:
        return x_TBE
    return x_TBE * torch.empty_like(x_TBE[:1]).bernoulli_(1 - p, generator=generator).div_(1 - p)


class Training:
    """A model in training: its optimizer, its position in the text, and the carried state."""

    def __init__(
        self,
        model: CharLM | PlainModel,
        optimizer: torch.optim.Optimizer,
        precision: str,
        chunks: list[tuple[Tensor, Tensor]],
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.precision = precision
        self.chunks: Iterator[tuple[Tensor, Tensor]] = itertools.cycle(chunks)
        self.state = model.initial_state(chunks[0][0].shape[1])
        self.generator = torch.Generator().manual_seed(1)

    def step(self) -> None:
        """One update as in ``Trainer``."""
        inputs_TB, targets_TB = next(self.chunks)
        with autocast("cpu", self.precision):
            logits_TBV, state = self.model(inputs_TB, self.state, self.generator)
        loss = cross_entropy(logits_TBV, targets_TB).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), TRAINING.clip)
        loss.item(), grad_norm.item()
        self.optimizer.step()
        self.state = detach(state)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("text", nargs="?", type=Path, help="training text (default: random ids)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contender (default 9)")
    parser.add_argument("--dropout", action="store_true", help="use locked dropout on input and output")
    parser.add_argument("--only", nargs="+", choices=SHAPES, default=list(SHAPES), help="shapes (default: all)")
    parser.add_argument("--threads", type=int, help="threads (default: chosen by torch)")
    arguments = parser.parse_args()
    keep_freed_memory()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    ids, vocabulary_size = read_ids(arguments.text)
    results = [measure(SHAPES[name], ids, vocabulary_size, arguments) for name in arguments.only]
    report(
        arguments,
        [row for rows, _ in results for row in rows],
        threads_of_torch=torch.get_num_threads(),
        largest_difference_of_losses=max(difference for _, difference in results),
    )


def read_ids(text: Path | None) -> tuple[Tensor, int]:
    """The ids of the text, [characters], and the vocabulary size."""
    if text is None:
        return torch.randint(DISTINCT_IDS, (1 << 20,), generator=torch.Generator().manual_seed(1)), VOCABULARY_SIZE
    characters = text.read_text(encoding="utf-8")
    tokenizer = CharTokenizer.build(Counter(map(ord, characters)))
    return torch.from_numpy(tokenizer.encode(characters).astype("int64")), tokenizer.vocabulary_size


def cut_into_chunks(ids: Tensor, shape: Shape) -> list[tuple[Tensor, Tensor]]:
    """Inputs and targets [T, B] of consecutive complete chunks."""
    length = (len(ids) - 1) // shape.batch // shape.bptt * shape.bptt
    if not length:
        raise SystemExit(f"the text has {len(ids):,} characters, too few for a chunk of {shape}")
    inputs, targets = (ids[offset : offset + shape.batch * length].view(shape.batch, length).t() for offset in (0, 1))
    pairs = zip(inputs.split(shape.bptt), targets.split(shape.bptt), strict=True)
    return [(inputs_TB.contiguous(), targets_TB.contiguous()) for inputs_TB, targets_TB in pairs]


def measure(shape: Shape, ids: Tensor, vocabulary_size: int, arguments: Any) -> tuple[list[dict[str, Any]], float]:
    """The rows of one shape, and the difference between the losses of both models before the first step."""
    dropouts = {"dropout_input": 0.1, "dropout_output": 0.4} if arguments.dropout else {}
    config = ModelConfig(vocabulary_size, shape.layers, shape.hidden, shape.hidden, **dropouts)
    chunks = cut_into_chunks(ids, shape)
    trainings = {}
    for precision in ("fp32", "bf16"):
        plain, model = PlainModel(CharLM(config, 1)), CharLM(config, 1)
        adam = torch.optim.Adam(plain.parameters(), TRAINING.lr, fused=True)
        name = "nn.LSTM fp32" if precision == "fp32" else AUTOCAST
        trainings[name] = Training(plain, adam, precision, chunks)
        trainings[f"charlm {precision}"] = Training(model, make_optimizer(model, TRAINING), precision, chunks)
    difference = loss_difference(trainings["nn.LSTM fp32"].model, trainings["charlm fp32"].model, chunks[0])
    for name, training in list(trainings.items()):  # the first step imports and allocates; it is not timed
        try:
            training.step()
        except RuntimeError as error:  # oneDNN has no LSTM in bfloat16 for processors without AVX-512
            if "primitive" not in str(error) or name != AUTOCAST:
                raise
            del trainings[name]
    turns = {name: _turn(training.step) for name, training in trainings.items()}
    seconds = {
        name: median(times) for name, times in take_turns({**turns, "GEMM": gemm(shape)}, arguments.rounds).items()
    }
    gemm_rate = 2 * GEMM_ROWS * 4 * shape.hidden**2 / seconds.pop("GEMM")
    share = shape.flops(vocabulary_size) / seconds["charlm bf16"] / gemm_rate
    return [
        {
            "shape": str(shape),
            "contender": name,
            "ms": 1000 * time,
            "chars_per_s": shape.batch * shape.bptt / time,
            "times_fp32": seconds["nn.LSTM fp32"] / time,
            "times_autocast": seconds[AUTOCAST] / time if AUTOCAST in seconds else None,
            "share_of_gemm": share if name == "charlm bf16" else None,
        }
        for name, time in seconds.items()
    ], difference


def _turn(work: Any) -> Any:
    return lambda: seconds_per_call(work, TURN_SECONDS)


def gemm(shape: Shape) -> Any:
    """A function that measures the seconds of one bfloat16 product of the same size as in training."""
    a = torch.randn(GEMM_ROWS, shape.hidden).bfloat16()
    b = torch.randn(shape.hidden, 4 * shape.hidden).bfloat16()
    out = torch.empty(GEMM_ROWS, 4 * shape.hidden, dtype=torch.bfloat16)
    return _turn(lambda: torch.mm(a, b, out=out))


@torch.no_grad()
def loss_difference(plain: nn.Module, model: nn.Module, chunk: tuple[Tensor, Tensor]) -> float:
    """The largest difference between both losses of a character, without dropout. Exits if it is too large."""
    inputs_TB, targets_TB = chunk
    losses = [cross_entropy(m(inputs_TB, m.initial_state(inputs_TB.shape[1]))[0], targets_TB) for m in (plain, model)]
    difference = (losses[0] - losses[1]).abs().max().item()
    if not difference < MAX_DIFFERENCE:
        raise SystemExit(f"with the same weights the losses of nn.LSTM and charlm differ by {difference:.2g}")
    return difference


if __name__ == "__main__":
    main()
