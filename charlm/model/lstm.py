"""The recurrence of one LSTM layer over a chunk, in three implementations.

    i, f, o = sigmoid(gates), g = tanh(gate);  c' = f * c + i * g;  h' = o * tanh(c')

with ``gates = W_ih x + b + W_hh h`` in torch's order i, f, g, o (Hochreiter and Schmidhuber 1997; forget gate: Gers et
al. 2000). There is one bias instead of torch's two, which are only ever added. ``native_recurrence`` (charlm/native)
runs all T steps in one call on a CPU. ``fused_recurrence`` is torch's kernel: cuDNN on CUDA, oneDNN on a CPU without
the native engine. ``plain_recurrence`` writes the steps out and is the reference that the others are tested against.
Streams of different lengths are padded. A packed sequence would be slower: on a CPU torch runs it as a loop over the
steps, and on an H200 cuDNN took 15% longer for names than with padding, of which batches of similar length need little.

Shapes: T time steps, B streams, I input width, H layer width, G = 4H gates, N distinct inputs. x [T, B, I], h and c
[B, H], W_ih [G, I], W_hh [G, H], bias [G]. Under bfloat16 autocast the native recurrence stores activations in bfloat16
and accumulates in float32.
"""

from __future__ import annotations

import ctypes
import functools
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from charlm import native

LayerState = tuple[Tensor, Tensor]
_CUDNN_PADDING = 8


def fused_recurrence(
    x_TBI: Tensor, state: LayerState, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor
) -> tuple[Tensor, LayerState]:
    """Outputs [T, B, H] and the state after the last step, by torch's kernel for the device.

    On a CPU for which torch has no bfloat16 kernel this is float32, also under autocast.
    """
    weights = (weight_ih, weight_hh, bias, torch.zeros_like(bias))
    if x_TBI.is_cuda and torch.is_autocast_enabled("cuda"):
        return _half_lstm(x_TBI, state, weights)
    if x_TBI.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or torch_has_bfloat16():
        return _torch_lstm(x_TBI, state, weights)
    with torch.autocast("cpu", enabled=False):
        return _torch_lstm(x_TBI.float(), state, weights)


@functools.cache
def torch_has_bfloat16() -> bool:
    """Whether torch's LSTM can compute under autocast to bfloat16 on this CPU."""
    x_TBI, h_BH, weight_GH, bias_G = (torch.zeros(shape) for shape in ((1, 1, 8), (1, 8), (32, 8), (32,)))
    try:
        with torch.autocast("cpu", torch.bfloat16):
            _torch_lstm(x_TBI, (h_BH, h_BH), (weight_GH, weight_GH, bias_G, bias_G))
    except RuntimeError:
        return False
    return True


def _torch_lstm(x_TBI: Tensor, state: LayerState, weights: tuple[Tensor, ...]) -> tuple[Tensor, LayerState]:
    """torch's kernel for one layer; ``weights`` are W_ih, W_hh and torch's two biases."""
    h_BH, c_BH = state
    first = h_BH.to(x_TBI.dtype).unsqueeze(0), c_BH.to(x_TBI.dtype).unsqueeze(0)
    # has_biases, num_layers, dropout, train, bidirectional, batch_first
    rest = (True, 1, 0.0, torch.is_grad_enabled(), False, False)
    with warnings.catch_warnings():
        # cuDNN copies weights that are not one block of memory, and warns. Ours change at every step in any case.
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")
        output_TBH, h_1BH, c_1BH = torch.lstm(x_TBI, first, weights, *rest)
    return output_TBH, (h_1BH[0].to(h_BH.dtype), c_1BH[0].to(c_BH.dtype))


def _half_lstm(x_TBI: Tensor, state: LayerState, weights: tuple[Tensor, ...]) -> tuple[Tensor, LayerState]:
    """``_torch_lstm`` in autocast's type on CUDA. Autocast itself would use float16 for every type."""
    dtype = torch.get_autocast_dtype("cuda")
    weight_ih, *others = (weight.to(dtype) for weight in weights)
    x_TBI = x_TBI.to(dtype)
    if torch.is_grad_enabled():
        # For an input width that is not a multiple of 128 torch does not choose cuDNN's persistent kernels. Replayed
        # from a CUDA graph, the standard kernels are 1.5 times as fast on an H200.
        x_TBI, weight_ih = F.pad(x_TBI, (0, _CUDNN_PADDING)), F.pad(weight_ih, (0, _CUDNN_PADDING))
    with torch.autocast("cuda", enabled=False):
        return _torch_lstm(x_TBI, state, (weight_ih, *others))


