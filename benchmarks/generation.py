"""How fast text is generated: charlm compared with loops in plain torch on the same weights.

    python benchmarks/generation.py CHECKPOINT [--seconds 1] [--rounds 5] [--device cpu] [--threads N] [--json]
    python benchmarks/generation.py --shape 2x512

CHECKPOINT is a run or one of its steps, as for ``charlm generate``. --shape LAYERSxHIDDEN uses random weights and 65
characters instead. A turn of each contender takes about --seconds, so a slow one generates fewer characters. All
sample: the plain loops with torch.multinomial, charlm with ``LanguageModel.stream`` (one text) and
``LanguageModel.samples`` (several), which also restrict the ids to complete characters and convert them to text. The
script checks that charlm and the plain loops give the same logits in fp32.

    nn.LSTM             the obvious loop: one call of nn.LSTM for each layer and character
    oneDNN off          the same without oneDNN, which costs more than it gains for a single row
    dynamic int8        nn.LSTM after torch.ao.quantization.quantize_dynamic
    addmm               the smallest number of operations in plain torch: the input of the first layer is a row of a
                        table, each other layer is one product with concatenated weights in torch's fastest layout

    streams             number of texts that are generated in parallel
    chars_per_s         characters of all texts per second, sampling included, the median over the rounds
    times_nn.LSTM       speed relative to the loop over nn.LSTM in fp32
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
    """Generates text with one step of a model and one sample per character."""

    device: torch.device

    def initial_state(self, streams: int) -> Any:
        """The state at the start of a text."""
        raise NotImplementedError

    def step(self, ids_B: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits [B, V] after one more id in each stream, and the new state."""
        raise NotImplementedError

    @torch.inference_mode()
    def generate(self, ids_B: Tensor, length: int) -> Tensor:
        """Sample ids [length, B] that continue ``ids_B``."""
        state, generated = self.initial_state(len(ids_B)), []
        for _ in range(length):
            logits_BV, state = self.step(ids_B, state)
            ids_B = torch.multinomial(torch.softmax(logits_BV.float(), 1), 1)[:, 0]
            generated.append(ids_B)
        return torch.stack(generated).cpu()


class ModuleLoop(Loop):
    """Calls one nn.LSTM per layer. A single nn.LSTM would need layers of equal width."""

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
        """Apply torch's dynamic quantization to the layers in place. Returns self."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the deprecation of torch.ao.quantization
            self.layers = torch.ao.quantization.quantize_dynamic(self.layers, {nn.LSTM}, dtype=torch.qint8)
        return self

    def initial_state(self, streams: int) -> list[Any]:
        return [None] * len(self.layers)

    def step(self, ids_B: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        x_1BE = F.embedding(ids_B[None], self.embedding)
        new_states = []
        for layer, layer_state in zip(self.layers, state, strict=True):
            x_1BE, new_state = layer(x_1BE, layer_state)
            new_states.append(new_state)
        return F.linear(x_1BE[0], self.embedding, self.bias), new_states


class AddmmLoop(Loop):
    """One addmm per layer. The gates are in the order i, f, o, g, so that one sigmoid covers three of them."""

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

    def initial_state(self, streams: int) -> list[tuple[Tensor, Tensor]]:
        zeros = [self.table.new_zeros(streams, len(bias) // 4) for bias in self.biases]
        return [(zeros_BH, zeros_BH) for zeros_BH in zeros]

    def step(self, ids_B: Tensor, state: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        new_states: list[tuple[Tensor, Tensor]] = []
        for (h_BH, c_BH), bias, matrix in zip(state, self.biases, self.matrices, strict=True):
            if new_states:
                gates_BG = torch.addmm(bias, torch.cat((new_states[-1][0], h_BH), 1), matrix)
            else:
                gates_BG = torch.addmm(self.table[ids_B], h_BH, matrix)
            width = h_BH.shape[1]
            i, f, o = torch.sigmoid(gates_BG[:, : 3 * width]).chunk(3, 1)
            new_c_BH = torch.addcmul(f * c_BH, i, torch.tanh(gates_BG[:, 3 * width :]))
            new_states.append((o * torch.tanh(new_c_BH), new_c_BH))
        return torch.addmm(self.decoder_bias, new_states[-1][0], self.decoder), new_states


def _for_rows(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The transposed matrix in the fastest layout for one row: also transposed in memory for fp32, not for bf16."""
    matrix = matrix.to(dtype)
    return matrix.t().contiguous() if dtype == torch.float32 else matrix.contiguous().t()


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("checkpoint", nargs="?", type=Path, help="a run or one of its steps")
    parser.add_argument("--shape", help="layers and width of a model with random weights, such as 2x512")
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS, help="texts in parallel (default 1 64 256)")
    parser.add_argument("--seconds", type=float, default=1.0, help="duration of a turn (default 1)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender (default 5)")
    parser.add_argument("--device", default="cpu", help="device (default cpu)")
    parser.add_argument("--threads", type=int, help="threads (default: chosen by torch and by charlm)")
    arguments = parser.parse_args()
    if (arguments.checkpoint is None) == (arguments.shape is None):
        parser.error("give a CHECKPOINT or a --shape")
    warnings.filterwarnings("ignore", message="TF32 acceleration")  # raised whenever oneDNN is switched off
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
    """A checkpoint in memory with random weights of ``shape``, such as "2x512", and 65 characters."""
    layers, hidden = map(int, shape.split("x"))
    tokenizer = CharTokenizer.build(dict.fromkeys((ord("\n"), *range(0x20, 0x60)), 1))
    config = ModelConfig(tokenizer.vocabulary_size, layers, hidden, hidden)
    files = {MODEL: tensors_to_bytes(CharLM(config, 1).weights()), TOKENIZER: tokenizer.to_bytes() or b""}
    return Checkpoint(Path(shape), files, {"model": to_dict(config), "tokenizer": tokenizer.description()})


