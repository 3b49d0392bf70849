"""How fast text is written: charlm beside loops in plain torch on the same weights.

    python benchmarks/generation.py CHECKPOINT [--seconds 1] [--rounds 5] [--device cpu] [--threads N] [--json]
    python benchmarks/generation.py --shape 2x512

CHECKPOINT is a run or a step of one, as for ``charlm generate``; --shape LAYERSxHIDDEN takes random weights and 65
characters instead. Every contender writes for about --seconds a turn, so a slow one writes fewer characters, and all
sample: the plain loops with torch.multinomial, charlm as ``LanguageModel.stream`` (one text) and
``LanguageModel.samples`` (many) do, which also keep to whole characters and make text of the ids. That charlm and the
plain loops give the same logits in fp32 is checked.

    nn.LSTM             the loop that everyone writes first: one call of nn.LSTM a layer for each character
    oneDNN off          the same without oneDNN, which costs more than it gains for a single row
    dynamic int8        nn.LSTM after torch.ao.quantization.quantize_dynamic
    addmm               as few operations as plain torch allows: the first layer's input is a row of a table, every
                        other layer one product, its weights concatenated and laid out as torch likes them

    streams             texts written at once
    chars_per_s         characters of all texts a second, sampling included, the median over the rounds
    times_nn.LSTM       how many times as fast as the loop over nn.LSTM in fp32
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from common import make_parser, report, take_turns
from torch import Tensor, nn
from torch.nn import functional as F

from charlm import native
from charlm.checkpoint.model_parts import read_model_parts
from charlm.checkpoint.step import MODEL, TOKENIZER, Checkpoint, open_checkpoint
from charlm.checkpoint.tensors import tensors_to_bytes
from charlm.config import ModelConfig, SamplingConfig, to_dict
from charlm.engine import Engine
from charlm.language_model import LanguageModel
from charlm.model.char_lm import CharLM
from charlm.system.devices import keep_freed_memory
from charlm.tokenizer.characters import CharTokenizer

STREAMS = (1, 64, 256)
BASE = "nn.LSTM fp32"


class Loop:
    """One step of a model and one draw for every character."""

    device: torch.device

    def start(self, streams: int) -> Any:
        """The state of texts of which nothing was read."""
        raise NotImplementedError

    def step(self, ids_B: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits [B, V] after one more id in each stream, and the state."""
        raise NotImplementedError

    @torch.inference_mode()
    def write(self, ids_B: Tensor, length: int) -> Tensor:
        """Ids [length, B] that go on from ``ids_B``, drawn one by one."""
        state, written = self.start(len(ids_B)), []
        for _ in range(length):
            logits_BV, state = self.step(ids_B, state)
            ids_B = torch.multinomial(torch.softmax(logits_BV.float(), 1), 1)[:, 0]
            written.append(ids_B)
        return torch.stack(written).cpu()