def plain_recurrence(
    x_TBI: Tensor, state: LayerState, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor
) -> tuple[Tensor, LayerState]:
    """The recurrence step by step, in elementary operations."""
    gates_TBG = F.linear(x_TBI, weight_ih, bias)
    transposed = weight_hh.t()
    h_BH, c_BH = state
    outputs = []
    for gates_BG in gates_TBG:
        h_BH, c_BH = cell(torch.addmm(gates_BG, h_BH, transposed), c_BH)
        outputs.append(h_BH)
    return torch.stack(outputs), (h_BH, c_BH)


def cell(gates_BG: Tensor, c_BH: Tensor) -> LayerState:
    """One step: the new h and c [B, H] from the gate pre-activations [B, G] and the cell state [B, H]."""
    i, f, g, o = gates_BG.chunk(4, dim=1)
    c_BH = torch.sigmoid(f) * c_BH + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c_BH), c_BH


# ---------------------------------------------------------------------------------------------------- native


def native_runs(tensor: Tensor) -> bool:
    """Whether the native recurrence can take ``tensor``: float32 or bfloat16 on a CPU, if the engine was built."""
    return (
        tensor.device.type == "cpu"
        and tensor.dtype in (torch.float32, torch.bfloat16)
        and native.find_library() is not None
    )


def recurrence_name(device: torch.device) -> str:
    """Display name of the implementation that runs on ``device``."""
    library = native.find_library() if device.type == "cpu" else None
    return "torch" if library is None else f"native {library.instruction_set}"


def native_recurrence(
    x_TBI: Tensor,
    state: LayerState,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    index_TB: Tensor | None = None,
) -> tuple[Tensor, LayerState]:
    """The recurrence by the native engine. With ``index_TB``, ``x`` is [N, I] and the index selects each step's row.

    Each distinct input then takes one product, however often it occurs, which suits a layer that reads characters.
    """
    h_BH, c_BH = state
    width = h_BH.shape[1]
    wide = _padded(width)
    if index_TB is None:
        missing = _padded(weight_ih.shape[1]) - weight_ih.shape[1]
        x_TBI, weight_ih = (
            (F.pad(x_TBI, (0, missing)), F.pad(weight_ih, (0, missing))) if missing else (x_TBI, weight_ih)
        )
    if wide != width:  # the units added here have zero weights and stay zero
        weight_ih, bias = _widen_gates(weight_ih, wide), _widen_gates(bias[:, None], wide)[:, 0]
        weight_hh = F.pad(_widen_gates(weight_hh, wide), (0, wide - width))
        h_BH, c_BH = F.pad(h_BH, (0, wide - width)), F.pad(c_BH, (0, wide - width))
    storage = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
    arguments = (x_TBI, index_TB, weight_ih, weight_hh, bias, h_BH, c_BH, storage)
    output, h_BH, c_BH = _Recurrence.apply(*arguments)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return output[:, :, :width], (h_BH[:, :width], c_BH[:, :width])


