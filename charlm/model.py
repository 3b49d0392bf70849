"""``CharLM``: embedding, LSTM layers, and a decoder that shares the embedding's weight.

The state goes in and comes out of every call (``logits, state = model(ids, state)``); nothing hides it in ``self``.
Dropout masks are drawn from a generator that the caller owns, so that training can be saved and resumed exactly.

Shapes: ids [T, B], logits [T, B, V], state: a pair (h, c), each [B, width], for every layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from charlm.config import ModelConfig
from charlm.lstm import LayerState, fused_recurrence

State = tuple[LayerState, ...]

EMBEDDING_STD = 0.2
"""Wider than the usual 1/sqrt(E): in the first minutes of training it saves more loss than any other choice here."""


class LSTMLayer(nn.Module):
    """The weights of one layer: uniform(-1/sqrt(H), 1/sqrt(H)), forget bias 1 (Jozefowicz et al. 2015), others 0."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(4 * width, width_in))
        self.weight_hh = nn.Parameter(torch.empty(4 * width, width))
        self.bias = nn.Parameter(torch.zeros(4 * width))
        self.width = width

    def initialize(self, generator: torch.Generator) -> None:
        """Draw the weights afresh."""
        bound = self.width**-0.5
        with torch.no_grad():
            self.weight_ih.uniform_(-bound, bound, generator=generator)
            self.weight_hh.uniform_(-bound, bound, generator=generator)
            self.bias.zero_()
            self.bias[self.width : 2 * self.width] = 1.0

    def forward(self, x_TBI: Tensor, state: LayerState, weight_hh: Tensor | None = None) -> tuple[Tensor, LayerState]:
        """Outputs [T, B, H] and the new state; ``weight_hh`` stands in for the layer's own where some are dropped."""
        recurrent = self.weight_hh if weight_hh is None else weight_hh
        return fused_recurrence(x_TBI, state, self.weight_ih, recurrent, self.bias)


class CharLM(nn.Module):
    """The network that ``config`` describes. ``seed`` draws its first weights."""

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding)
        self.lstm = nn.ModuleList(LSTMLayer(width_in, width) for width_in, width in config.layer_widths())
        self.decoder = nn.Linear(config.embedding, config.vocabulary_size)
        self.decoder.weight = self.embedding.weight
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.embedding.weight.normal_(0.0, EMBEDDING_STD, generator=generator)
            self.decoder.bias.zero_()
        for layer in self.layers():
            layer.initialize(generator)

    def layers(self) -> list[LSTMLayer]:
        """The LSTM layers, first to last."""
        return [layer for layer in self.lstm if isinstance(layer, LSTMLayer)]

    def initial_state(self, batch: int) -> State:
        """The state of ``batch`` streams that have read nothing: zeros."""
        weight = self.embedding.weight
        return tuple(
            (weight.new_zeros(batch, layer.width), weight.new_zeros(batch, layer.width)) for layer in self.layers()
        )

    def forward(
        self, ids_TB: Tensor, state: State, dropout_generator: torch.Generator | None = None
    ) -> tuple[Tensor, State]:
        """Logits [T, B, V] after each id, and the state after the last.

        With ``dropout_generator`` (on the model's device) the configured dropouts apply, one mask for all T steps
        (locked, or variational, dropout); without it there is no dropout.
        """
        drop = _Dropout(dropout_generator)
        x_TBE = drop.locked(self.embedding(ids_TB), self.config.dropout_input)
        new_state = []
        layers = self.layers()
        for number, (layer, layer_state) in enumerate(zip(layers, state, strict=True)):
            weight_hh = drop.weights(layer.weight_hh, self.config.weight_drop)
            x_TBE, after = layer(x_TBE, layer_state, weight_hh)
            new_state.append(after)
            is_last = number == len(layers) - 1
            x_TBE = drop.locked(x_TBE, self.config.dropout_output if is_last else self.config.dropout_hidden)
        return self.decoder(x_TBE), tuple(new_state)

    def weights(self) -> dict[str, NDArray[Any]]:
        """Copies of all parameters as float32 arrays under ``parameter_shapes``' names, the shared one once."""
        return {
            name: tensor.detach().to("cpu", torch.float32).numpy().copy() for name, tensor in self.named_parameters()
        }

    def load_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Take over arrays with the names and shapes of ``ModelConfig.parameter_shapes``."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(torch.from_numpy(weights[name]))


class _Dropout:
    """Masks drawn from one generator; nothing is drawn, and nothing dropped, without one or at rate 0."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator

    def locked(self, x_TBE: Tensor, rate: float) -> Tensor:
        if self.generator is None or rate == 0.0:
            return x_TBE
        return x_TBE * self._mask(x_TBE[:1], rate)

    def weights(self, weight: Tensor, rate: float) -> Tensor:
        if self.generator is None or rate == 0.0:
            return weight
        return weight * self._mask(weight, rate)

    def _mask(self, like: Tensor, rate: float) -> Tensor:
        keep = torch.empty_like(like).bernoulli_(1.0 - rate, generator=self.generator)
        return keep.div_(1.0 - rate)


def detach(state: State) -> State:
    """The same state, cut off from the graph that made it: the border of truncated backpropagation."""
    return tuple((h_BH.detach(), c_BH.detach()) for h_BH, c_BH in state)


def cross_entropy(logits_TBV: Tensor, targets_TB: Tensor) -> Tensor:
    """Negative log-probabilities [T, B] of the targets in nats, computed in float32."""
    flat = F.cross_entropy(logits_TBV.float().flatten(0, 1), targets_TB.flatten(), reduction="none")
    return flat.view_as(targets_TB)