class ModuleLoop(Loop):
    """Calls an nn.LSTM for each layer (one for all would need all layers to have one width)."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
        self.device = weights["decoder.bias"].device
        self.embedding = weights["embedding.weight"].to(dtype)
        self.bias = weights["decoder.bias"].to(dtype)
        self.layers = nn.ModuleList(nn.LSTM(width_in, width) for width_in, width in config.layer_widths())
        self.layers.to(self.device, dtype)
        for number, layer in enumerate(self.layers):
            bias = weights[f"lstm.{number}.bias"]
            matrices = {f"{name}_l0": weights[f"lstm.{number}.{name}"] for name in ("weight_ih", "weight_hh")}
            layer.load_state_dict({**matrices, "bias_ih_l0": bias, "bias_hh_l0": torch.zeros_like(bias)})

    def quantized(self) -> ModuleLoop:
        """The same with torch's dynamic quantization of the layers."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it will move to another package
            self.layers = torch.ao.quantization.quantize_dynamic(self.layers, {nn.LSTM}, dtype=torch.qint8)
        return self

    def start(self, streams: int) -> list[Any]:
        return [None] * len(self.layers)

    def step(self, ids_B: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        x_1BE = F.embedding(ids_B[None], self.embedding)
        after = []
        for layer, layer_state in zip(self.layers, state, strict=True):
            x_1BE, new_state = layer(x_1BE, layer_state)
            after.append(new_state)
        return F.linear(x_1BE[0], self.embedding, self.bias), after


class AddmmLoop(Loop):
    """One addmm a layer. Gates stand in the order i, f, o, g, so that one sigmoid does for three of them."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        def layer(number: int, name: str) -> Tensor:
            i, f, g, o = weights[f"lstm.{number}.{name}"].chunk(4)
            return torch.cat((i, f, o, g))

        self.device = weights["decoder.bias"].device
        embedding, numbers = weights["embedding.weight"], range(config.layers)
        self.table = F.linear(embedding, layer(0, "weight_ih"), layer(0, "bias")).to(dtype)
        self.biases = [layer(number, "bias").to(dtype) for number in numbers]
        recurrent = [layer(number, "weight_hh") for number in numbers]
        joined = [torch.cat((layer(number, "weight_ih"), recurrent[number]), 1) for number in numbers[1:]]
        self.matrices = [_for_rows(matrix, dtype) for matrix in (recurrent[0], *joined)]
        self.decoder, self.decoder_bias = _for_rows(embedding, dtype), weights["decoder.bias"].to(dtype)

    def start(self, streams: int) -> list[tuple[Tensor, Tensor]]:
        zeros = [self.table.new_zeros(streams, len(bias) // 4) for bias in self.biases]
        return [(zeros_BH, zeros_BH) for zeros_BH in zeros]

    def step(self, ids_B: Tensor, state: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        after: list[tuple[Tensor, Tensor]] = []
        for (h_BH, c_BH), bias, matrix in zip(state, self.biases, self.matrices, strict=True):
            if after:
                gates_BG = torch.addmm(bias, torch.cat((after[-1][0], h_BH), 1), matrix)
            else:
                gates_BG = torch.addmm(self.table[ids_B], h_BH, matrix)
            width = h_BH.shape[1]
            i, f, o = torch.sigmoid(gates_BG[:, : 3 * width]).chunk(3, 1)
            new_c_BH = torch.addcmul(f * c_BH, i, torch.tanh(gates_BG[:, 3 * width :]))
            after.append((o * torch.tanh(new_c_BH), new_c_BH))
        return torch.addmm(self.decoder_bias, after[-1][0], self.decoder), after


def _for_rows(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The transposed matrix, in memory as one row is multiplied fastest: transposed too in fp32, as it was in bf16."""
    matrix = matrix.to(dtype)
    return matrix.t().contiguous() if dtype == torch.float32 else matrix.contiguous().t()


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("checkpoint", nargs="?", type=Path, help="a run or one of its steps")
    parser.add_argument("--shape", help="layers and width of a model with random weights, such as 2x512")
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS, help="texts at once (default 1 64 256)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn (default 1)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every contender (default 5)")
    parser.add_argument("--device", default="cpu", help="for all (default cpu)")
    parser.add_argument("--threads", type=int, help="threads of all (default: their own choice)")
    arguments = parser.parse_args()
    if (arguments.checkpoint is None) == (arguments.shape is None):
        parser.error("give a CHECKPOINT or a --shape")
    warnings.filterwarnings("ignore", message="TF32 acceleration")  # said whenever oneDNN is switched off
    keep_freed_memory()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    checkpoint = open_checkpoint(arguments.checkpoint) if arguments.checkpoint else random_checkpoint(arguments.shape)
    models = load_models(checkpoint, arguments)
    loops = make_loops(checkpoint, arguments.device)
    rows = [row for streams in arguments.streams for row in measure(models, loops, streams, arguments)]
    exact = models["fp32"].generation_engine
    plain = [loops[BASE], loops["addmm fp32"]]
    report(
        arguments,
        rows,
        engine=exact.name,
        threads_of_torch=torch.get_num_threads(),
        largest_difference_of_logits=max(largest_difference(exact, loop, models["fp32"]) for loop in plain),
    )


def random_checkpoint(shape: str) -> Checkpoint:
    """A checkpoint in memory: weights by chance for the "2x512" of ``shape``, and 65 characters."""
    layers, hidden = map(int, shape.split("x"))
    tokenizer = CharTokenizer.build(dict.fromkeys((ord("\n"), *range(0x20, 0x60)), 1))
    config = ModelConfig(tokenizer.vocabulary_size, layers, hidden, hidden)
    files = {MODEL: tensors_to_bytes(CharLM(config, 1).weights()), TOKENIZER: tokenizer.to_bytes() or b""}
    return Checkpoint(Path(shape), files, {"model": to_dict(config), "tokenizer": tokenizer.description()})