def load_models(checkpoint: Checkpoint, arguments: argparse.Namespace) -> dict[str, LanguageModel]:
    """charlm's model in each precision. Only the native engine has int8."""
    has_int8 = arguments.device == "cpu" and native.find_library() is not None
    return {
        precision: LanguageModel.from_checkpoint(checkpoint, arguments.device, precision, arguments.threads)
        for precision in (("int8", "bf16", "fp32") if has_int8 else ("bf16", "fp32"))
    }


def make_loops(checkpoint: Checkpoint, device: str) -> dict[str, Loop]:
    """Loops in plain torch by name. Those whose name ends in "off" run without oneDNN."""
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
    """The rows for one number of streams. On a CPU, loops without oneDNN or with int8 run only for a single stream."""
    contenders: dict[str, Callable[[int], object]] = {}
    for precision, model in models.items():
        contenders[f"charlm {precision}"] = _charlm_generator(model, streams)
    start_id = models["fp32"].tokenizer.start_id
    for name, loop in loops.items():
        for_one_stream = name.endswith(("off", "int8"))
        if for_one_stream == (streams == 1) or name == BASE or arguments.device != "cpu":
            ids_B = torch.full((streams,), start_id, device=loop.device)
            contenders[name] = _loop_generator(loop, ids_B, onednn=not name.endswith("off"))
    turns = {name: timed_turn(generate, arguments.seconds, streams) for name, generate in contenders.items()}
    speeds = {name: median(values) for name, values in take_turns(turns, arguments.rounds).items()}
    return [
        {"streams": streams, "contender": name, "chars_per_s": speed, "times_nn.LSTM": speed / speeds[BASE]}
        for name, speed in speeds.items()
    ]


def _charlm_generator(model: LanguageModel, streams: int) -> Callable[[int], object]:
    if streams == 1:
        return lambda length: "".join(model.stream("", length, SamplingConfig(), seed=1))
    return lambda length: list(model.samples(streams, "", length, SamplingConfig(), seed=1))


def _loop_generator(loop: Loop, ids_B: Tensor, onednn: bool) -> Callable[[int], object]:
    def generate(length: int) -> object:
        with torch.backends.mkldnn.flags(enabled=onednn):
            return loop.generate(ids_B, length)

    return generate


def timed_turn(generate: Callable[[int], object], seconds: float, streams: int) -> Callable[[], float]:
    """A function that generates for about ``seconds`` and returns characters per second. Chooses the length first."""
    generate(2)  # the first call imports and allocates; this is not part of the measurement
    length, taken = 1, 0.0
    while taken < seconds / 8:
        length *= 2
        taken = _seconds(generate, length)
    length = max(1, round(length * seconds / taken))
    return lambda: streams * length / _seconds(generate, length)


def _seconds(generate: Callable[[int], object], length: int) -> float:
    start = time.perf_counter()
    generate(length)
    return time.perf_counter() - start


@torch.inference_mode()
def largest_difference(engine: Engine, loop: Loop, model: LanguageModel, steps: int = 20) -> float:
    """The largest difference between the logits of both over a few characters. Only rounding is expected."""
    state, loop_state = engine.initial_state(1), loop.initial_state(1)
    difference = 0.0
    for number in range(steps):
        ids_B = np.array([(model.tokenizer.start_id + number) % model.tokenizer.vocabulary_size])
        logits_BV, state = engine.step(ids_B, state)
        loop_logits_BV, loop_state = loop.step(torch.from_numpy(ids_B).to(loop.device), loop_state)
        difference = max(difference, float(np.abs(logits_BV - loop_logits_BV.cpu().numpy()).max()))
    return difference


if __name__ == "__main__":
    main()
