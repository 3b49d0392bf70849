"""The budget of a training: how many ids it will read, estimated before it starts. The recipe depends on it.

The estimate is rough, but always the same on one machine, so that the same options give the same recipe.
"""

from __future__ import annotations

from dataclasses import dataclass

from charlm.config import ModelConfig
from charlm.system.cores import cores

EPOCHS_WITHOUT_LIMIT = 30.0
"""Assumed for a training that runs until the validation loss stops improving."""
_CPU_MACS_PER_SECOND = {
    ("amx", "bf16"): 2e10,
    ("amx", "fp32"): 1e10,
    ("avx512_bf16", "bf16"): 6e10,
    ("avx512_bf16", "fp32"): 3e10,
    ("avx512", "fp32"): 3e10,
}
"""Multiply-accumulates of the forward pass per second and thread, the backward pass included in the time; by
instruction set and precision. AMX was measured on a Xeon whose cores were shared with others: 1.7e10 to 3.2e10."""
_OTHER_CPU_MACS_PER_SECOND = 8e9
"""Of AVX2, in the native engine or in torch; assumed for all other CPUs."""
_CPU_SECONDS_PER_ID = 6e-6
"""Further time of a thread for each id."""
_GPU_MACS_PER_SECOND = 8e12
"""Of an H200, with two layers of 512 and 128 streams."""


@dataclass(frozen=True)
class Machine:
    """The hardware. ``device`` is cpu, cuda or mps; ``instruction_set`` is the native engine's, "" without it."""

    device: str
    precision: str
    instruction_set: str
    threads: int | None

    def ids_per_second(self, model: ModelConfig) -> float:
        """How many ids per second ``model`` can train on."""
        widths = model.layer_widths()
        # The input of the first layer is a table lookup.
        layers = sum(4 * width * width for _, width in widths) + sum(4 * w * width_in for width_in, w in widths[1:])
        macs = layers + model.vocabulary_size * model.embedding
        if self.device != "cpu":
            return _GPU_MACS_PER_SECOND / macs
        threads = cores() if self.threads is None else max(1, min(self.threads, cores()))
        macs_per_second = _CPU_MACS_PER_SECOND.get((self.instruction_set, self.precision), _OTHER_CPU_MACS_PER_SECOND)
        return threads / (macs / macs_per_second + _CPU_SECONDS_PER_ID)


@dataclass(frozen=True)
class Budget:
    """The limit of a training: at most one of ``steps``, ``epochs`` and ``seconds`` is set."""

    train_ids: int
    ids_per_step: int
    steps: int | None
    epochs: int | None
    seconds: float | None
    machine: Machine

    def estimated_ids(self, model: ModelConfig) -> float:
        """How many ids ``model`` will be trained on, repetitions counted."""
        if self.steps is not None:
            return self.steps * self.ids_per_step
        if self.epochs is not None:
            return self.epochs * self.train_ids
        if self.seconds is not None:
            return self.seconds * self.machine.ids_per_second(model)
        return EPOCHS_WITHOUT_LIMIT * self.train_ids

    def estimated_epochs(self, model: ModelConfig) -> float:
        """How many epochs ``model`` will be trained for."""
        return self.estimated_ids(model) / max(1, self.train_ids)

    def estimated_steps(self, model: ModelConfig) -> float:
        """How many optimizer steps ``model`` will be trained for."""
        return self.estimated_ids(model) / max(1, self.ids_per_step)
