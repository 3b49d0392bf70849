"""One LSTM layer over a chunk of time, and which recurrence runs it.

    i, f, o = sigmoid(gates), g = tanh(gate);  c' = f * c + i * g;  h' = o * tanh(c')

with ``gates = W_ih x + b + W_hh h`` in torch's order i, f, g, o (Hochreiter and Schmidhuber 1997; forget gate: Gers et
al. 2000). There is one bias, not torch's two, which only ever add up. ``fused_recurrence`` hands all T steps to
torch's own kernel (oneDNN on a CPU, cuDNN on CUDA); ``plain_recurrence`` writes them out: the oracle the others are
tested against, and for single steps the faster of the two.

Shapes: x [T, B, I], h and c [B, H], W_ih [4H, I], W_hh [4H, H], bias [4H].
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

LayerState = tuple[Tensor, Tensor]


def fused_recurrence(
    x_TBI: Tensor, state: LayerState, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor
) -> tuple[Tensor, LayerState]:
    """Outputs [T, B, H] and the state after the last step, by torch's kernel for the device."""
    h_BH, c_BH = state
    with warnings.catch_warnings():
        # cuDNN copies weights that lie apart in memory at each call, and warns; ours change at every step anyhow.
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")
        output, h_1BH, c_1BH = torch.lstm(
            x_TBI,
            (h_BH.to(x_TBI.dtype).unsqueeze(0), c_BH.to(x_TBI.dtype).unsqueeze(0)),
            (weight_ih, weight_hh, bias, torch.zeros_like(bias)),
            True,  # has biases
            1,  # layers
            0.0,  # dropout
            torch.is_grad_enabled(),
            False,  # bidirectional
            False,  # batch first
        )
    return output, (h_1BH[0].to(h_BH.dtype), c_1BH[0].to(c_BH.dtype))


def plain_recurrence(
    x_TBI: Tensor, state: LayerState, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor
) -> tuple[Tensor, LayerState]:
    """The same, step by step in elementary operations."""
    gates_TBG = torch.nn.functional.linear(x_TBI, weight_ih, bias)
    transposed = weight_hh.t()
    h_BH, c_BH = state
    outputs = []
    for gates_BG in gates_TBG:
        h_BH, c_BH = cell(torch.addmm(gates_BG, h_BH, transposed), c_BH)
        outputs.append(h_BH)
    return torch.stack(outputs), (h_BH, c_BH)


def cell(gates_BG: Tensor, c_BH: Tensor) -> LayerState:
    """One step from the summed gate pre-activations [B, 4H] and the cell state: the new h and c."""
    i, f, g, o = gates_BG.chunk(4, dim=1)
    c_BH = torch.sigmoid(f) * c_BH + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c_BH), c_BH
