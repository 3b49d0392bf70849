"""One update of the weights from one chunk: forward pass, gradients, clipping, and the optimizer's step.

``Update`` decides on the host whether an update is applied. ``DeviceUpdate`` decides it on the device. On CUDA a whole
update can then be captured once as a graph and replayed: an LSTM of two layers and 128 time steps launches a few
thousand small kernels, and launching them one by one takes longer than computing them. The host can also prepare the
next chunks meanwhile, because it reads the losses of several updates at once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from charlm.corpus.batches import IGNORE_INDEX, Chunk
from charlm.model.char_lm import State, activation_penalty, cross_entropy, detach
from charlm.system.devices import autocast, copy_to
from charlm.training.muon import Muon
from charlm.training.state import TrainingState

LOSS_SCALE = 1024.0
"""Loss scale for float16; gradients are unscaled before clipping. Without it the gradients of a mean over ten thousand
characters are subnormal numbers; a gradient of 64 or more overflows and skips the update."""
_EAGER_UPDATES = 3
"""Updates before the capture: libraries allocate their workspaces in the first ones."""


class UpdateResult(NamedTuple):
    """The mean loss in nats per id, and the norm of the gradient before clipping."""

    loss: float
    grad_norm: float

    @property
    def is_finite(self) -> bool:
        """Whether the update was applied."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def make_update(state: TrainingState) -> Update:
    """The fastest implementation for the device and the optimizer. Make a new one after ``state.restore``."""
    graphable = isinstance(state.optimizer, (Muon, torch.optim.Adam))  # AdamW is a subclass of Adam
    return DeviceUpdate(state) if state.device.type == "cuda" and graphable else Update(state)


