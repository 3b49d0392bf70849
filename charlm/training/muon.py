"""Muon (Jordan et al. 2024) for the weight matrices of the LSTM, and AdamW for all other parameters.

Muon replaces the momentum X of a matrix by the nearest matrix with orthonormal columns, X (X^T X)^(-1/2), so that a
step changes the output by the same amount in all directions of the input. Newton-Schulz iterations approximate it:
X <- X p(X^T X) with p(G) = a + b G + c G^2. Here the columns are divided into blocks of ``BLOCK_COLUMNS``, each of
which is orthogonalized by itself. That costs a fraction of the arithmetic and has not increased the loss
(benchmarks/LOG.md#muon). On a CPU with the native engine charlm/native/muon.cpp takes the step.

Shapes: G = 4H gates, I inputs, N blocks, C = BLOCK_COLUMNS.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.adamw import adamw

from charlm import native

BLOCK_COLUMNS = 128
LR_FACTOR = 20.0
"""The learning rate of Muon's matrices over that of the other parameters. A step of Muon has the spectral norm of its
learning rate in each block, whatever the gradient and the width of the layer."""
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b and c of the iteration: Jordan's, which charlm/native/muon.cpp repeats."""
ITERATIONS = 3
_EPS = 1e-8


def orthogonalize(x_GI: Tensor, products: torch.dtype = torch.float32) -> Tensor:
    """An approximation of the matrix with orthonormal columns that is nearest to ``x_GI``, in blocks of columns.

    Singular values above a thirtieth of a block's norm, (sum of their fourth powers)^(1/4), become 0.7 to 1.2; smaller
    ones are multiplied by 40. ``products`` is the type in which matrices are multiplied.
    """
    rows, columns = x_GI.shape
    padded_GI = F.pad(x_GI, (0, -columns % BLOCK_COLUMNS))
    x_NGC = padded_GI.view(rows, -1, min(BLOCK_COLUMNS, padded_GI.shape[1])).transpose(0, 1)
    norm_N11 = (x_NGC.mT @ x_NGC).square().sum((1, 2), keepdim=True).pow(0.25)
    x_NGC = (x_NGC / norm_N11.clamp_min(torch.finfo(torch.float32).tiny)).to(products)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram_NCC = x_NGC.mT @ x_NGC
        x_NGC = a * x_NGC + x_NGC @ (b * gram_NCC + c * gram_NCC @ gram_NCC)
    return x_NGC.transpose(0, 1).reshape(rows, -1)[:, :columns].float()


