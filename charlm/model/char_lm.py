"""``CharLM``: embedding, LSTM layers, and a decoder whose weight is tied to the embedding.

The state is an argument and a result of every call (``logits, state = model(ids, state)``); the model keeps none.
Dropout masks are drawn from a generator that the caller owns, so that training can be saved and resumed exactly.

Shapes: T time steps, B streams, V vocabulary, E embedding width, H layer width, N distinct inputs. ids [T, B], logits
[T, B, V], state: for each layer a pair (h, c) of [B, H].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from charlm.config import ModelConfig
from charlm.corpus.batches import IGNORE_INDEX
from charlm.model.lstm import LayerState, fused_recurrence, native_recurrence, native_runs

State = tuple[LayerState, ...]


class Share(NamedTuple):
    """The ``rows`` of a batch of ``total`` rows that a process trains on. All draw the masks of the whole batch."""

    rows: slice
    total: int


EMBEDDING_STD = 0.2
"""Wider than the usual 1/sqrt(E), which lowers the loss of short trainings more than any other choice here."""

_DISTINCT_ROWS = 64
"""The number of input rows of the first layer is padded to a multiple of this."""


class LSTMLayer(nn.Module):
    """One layer: weights uniform(-1/sqrt(H), 1/sqrt(H)), forget bias 1 (Jozefowicz et al. 2015), other biases 0."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(4 * width, width_in))
        self.weight_hh = nn.Parameter(torch.empty(4 * width, width))
        self.bias = nn.Parameter(torch.zeros(4 * width))
        self.width = width

    def initialize(self, generator: torch.Generator) -> None:
        """Draw new weights."""
        bound = self.width**-0.5
        with torch.no_grad():
            self.weight_ih.uniform_(-bound, bound, generator=generator)
            self.weight_hh.uniform_(-bound, bound, generator=generator)
            self.bias.zero_()
            self.bias[self.width : 2 * self.width] = 1.0

    def forward(
        self,
        x: Tensor,
        state: LayerState,
        weight_hh: Tensor | None = None,
        index_TB: Tensor | None = None,
    ) -> tuple[Tensor, LayerState]:
        """Outputs [T, B, H] and the new state for inputs x [T, B, I], by the fastest recurrence available.

        With ``index_TB``, x [N, I] holds distinct rows and the index selects the row of each step (native engine only).
        ``weight_hh`` replaces the layer's own weight, for weight dropout.
        """
        recurrent = self.weight_hh if weight_hh is None else weight_hh
        if native_runs(x):
            return native_recurrence(x, state, self.weight_ih, recurrent, self.bias, index_TB)
        return fused_recurrence(x, state, self.weight_ih, recurrent, self.bias)


