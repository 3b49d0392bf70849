"""One update of the weights from one chunk: forward pass, gradients, clipping, and the optimizer's step.

``Update`` decides on the host whether an update is applied. ``DeviceUpdate`` decides it on the device. On CUDA a whole
update can then be captured once as a graph and replayed: an LSTM of two layers and 128 time steps launches a few
thousand small kernels, and launching them one by one takes longer than computing them. The host can also prepare the
next chunks meanwhile, because it reads the losses of several updates at once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from charlm.corpus.batches import IGNORE_INDEX, Chunk
from charlm.corpus.soft_targets import SoftTargets
from charlm.model.char_lm import Share, State, activation_penalty, cross_entropy, detach, soft_cross_entropy
from charlm.system.devices import autocast, copy_to
from charlm.system.processes import ALONE, Group
from charlm.training.muon import Muon
from charlm.training.state import TrainingState

LOSS_SCALE = 1024.0
"""Loss scale for float16; gradients are unscaled before clipping. Without it the gradients of a mean over ten thousand
characters are subnormal numbers; a gradient of 64 or more overflows and skips the update."""
_EAGER_UPDATES = 3
"""Updates before the capture: libraries allocate their workspaces in the first ones."""


class UpdateResult(NamedTuple):
    """The mean loss in nats per id, that of the text itself, and the norm of the gradient before clipping."""

    loss: float
    grad_norm: float

    @property
    def is_finite(self) -> bool:
        """Whether the update was applied."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class _Batch(NamedTuple):
    """A chunk on the device, or the part of it that a process trains on."""

    inputs_TB: Tensor
    targets_TB: Tensor
    is_padded: bool
    predictions: int
    """In the whole chunk."""
    share: Share | None = None
    counts: tuple[int, int] | None = None
    """Of a shared chunk: its predictions, all and without the first step."""
    soft: tuple[Tensor, Tensor] | None = None
    """Of a teacher: likely ids [T, B, K] and their probabilities."""


def make_update(state: TrainingState, group: Group = ALONE, soft_targets: SoftTargets | None = None) -> Update:
    """The fastest implementation for the device and the optimizer. Make a new one after ``state.restore``.

    With ``soft_targets`` the model also learns from them, in the share ``soft_weight`` of the loss.
    """
    graphable = isinstance(state.optimizer, (Muon, torch.optim.Adam))  # AdamW is a subclass of Adam
    kind = DeviceUpdate if state.device.type == "cuda" and graphable else Update
    return kind(state, group, soft_targets)