class Muon(torch.optim.Optimizer):
    """The optimizer of ``matrices`` by Muon, with Nesterov momentum, and of ``others`` by AdamW.

    ``others`` are two lists: with and without weight decay. Decay is decoupled, and ``lr * weight_decay`` per step for
    all. ``precision`` is that of the training: matrices are multiplied in float32 for "fp32", else in bfloat16 on CUDA
    and, for "bf16", on the native engine.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: tuple[list[nn.Parameter], list[nn.Parameter]],
        *,
        lr: float,
        momentum: float,
        betas: tuple[float, float],
        weight_decay: float,
        precision: str,
    ) -> None:
        groups = [
            {"params": list(matrices), "weight_decay": weight_decay},
            {"params": others[0], "weight_decay": weight_decay},
            {"params": others[1], "weight_decay": 0.0},
        ]
        # torch then keeps the steps of a restored state on the device of the parameters.
        super().__init__(groups, {"lr": lr, "fused": others[0][0].device.type in ("cpu", "cuda")})
        self._momentum = momentum
        self._betas = betas
        self._storage = native.STORAGES["bf16" if precision == "bf16" else "fp32"]
        self._cuda_products = torch.float32 if precision == "fp32" else torch.bfloat16

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # there is never a closure
        """One step from the gradients in the parameters.

        Where the attribute ``found_inf`` is set and 1, as by torch's gradient scaler, nothing changes.
        """
        matrices, *others = self.param_groups
        found_inf = getattr(self, "found_inf", None)
        self._muon_step(matrices, found_inf)
        for group in others:
            self._adamw_step(group, found_inf)

    def _muon_step(self, group: dict[str, Any], found_inf: Tensor | None) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        if parameters and parameters[0].device.type == "cpu" and native.find_library() is not None:
            if found_inf is None or not found_inf.item():
                self._native_step(parameters, float(group["lr"]), group["weight_decay"])
            return
        for together in _stackable(parameters):
            self._torch_step(together, group["lr"], group["weight_decay"], found_inf)

    def _native_step(self, parameters: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        library = native.find_library()
        assert library is not None
        blocks = [
            block
            for parameter in parameters
            for block in _blocks(parameter, self.state[parameter]["momentum_buffer"], lr * LR_FACTOR)
        ]
        failed = library.functions.charlm_muon_step(
            library.kernels, self._storage, len(blocks), (native.MuonBlock * len(blocks))(*blocks), self._momentum,
            lr * weight_decay, torch.get_num_threads(),
        )  # fmt: skip
        if failed:
            raise MemoryError

    def _torch_step(
        self, parameters: list[nn.Parameter], lr: float | Tensor, weight_decay: float, found_inf: Tensor | None
    ) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        momenta = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        averages = torch._foreach_lerp(gradients, momenta, self._momentum)
        directions = torch._foreach_lerp(gradients, averages, self._momentum)
        on_cuda = parameters[0].device.type == "cuda"
        orthogonal_GI = orthogonalize(torch.cat(directions, 1), self._cuda_products if on_cuda else torch.float32)
        columns = [parameter.shape[1] for parameter in parameters]
        for parameter, momentum_GI, average_GI, direction_GI in zip(
            parameters, momenta, averages, torch.split(orthogonal_GI, columns, 1), strict=True
        ):
            change_GI = direction_GI * (lr * LR_FACTOR) + parameter * (lr * weight_decay)
            if found_inf is None:
                momentum_GI.copy_(average_GI)
                parameter.sub_(change_GI)
            else:
                momentum_GI.copy_(torch.where(found_inf > 0, momentum_GI, average_GI))
                parameter.sub_(torch.where(found_inf > 0, 0.0, change_GI))

    def _adamw_step(self, group: dict[str, Any], found_inf: Tensor | None) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                zeros = torch.zeros_like(parameter)
                self.state[parameter].update(
                    step=torch.zeros((), device=parameter.device), exp_avg=zeros, exp_avg_sq=zeros.clone()
                )
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            list(parameters), [p.grad for p in parameters if p.grad is not None],
            [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states], [],
            [state["step"] for state in states], fused=group["fused"],
            found_inf=found_inf, amsgrad=False, beta1=self._betas[0], beta2=self._betas[1], lr=group["lr"],
            weight_decay=group["weight_decay"], eps=_EPS, maximize=False,
        )  # fmt: skip


def _stackable(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """The parameters in groups whose matrices can stand side by side without a block that covers two of them."""
    groups: dict[object, list[nn.Parameter]] = {}
    for parameter in parameters:
        rows, columns = parameter.shape
        groups.setdefault(rows if columns % BLOCK_COLUMNS == 0 else parameter, []).append(parameter)
    return list(groups.values())


def _blocks(parameter: nn.Parameter, momentum_GI: Tensor, lr: float) -> list[native.MuonBlock]:
    """The blocks of columns of one matrix for the native engine."""
    gradient_GI = parameter.grad
    assert gradient_GI is not None
    arrays = gradient_GI, momentum_GI, parameter
    assert all(array.is_contiguous() and array.dtype == torch.float32 for array in arrays)
    rows, columns = parameter.shape
    return [
        native.MuonBlock(
            rows, min(BLOCK_COLUMNS, columns - first), columns,
            *(array.data_ptr() + 4 * first for array in arrays), lr,
        )
        for first in range(0, columns, BLOCK_COLUMNS)
    ]  # fmt: skip