def load_models(checkpoint: Checkpoint, arguments: argparse.Namespace) -> dict[str, LanguageModel]:
    """Precision -> charlm's model at it; int8 is the native engine's alone."""
    has_int8 = arguments.device == "cpu" and native.find_library() is not None
    return {
        precision: LanguageModel.from_checkpoint(checkpoint, arguments.device, precision, arguments.threads)
        for precision in (("int8", "bf16", "fp32") if has_int8 else ("bf16", "fp32"))
    }


def make_loops(checkpoint: Checkpoint, device: str) -> dict[str, Loop]:
    """Name -> a loop in plain torch; those whose names end in "off" are to run without oneDNN."""
    parts = read_model_parts(checkpoint)
    config, arrays = parts.config, parts.weights
    weights = {name: torch.from_numpy(array.copy()).to(device) for name, array in arrays.items()}
    plain, addmm = ModuleLoop(config, weights), AddmmLoop(config, weights, torch.float32)
    addmm_bf16 = AddmmLoop(config, weights, torch.bfloat16)
    loops: dict[str, Loop] = {BASE: plain, "addmm fp32": addmm, "addmm bf16": addmm_bf16}
    if device != "cpu":
        return loops
    return {
        **loops,
        "nn.LSTM fp32, oneDNN off": plain,
        "nn.LSTM bf16, oneDNN off": ModuleLoop(config, weights, torch.bfloat16),
        "nn.LSTM dynamic int8": ModuleLoop(config, weights).quantized(),
        "addmm fp32, oneDNN off": addmm,
        "addmm bf16, oneDNN off": addmm_bf16,
    }


def measure(
    models: Mapping[str, LanguageModel], loops: Mapping[str, Loop], streams: int, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """The rows for one number of streams. Without oneDNN or quantized, a loop is of interest for a single one only."""
    contenders: dict[str, Callable[[int], object]] = {}
    for precision, model in models.items():
        contenders[f"charlm {precision}"] = _charlm_writer(model, streams)
    start_id = models["fp32"].tokenizer.start_id
    for name, loop in loops.items():
        one_row = name.endswith(("off", "int8"))
        if one_row == (streams == 1) or name == BASE or arguments.device != "cpu":
            ids_B = torch.full((streams,), start_id, device=loop.device)
            contenders[name] = _loop_writer(loop, ids_B, onednn=not name.endswith("off"))
    turns = {name: paced(write, arguments.seconds, streams) for name, write in contenders.items()}
    speeds = {name: median(values) for name, values in take_turns(turns, arguments.rounds).items()}
    return [
        {"streams": streams, "contender": name, "chars_per_s": speed, "times_nn.LSTM": speed / speeds[BASE]}
        for name, speed in speeds.items()
    ]


def _charlm_writer(model: LanguageModel, streams: int) -> Callable[[int], object]:
    if streams == 1:
        return lambda length: "".join(model.stream("", length, SamplingConfig(), seed=1))
    return lambda length: list(model.samples(streams, "", length, SamplingConfig(), seed=1))


def _loop_writer(loop: Loop, ids_B: Tensor, onednn: bool) -> Callable[[int], object]:
    def write(length: int) -> object:
        with torch.backends.mkldnn.flags(enabled=onednn):
            return loop.write(ids_B, length)

    return write


def paced(write: Callable[[int], object], seconds: float, streams: int) -> Callable[[], float]:
    """A call that writes for about ``seconds`` and returns its characters per second. First finds out how many."""
    write(2)  # what the first call loads and allocates is not its price
    length, taken = 1, 0.0
    while taken < seconds / 8:
        length *= 2
        taken = _seconds(write, length)
    length = max(1, round(length * seconds / taken))
    return lambda: streams * length / _seconds(write, length)


def _seconds(write: Callable[[int], object], length: int) -> float:
    began = time.perf_counter()
    write(length)
    return time.perf_counter() - began


@torch.inference_mode()
def largest_difference(engine: Engine, loop: Loop, model: LanguageModel, steps: int = 20) -> float:
    """Between the logits of the two over a few characters: rounding only, or they are not the same model."""
    state, loop_state = engine.initial_state(1), loop.start(1)
    difference = 0.0
    for number in range(steps):
        ids_B = np.array([(model.tokenizer.start_id + number) % model.tokenizer.vocabulary_size])
        logits_BV, state = engine.step(ids_B, state)
        loop_logits_BV, loop_state = loop.step(torch.from_numpy(ids_B).to(loop.device), loop_state)
        difference = max(difference, float(np.abs(logits_BV - loop_logits_BV.cpu().numpy()).max()))
    return difference


if __name__ == "__main__":
    main()