def _padded(width: int) -> int:
    return -(-width // native.UNIT_PADDING) * native.UNIT_PADDING


def _widen_gates(weight: Tensor, wide: int) -> Tensor:
    rows, columns = weight.shape
    return F.pad(weight.view(4, rows // 4, columns), (0, 0, 0, wide - rows // 4)).reshape(4 * wide, columns)


class _Recurrence(torch.autograd.Function):
    """One layer, forward and backward. Widths are multiples of ``native.UNIT_PADDING``."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        index_TB: Tensor | None,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias: Tensor,
        h_BH: Tensor,
        c_BH: Tensor,
        storage: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        engine = _Engine(storage)
        length, batch = x.shape[:2] if index_TB is None else index_TB.shape
        width = weight_hh.shape[1]
        keep = any(ctx.needs_input_grad)
        x_NI, weight_GI = x.to(storage).flatten(0, -2).contiguous(), weight_ih.to(storage)
        index_TB = None if index_TB is None else index_TB.contiguous()
        recurrent_weights = engine.pack(weight_hh)
        hidden = torch.empty(length + 1, batch, width, dtype=storage)
        cells = torch.empty(length + 1 if keep else 1, batch, width)
        gates = torch.empty(length, batch, 4 * width, dtype=storage) if keep else None
        hidden[0], cells[0] = h_BH, c_BH
        if index_TB is None:
            inputs: tuple[Any, ...] = (x_NI, x_NI.shape[1], engine.pack(weight_ih), None, None)
        else:
            inputs = (None, 0, None, torch.mm(x_NI, weight_GI.t()), index_TB)
        bias_G = bias.detach().float().contiguous()
        engine.call("charlm_recurrence", length, batch, width, *inputs, bias_G, recurrent_weights, hidden, cells, gates)
        ctx.save_for_backward(x_NI, index_TB, weight_GI, weight_hh, hidden, cells, gates)
        ctx.x_shape, ctx.x_dtype = x.shape, x.dtype
        ctx.set_materialize_grads(False)
        return hidden[1:], hidden[-1].to(h_BH.dtype), cells[-1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        d_out, d_last, d_cell = gradients
        x_NI, index_TB, weight_GI, weight_hh, hidden, cells, gates = ctx.saved_tensors
        engine = _Engine(hidden.dtype)
        length, batch, columns = gates.shape
        width = columns // 4
        d_out = None if d_out is None else d_out.to(hidden.dtype).contiguous()
        d_last = None if d_last is None else d_last.float().contiguous()
        d_cell = torch.zeros(batch, width) if d_cell is None else d_cell.to(torch.float32, copy=True).contiguous()
        d_gates = torch.empty_like(gates)
        weights = engine.pack_transposed(weight_hh)
        engine.call(
            "charlm_recurrence_gradient", length, batch, width, d_out, d_last, d_cell, weights, cells, gates, d_gates
        )
        rows_NG = d_gates.view(length * batch, columns)
        d_weight_hh = engine.weight_gradient(rows_NG, hidden[:-1].view(length * batch, width))
        d_first = torch.mm(d_gates[0].float(), weight_hh.float()) if ctx.needs_input_grad[5] else None
        if index_TB is None:
            d_bias = engine.add_rows(rows_NG, None, 1)[0]
            d_weight_ih = engine.weight_gradient(rows_NG, x_NI)
        else:
            sums_NG = engine.add_rows(rows_NG, index_TB, len(x_NI))
            d_bias, rows_NG = sums_NG.sum(0), sums_NG.to(hidden.dtype)
            d_weight_ih = torch.mm(rows_NG.t(), x_NI).float()
        d_x = torch.mm(rows_NG, weight_GI).view(ctx.x_shape).to(ctx.x_dtype) if ctx.needs_input_grad[0] else None
        return d_x, None, d_weight_ih, d_weight_hh, d_bias, d_first, d_cell, None


class _Engine:
    """The library's functions for tensors of one storage type, on torch's threads."""

    def __init__(self, storage: torch.dtype) -> None:
        library = native.find_library()
        assert library is not None, "native_runs() says whether there is one"
        self._library = library
        self._storage = native.STORAGES["bf16" if storage == torch.bfloat16 else "fp32"]
        self._dtype = storage
        self._threads = torch.get_num_threads()
        _share_openmp()

    def call(self, name: str, *arguments: int | Tensor | None) -> None:
        """Call a function of the library with sizes and tensors."""
        assert all(a.is_contiguous() for a in arguments if isinstance(a, Tensor)), (
            "the library takes contiguous tensors only"
        )
        plain = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
        failed = getattr(self._library.functions, name)(self._library.kernels, self._storage, *plain, self._threads)
        if failed:
            raise MemoryError

    def pack(self, weight_GI: Tensor) -> Tensor:
        """Weights in the memory order of the recurrence."""
        packed = torch.empty(weight_GI.numel(), dtype=self._dtype)
        plain = weight_GI.detach().float().contiguous()
        self.call("charlm_pack_gates", plain, len(plain) // 4, plain.shape[1], packed)
        return packed

    def pack_transposed(self, weight_hh: Tensor) -> Tensor:
        """Recurrent weights in the memory order of the recurrence's gradient."""
        width = weight_hh.shape[1]
        size = self._library.functions.charlm_transposed_size(self._library.kernels, width)
        packed = torch.empty(size, dtype=self._dtype)
        self.call("charlm_pack_transposed", weight_hh.detach().float().contiguous(), width, packed)
        return packed

    def weight_gradient(self, d_NG: Tensor, x_NI: Tensor) -> Tensor:
        """[G, I] in float32: the sum over n of d[n, g] * x[n, i]."""
        sums_IG = torch.empty(x_NI.shape[1], d_NG.shape[1])
        self.call("charlm_weight_gradient", len(x_NI), *sums_IG.shape, x_NI, d_NG, sums_IG)
        return sums_IG.t()

    def add_rows(self, rows_NG: Tensor, index_N: Tensor | None, count: int) -> Tensor:
        """[count, G]: the sums of the rows with the same index; without an index, of all rows."""
        sums = torch.zeros(count, rows_NG.shape[1])
        self.call("charlm_add_rows", rows_NG, index_N, *rows_NG.shape, sums)
        return sums


@functools.cache
def _share_openmp() -> None:
    """Let the engine use torch's OpenMP threads; a second pool would compete for the cores."""
    library = native.find_library()
    try:
        parallel = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):  # another OpenMP or none: the engine uses its own threads
        return
    assert library is not None
    library.functions.charlm_use_openmp(ctypes.cast(parallel, ctypes.c_void_p))