class CharLM(nn.Module):
    """The network that ``config`` describes, with initial weights drawn from ``seed``."""

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
        """The state of ``batch`` streams before their first id: zeros."""
        weight = self.embedding.weight
        return tuple(
            (weight.new_zeros(batch, layer.width), weight.new_zeros(batch, layer.width)) for layer in self.layers()
        )

    def forward(
        self,
        ids_TB: Tensor,
        state: State,
        dropout_generator: torch.Generator | None = None,
    ) -> tuple[Tensor, State]:
        """Logits [T, B, V] after each id, and the state after the last.

        With ``dropout_generator`` (on the model's device) the configured dropouts apply, with one mask for all T steps
        (locked or variational dropout, Gal and Ghahramani 2016); without it there is no dropout.
        """
        _, dropped_TBE, new_state = self.read(ids_TB, state, dropout_generator)
        return self.decoder(dropped_TBE), new_state

    def read(
        self,
        ids_TB: Tensor,
        state: State,
        dropout_generator: torch.Generator | None,
        share: Share | None = None,
    ) -> tuple[Tensor, Tensor, State]:
        """The last layer's output [T, B, E], the same after dropout, and the new state; see ``forward``.

        The ids are the ``share`` of a larger batch, whose dropout masks are drawn.
        """
        drop = _Dropout(dropout_generator, share)
        x, index_TB = self._first_input(ids_TB, drop)
        new_state = []
        layers = self.layers()
        for number, (layer, layer_state) in enumerate(zip(layers, state, strict=True)):
            weight_hh = drop.weights(layer.weight_hh, self.config.weight_drop)
            x, after = layer(x, layer_state, weight_hh, index_TB if number == 0 else None)
            new_state.append(after)
            if number < len(layers) - 1:
                x = drop.locked(x, self.config.dropout_hidden)
        return x, drop.locked(x, self.config.dropout_output), tuple(new_state)

    def _first_input(self, ids_TB: Tensor, drop: _Dropout) -> tuple[Tensor, Tensor | None]:
        """The first layer's input [T, B, E]; for the native engine, its distinct rows [N, E] and their index [T, B].

        With dropout, rows are distinct pairs of stream and character, because each stream has its own mask.
        """
        weight_VE = drop.rows(self.embedding.weight, self.config.dropout_embedding)
        batch = ids_TB.shape[1]
        mask_1BE = drop.mask_of_rows(weight_VE.new_empty(1, batch, weight_VE.shape[1]), self.config.dropout_input)
        if not native_runs(weight_VE):
            x_TBE = F.embedding(ids_TB, weight_VE)
            return (x_TBE if mask_1BE is None else x_TBE * mask_1BE), None
        if mask_1BE is None:
            distinct_N, index_TB = _distinct(ids_TB)
            return F.embedding(distinct_N, weight_VE), index_TB
        streams_B = torch.arange(batch, device=ids_TB.device)
        distinct_N, index_TB = _distinct(ids_TB * batch + streams_B)
        rows_NE = F.embedding(distinct_N // batch, weight_VE)
        return rows_NE * mask_1BE[0, distinct_N % batch], index_TB

    def weights(self) -> dict[str, NDArray[Any]]:
        """Copies of all parameters as float32 arrays, named as in ``parameter_shapes``, the tied weight once."""
        return {
            name: tensor.detach().to("cpu", torch.float32).numpy().copy() for name, tensor in self.named_parameters()
        }

    def load_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Copy arrays with the names and shapes of ``ModelConfig.parameter_shapes`` into the parameters."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(torch.from_numpy(weights[name]))


def _distinct(ids_TB: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct ids [N] and the index [T, B] of each position's id. N is padded with zeros to a multiple.

    For each N, torch's bfloat16 library compiles a kernel and keeps it. With thousands of distinct characters in
    a chunk that took 2 MB per step, and fragmented the heap by far more.
    """
    distinct_N, index_TB = torch.unique(ids_TB, return_inverse=True)
    return F.pad(distinct_N, (0, -len(distinct_N) % _DISTINCT_ROWS)), index_TB


class _Dropout:
    """Dropout masks drawn from one generator. Without a generator or at rate 0 nothing is drawn or dropped."""

    def __init__(self, generator: torch.Generator | None, share: Share | None = None) -> None:
        self.generator = generator
        self._share = share

    def locked(self, x_TBE: Tensor, rate: float) -> Tensor:
        mask_1BE = self.mask_of_rows(x_TBE[:1], rate)
        if mask_1BE is None:
            return x_TBE
        masked: Tensor = _Masked.apply(x_TBE, mask_1BE)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return masked

    def rows(self, weight_VE: Tensor, rate: float) -> Tensor:
        mask_V1 = self.mask(weight_VE[:, :1], rate)
        return weight_VE if mask_V1 is None else weight_VE * mask_V1

    def weights(self, weight: Tensor, rate: float) -> Tensor:
        mask = self.mask(weight, rate)
        return weight if mask is None else weight * mask

    def mask_of_rows(self, like_1BE: Tensor, rate: float) -> Tensor | None:
        """A mask for each row of the batch."""
        if self._share is None:
            return self.mask(like_1BE, rate)
        mask_1BE = self.mask(like_1BE.new_empty(1, self._share.total, like_1BE.shape[2]), rate)
        return None if mask_1BE is None else mask_1BE[:, self._share.rows]

    def mask(self, like: Tensor, rate: float) -> Tensor | None:
        """0 or 1 / (1 - rate) in float32, in the shape of ``like``; None without dropout."""
        if self.generator is None or rate == 0.0:
            return None
        keep = torch.empty_like(like, dtype=torch.float32).bernoulli_(1.0 - rate, generator=self.generator)
        return keep.div_(1.0 - rate)


class _Masked(torch.autograd.Function):
    """x times a float32 mask in the type of x. Autograd would store a float32 product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return torch.mul(x, mask, out=torch.empty_like(x))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return torch.mul(gradients[0], mask, out=torch.empty_like(gradients[0])), None


def detach(state: State) -> State:
    """The state without its autograd graph: gradients of truncated backpropagation end here."""
    return tuple((h_BH.detach(), c_BH.detach()) for h_BH, c_BH in state)


def activation_penalty(
    output_TBE: Tensor,
    dropped_TBE: Tensor,
    real_TB: Tensor,
    ar: float,
    tar: float,
    counts: tuple[Tensor | int, Tensor | int] | None = None,
) -> Tensor:
    """AR and TAR (Merity et al. 2017): mean squares of the last layer's output, and of its change between steps.

    AR uses the output after dropout, TAR before it; both only where ``real_TB`` is true. ``counts`` are the numbers of
    true values, all and without the first step, in a larger batch that this one is a share of.
    """
    count, changes = (real_TB.sum(), real_TB[1:].sum()) if counts is None else map(torch.as_tensor, counts)
    squares_TB = dropped_TBE.float().square().mean(2)
    changes_TB = (output_TBE[1:].float() - output_TBE[:-1].float()).square().mean(2)
    level = (squares_TB * real_TB).sum() / count.clamp(min=1)
    change = (changes_TB * real_TB[1:]).sum() / changes.clamp(min=1)
    return ar * level + tar * change


def cross_entropy(logits_TBV: Tensor, targets_TB: Tensor) -> Tensor:
    """Negative log-probabilities [T, B] of the targets in nats, computed in float32; 0 for ``IGNORE_INDEX``."""
    flat = F.cross_entropy(
        logits_TBV.float().flatten(0, 1), targets_TB.flatten(), reduction="none", ignore_index=IGNORE_INDEX
    )
    return flat.view_as(targets_TB)


def soft_cross_entropy(
    logits_TBV: Tensor, targets_TB: Tensor, ids_TBK: Tensor, probabilities_TBK: Tensor
) -> tuple[Tensor, Tensor]:
    """``cross_entropy``, and the cross entropy [T, B] with the soft targets in nats.

    Soft targets are K ids with their probabilities, which are 0 where nothing is predicted.
    """
    log_probabilities_TBV = F.log_softmax(logits_TBV.float(), dim=2)
    hard = F.nll_loss(
        log_probabilities_TBV.flatten(0, 1), targets_TB.flatten(), reduction="none", ignore_index=IGNORE_INDEX
    )
    # Spread over the vocabulary, so that the gradient is a product and no sum in any order.
    soft_TBV = torch.zeros_like(log_probabilities_TBV).scatter_(2, ids_TBK, probabilities_TBK)
    return hard.view_as(targets_TB), -(soft_TBV * log_probabilities_TBV).sum(2)