class Update:
    """Applies updates to the model of ``state`` with its optimizer.

    Each process of a ``group`` computes the gradient of its rows; the sum of these is that of the whole chunk.
    """

    queue_length = 1
    """How many updates may be applied before ``results`` is called."""

    def __init__(self, state: TrainingState, group: Group = ALONE, soft_targets: SoftTargets | None = None) -> None:
        self._group = group
        self._soft_targets = soft_targets
        self._model = state.model
        self._optimizer = state.optimizer
        self._config = state.config
        self._generator = state.generator
        self._device = state.device
        self._scale = LOSS_SCALE if state.config.precision == "fp16" else 1.0
        self._results: list[UpdateResult] = []

    @property
    def skipped(self) -> bool | Tensor:
        """Whether the last update was skipped; on a device a tensor, 1 or 0."""
        return bool(self._results) and not self._results[-1].is_finite

    def results(self) -> list[UpdateResult]:
        """The results of the updates since the last call, oldest first."""
        results, self._results = self._results, []
        return results

    def apply(self, chunk: Chunk, state: State, lr: float) -> State:
        """Learn from ``chunk``, whose rows continue from ``state``, at the learning rate ``lr``.

        ``state`` has the rows of this process, and so has the returned state, which is detached. Where the loss or the
        norm of the gradient is not finite, no weight changes and that state is zero.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        rows = state[0][0].shape[0]
        loss, norm, state = self._gradients(self._batch(chunk), self._never_empty(state))
        result = UpdateResult(loss.item(), norm.item())
        self._results.append(result)
        if result.is_finite:
            self._optimizer.step()
            return _first_rows(detach(state), rows)
        return self._model.initial_state(rows)

    def _batch(self, chunk: Chunk) -> _Batch:
        own, share, counts = (chunk, None, None) if self._group.size == 1 else _own_part(chunk, self._group)
        soft = None
        if self._soft_targets is not None:
            likely = self._soft_targets.of(own)
            soft = copy_to(self._device, likely.ids_TBK), copy_to(self._device, likely.probabilities_TBK)
        return _Batch(
            copy_to(self._device, own.inputs_TB),
            copy_to(self._device, own.targets_TB),
            own.is_padded,
            chunk.predictions,
            share,
            counts,
            soft,
        )

    def _never_empty(self, state: State) -> State:
        """``state``, or that of the row that a process without rows reads."""
        return state if state[0][0].shape[0] else self._model.initial_state(1)

    def _gradients(self, batch: _Batch, state: State) -> tuple[Tensor, Tensor, State]:
        """Leave clipped gradients in the parameters; return the loss, the norm before clipping, and the state."""
        with autocast(self._device.type, self._config.precision):
            output_TBE, dropped_TBE, state = self._model.read(batch.inputs_TB, state, self._generator, batch.share)
            logits_TBV = self._model.decoder(dropped_TBE)
        loss, objective = self._losses(logits_TBV, batch)
        self._optimizer.zero_grad(set_to_none=True)
        objective = objective + self._penalty(output_TBE, dropped_TBE, batch)
        if self._scale != 1.0:
            (objective * self._scale).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
            torch._foreach_mul_(gradients, 1.0 / self._scale)
        else:
            objective.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        loss = self._add(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._config.clip)
        return loss, norm.detach(), state

    def _losses(self, logits_TBV: Tensor, batch: _Batch) -> tuple[Tensor, Tensor]:
        """The mean loss of the text, and what the weights are trained to lower, before penalties."""
        if batch.soft is None:
            loss = cross_entropy(logits_TBV, batch.targets_TB).sum() / batch.predictions
            return loss, loss
        hard_TB, soft_TB = soft_cross_entropy(logits_TBV, batch.targets_TB, *batch.soft)
        loss, weight = hard_TB.sum() / batch.predictions, self._config.soft_weight
        return loss, (1.0 - weight) * loss + weight * soft_TB.sum() / batch.predictions

    def _add(self, loss: Tensor) -> Tensor:
        """The sum of ``loss`` over all processes, and of the gradients of all parameters, in one exchange."""
        if self._group.size == 1:
            return loss
        parameters = [parameter for parameter in self._model.parameters() if parameter.grad is not None]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), loss.float().view(1)])
        self._group.add(flat)
        parts = torch.split(flat[:-1], [gradient.numel() for gradient in gradients])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        return flat[-1]

    def _penalty(self, output_TBE: Tensor, dropped_TBE: Tensor, batch: _Batch) -> Tensor | float:
        weights = self._config.ar, self._config.tar
        if not any(weights):
            return 0.0
        return activation_penalty(
            output_TBE, dropped_TBE, batch.targets_TB != IGNORE_INDEX, *weights, counts=batch.counts
        )


class DeviceUpdate(Update):
    """``Update`` without a host synchronization before ``results``, for Muon and fused Adam and AdamW.

    On CUDA, chunks of the usual shape run as one captured graph; others, such as the last chunk of an epoch and
    documents, run eagerly. The graph holds the addresses of the weights and of the optimizer's state.
    """

    queue_length = 16

    def __init__(self, state: TrainingState, group: Group = ALONE, soft_targets: SoftTargets | None = None) -> None:
        super().__init__(state, group, soft_targets)
        self._skip = torch.zeros((), device=self._device)
        # What torch's GradScaler sets: where it is 1, a fused optimizer changes neither weights nor its state.
        self._optimizer.found_inf = self._skip  # type: ignore[attr-defined]  # torch declares it nowhere
        self._lr = torch.tensor(self._config.lr, device=self._device)
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = self._lr
        self._shape = (self._config.bptt, self._config.batch)
        self._eager_updates = 0
        self._graph: _Graph | None = None
        self._values_Q2 = torch.zeros(self.queue_length, 2, device=self._device)
        self._queued = 0

    @property
    def skipped(self) -> Tensor:
        return self._skip

    def results(self) -> list[UpdateResult]:
        values, self._queued = self._values_Q2[: self._queued].tolist(), 0
        return [UpdateResult(loss, norm) for loss, norm in values]

    def apply(self, chunk: Chunk, state: State, lr: float) -> State:
        values_2, state = self._queue(chunk, state, lr)
        self._values_Q2[self._queued].copy_(values_2)
        self._queued += 1
        return state

    def _queue(self, chunk: Chunk, state: State, lr: float) -> tuple[Tensor, State]:
        self._lr.fill_(lr)
        batch = self._batch(chunk)
        has_usual_shape = not batch.is_padded and tuple(batch.inputs_TB.shape) == self._shape
        fits_graph = self._device.type == "cuda" and has_usual_shape and self._group.size == 1
        if not fits_graph or self._eager_updates < _EAGER_UPDATES:
            self._eager_updates += fits_graph
            values_2, after = self._update(batch, self._never_empty(state))
            return values_2, _first_rows(after, state[0][0].shape[0])
        if self._graph is None:
            self._graph = _Graph(self, batch, state)
        return self._graph.replay(batch, state)

    def _update(self, batch: _Batch, state: State) -> tuple[Tensor, State]:
        """Loss and norm as one tensor [2], and the state."""
        loss, norm, state = self._gradients(batch, state)
        values_2 = torch.stack([loss, norm])
        is_finite = torch.isfinite(values_2).all()
        self._skip.copy_(~is_finite)
        self._optimizer.step()
        return values_2, tuple(
            (torch.where(is_finite, h_BH, 0.0), torch.where(is_finite, c_BH, 0.0)) for h_BH, c_BH in detach(state)
        )


def _own_part(chunk: Chunk, group: Group) -> tuple[Chunk, Share, tuple[int, int]]:
    """The rows of ``chunk`` that this process trains on, and the ``counts`` of the whole chunk."""
    total = chunk.inputs_TB.shape[1]
    real_TB = chunk.targets_TB != IGNORE_INDEX
    # Where there are fewer documents than processes, the others read the first row and predict nothing.
    has_rows = group.count(total) > 0
    rows = group.rows(total) if has_rows else slice(0, 1)
    inputs_TB, targets_TB = (np.ascontiguousarray(ids_TB[:, rows]) for ids_TB in (chunk.inputs_TB, chunk.targets_TB))
    own = Chunk(
        inputs_TB,
        targets_TB if has_rows else np.full_like(targets_TB, IGNORE_INDEX),
        chunk.fresh,
        chunk.is_padded,
        chunk.positions_B[rows],
    )
    return own, Share(rows, total), (int(real_TB.sum()), int(real_TB[1:].sum()))


def _first_rows(state: State, rows: int) -> State:
    return tuple((h_BH[:rows], c_BH[:rows]) for h_BH, c_BH in state)


class _Graph:
    """An update captured at fixed addresses. ``state`` is read from and written to the same tensors."""

    def __init__(self, update: DeviceUpdate, batch: _Batch, state: State) -> None:
        self._batch = batch._replace(
            inputs_TB=batch.inputs_TB.clone(),
            targets_TB=batch.targets_TB.clone(),
            soft=None if batch.soft is None else (batch.soft[0].clone(), batch.soft[1].clone()),
        )
        self._state: State = tuple((h_BH.clone(), c_BH.clone()) for h_BH, c_BH in state)
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(update._generator)
        update._optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(self._graph):
            self._values_2, after = update._update(self._batch, self._state)
            _copy_state(self._state, after)

    def replay(self, batch: _Batch, state: State) -> tuple[Tensor, State]:
        """The update for other inputs of the same shape. The next call overwrites the state that it returns."""
        self._batch.inputs_TB.copy_(batch.inputs_TB)
        self._batch.targets_TB.copy_(batch.targets_TB)
        for kept, new in zip(self._batch.soft or (), batch.soft or (), strict=True):
            kept.copy_(new)
        _copy_state(self._state, state)
        self._graph.replay()
        return self._values_2, self._state


def _copy_state(to: State, source: State) -> None:
    for (h_BH, c_BH), (new_h_BH, new_c_BH) in zip(to, source, strict=True):
        if h_BH.data_ptr() != new_h_BH.data_ptr():
            h_BH.copy_(new_h_BH)
            c_BH.copy_(new_c_BH)