class Update:
    """Applies updates to the model of ``state`` with its optimizer."""

    queue_length = 1
    """How many updates may be applied before ``results`` is called."""

    def __init__(self, state: TrainingState) -> None:
        self._model = state.model
        self._optimizer = state.optimizer
        self._config = state.config
        self._generator = state.generator
        self._device = state.device
        self._scale = LOSS_SCALE if state.config.precision == "fp16" else 1.0
        self._results: list[UpdateResult] = []

    def results(self) -> list[UpdateResult]:
        """The results of the updates since the last call, oldest first."""
        results, self._results = self._results, []
        return results

    def apply(self, chunk: Chunk, state: State, lr: float) -> State:
        """Learn from ``chunk``, whose rows continue from ``state``, at the learning rate ``lr``.

        Returns the detached state after the chunk. Where the loss or the norm of the gradient is not finite, no weight
        changes and the state is zero.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        inputs_TB, targets_TB, lengths_B = self._tensors(chunk)
        loss, norm, state = self._gradients(inputs_TB, targets_TB, lengths_B, chunk.predictions, state)
        result = UpdateResult(loss.item(), norm.item())
        self._results.append(result)
        if result.is_finite:
            self._optimizer.step()
            return detach(state)
        return self._model.initial_state(inputs_TB.shape[1])

    def _tensors(self, chunk: Chunk) -> tuple[Tensor, Tensor, Tensor | None]:
        lengths_B = None if chunk.lengths_B is None else torch.from_numpy(chunk.lengths_B)
        inputs_TB, targets_TB = (copy_to(self._device, ids) for ids in (chunk.inputs_TB, chunk.targets_TB))
        return inputs_TB, targets_TB, lengths_B

    def _gradients(
        self, inputs_TB: Tensor, targets_TB: Tensor, lengths_B: Tensor | None, predictions: int, state: State
    ) -> tuple[Tensor, Tensor, State]:
        """Leave clipped gradients in the parameters; return the loss, the norm before clipping, and the state."""
        with autocast(self._device.type, self._config.precision):
            output_TBE, dropped_TBE, state = self._model.read(inputs_TB, state, self._generator, lengths_B)
            logits_TBV = self._model.decoder(dropped_TBE)
        loss = cross_entropy(logits_TBV, targets_TB).sum() / predictions
        self._optimizer.zero_grad(set_to_none=True)
        objective = loss + self._penalty(output_TBE, dropped_TBE, targets_TB)
        if self._scale != 1.0:
            (objective * self._scale).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
            torch._foreach_mul_(gradients, 1.0 / self._scale)
        else:
            objective.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._config.clip)
        return loss.detach(), norm.detach(), state

    def _penalty(self, output_TBE: Tensor, dropped_TBE: Tensor, targets_TB: Tensor) -> Tensor | float:
        weights = self._config.ar, self._config.tar
        if not any(weights):
            return 0.0
        return activation_penalty(output_TBE, dropped_TBE, targets_TB != IGNORE_INDEX, *weights)


class DeviceUpdate(Update):
    """``Update`` without a host synchronization before ``results``, for Muon and fused Adam and AdamW.

    On CUDA, chunks of the usual shape run as one captured graph; others, such as the last chunk of an epoch and
    documents, run eagerly. The graph holds the addresses of the weights and of the optimizer's state.
    """

    queue_length = 16

    def __init__(self, state: TrainingState) -> None:
        super().__init__(state)
        self._skip = torch.zeros((), device=self._device)
        # What torch's GradScaler sets: where it is 1, a fused optimizer changes neither weights nor its state.
        self._optimizer.found_inf = self._skip  # type: ignore[attr-defined]  # torch declares it nowhere
        self._lr = torch.tensor(self._config.lr, device=self._device)
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr
        self._shape = (self._config.bptt, self._config.batch)
        self._eager_updates = 0
        self._graph: _Graph | None = None
        self._values_Q2 = torch.zeros(self.queue_length, 2, device=self._device)
        self._queued = 0

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
        inputs_TB, targets_TB, lengths_B = self._tensors(chunk)
        fits_graph = self._device.type == "cuda" and lengths_B is None and tuple(inputs_TB.shape) == self._shape
        if not fits_graph or self._eager_updates < _EAGER_UPDATES:
            self._eager_updates += fits_graph
            return self._update(inputs_TB, targets_TB, lengths_B, chunk.predictions, state)
        if self._graph is None:
            self._graph = _Graph(self, inputs_TB, targets_TB, state)
        return self._graph.replay(inputs_TB, targets_TB, state)

    def _update(
        self, inputs_TB: Tensor, targets_TB: Tensor, lengths_B: Tensor | None, predictions: int, state: State
    ) -> tuple[Tensor, State]:
        """Loss and norm as one tensor [2], and the state."""
        loss, norm, state = self._gradients(inputs_TB, targets_TB, lengths_B, predictions, state)
        values_2 = torch.stack([loss, norm])
        is_finite = torch.isfinite(values_2).all()
        self._skip.copy_(~is_finite)
        self._optimizer.step()
        return values_2, tuple(
            (torch.where(is_finite, h_BH, 0.0), torch.where(is_finite, c_BH, 0.0)) for h_BH, c_BH in detach(state)
        )


class _Graph:
    """An update captured at fixed addresses. ``state`` is read from and written to the same tensors."""

    def __init__(self, update: DeviceUpdate, inputs_TB: Tensor, targets_TB: Tensor, state: State) -> None:
        self._inputs_TB, self._targets_TB = inputs_TB.clone(), targets_TB.clone()
        self._state: State = tuple((h_BH.clone(), c_BH.clone()) for h_BH, c_BH in state)
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(update._generator)
        update._optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(self._graph):
            predictions = inputs_TB.numel()
            self._values_2, after = update._update(self._inputs_TB, self._targets_TB, None, predictions, self._state)
            _copy_state(self._state, after)

    def replay(self, inputs_TB: Tensor, targets_TB: Tensor, state: State) -> tuple[Tensor, State]:
        """The update for other inputs of the same shape. The next call overwrites the state that it returns."""
        self._inputs_TB.copy_(inputs_TB)
        self._targets_TB.copy_(targets_TB)
        _copy_state(self._state, state)
        self._graph.replay()
        return self._values_2, self._state


def _copy_state(to: State, source: State) -> None:
    for (h_BH, c_BH), (new_h_BH, new_c_BH) in zip(to, source, strict=True):
        if h_BH.data_ptr() != new_h_BH.data_ptr():
            h_BH.copy_(new_h_BH)
            c_BH.copy_(new_c_BH)
