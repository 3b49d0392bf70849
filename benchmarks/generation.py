"""How fast text is written: charlm beside the plain loop that everyone writes first.

    python benchmarks/generation.py CHECKPOINT [--length 500] [--rounds 5] [--json]

CHECKPOINT is a run or a step of one, as for ``charlm generate``. The plain loop has the same weights in one nn.LSTM per
layer, called for one character at a time, and draws with torch.multinomial; that both give the same logits is checked.
Figures are characters per second, sampling included, medians over the rounds; charlm also turns ids into text.

    streams    texts written at once: LanguageModel.stream for one, LanguageModel.samples for many
    gain       charlm's figure by that of the plain loop
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from common import make_parser, report, take_turns
from torch import Tensor, nn
from torch.nn import functional as F

import charlm
from charlm.checkpoint import open_checkpoint
from charlm.language_model import LanguageModel, checkpoint_parts

STREAMS = (1, 64)


class PlainModel:
    """The weights of a checkpoint in torch's own modules."""

    def __init__(self, path: Path, device: str) -> None:
        config, _, arrays = checkpoint_parts(open_checkpoint(path))
        weights = {name: torch.from_numpy(array.copy()).to(device) for name, array in arrays.items()}
        self.embedding = weights["embedding.weight"]
        self.bias = weights["decoder.bias"]
        self.layers = []
        for number, (width_in, width) in enumerate(config.layer_widths()):
            layer = nn.LSTM(width_in, width).to(device)
            with torch.no_grad():
                layer.weight_ih_l0.copy_(weights[f"lstm.{number}.weight_ih"])
                layer.weight_hh_l0.copy_(weights[f"lstm.{number}.weight_hh"])
                layer.bias_ih_l0.copy_(weights[f"lstm.{number}.bias"])
                layer.bias_hh_l0.zero_()
            self.layers.append(layer)

    def step(self, ids_1B: Tensor, state: list) -> tuple[Tensor, list]:
        """Logits [B, V] after one more id in each stream, and the state of each layer; it begins as None."""
        x_1BE = F.embedding(ids_1B, self.embedding)
        after = []
        for layer, layer_state in zip(self.layers, state, strict=True):
            x_1BE, new_state = layer(x_1BE, layer_state)
            after.append(new_state)
        return F.linear(x_1BE[0], self.embedding, self.bias), after

    @torch.inference_mode()
    def write(self, start_id: int, streams: int, length: int) -> Tensor:
        """Ids [length, streams], drawn one by one."""
        ids_1B = torch.full((1, streams), start_id, device=self.bias.device)
        state, written = [None] * len(self.layers), []
        for _ in range(length):
            logits_BV, state = self.step(ids_1B, state)
            ids_1B = torch.multinomial(torch.softmax(logits_BV, 1), 1).t()
            written.append(ids_1B)
        return torch.cat(written).cpu()


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("checkpoint", type=Path, help="a run or one of its steps")
    parser.add_argument("--length", type=int, default=500, help="characters of each text (default 500)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of every contender (default 5)")
    parser.add_argument("--device", default="cpu", help="for both (default cpu)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    arguments = parser.parse_args()
    model = charlm.load(arguments.checkpoint, device=arguments.device, threads=arguments.threads)
    plain = PlainModel(arguments.checkpoint, arguments.device)
    rows = []
    for streams in STREAMS:
        contenders = make_contenders(model, plain, streams, arguments.length)
        speeds = {name: median(values) for name, values in take_turns(contenders, arguments.rounds).items()}
        rows.append({"streams": streams, **speeds, "gain": speeds["charlm"] / speeds["plain_loop"]})
    report(arguments, rows, engine=model.engine.name, largest_difference_of_logits=largest_difference(model, plain))


def make_contenders(
    model: LanguageModel, plain: PlainModel, streams: int, length: int
) -> dict[str, Callable[[], float]]:
    """Name -> a call that writes ``streams`` texts and returns its characters per second."""

    def with_charlm() -> object:
        return "".join(model.stream("", length, seed=1)) if streams == 1 else list(model.samples(streams, "", length))

    def with_plain_loop() -> object:
        return plain.write(model.tokenizer.start_id, streams, length)

    def speed(work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        return streams * length / (time.perf_counter() - began)

    return {"charlm": lambda: speed(with_charlm), "plain_loop": lambda: speed(with_plain_loop)}


@torch.inference_mode()
def largest_difference(model: LanguageModel, plain: PlainModel, steps: int = 20) -> float:
    """Between the logits of the two over a few characters: rounding only, or they are not the same model."""
    state, plain_state = model.engine.start(1), [None] * len(plain.layers)
    difference = 0.0
    for number in range(steps):
        ids_B = np.array([(model.tokenizer.start_id + number) % model.tokenizer.vocabulary_size])
        logits_BV, state = model.engine.step(ids_B, state)
        plain_logits_BV, plain_state = plain.step(torch.from_numpy(ids_B[None]).to(plain.bias.device), plain_state)
        difference = max(difference, float(np.abs(logits_BV - plain_logits_BV.cpu().numpy()).max()))
    return difference


if __name__ == "__main__":
    main()
