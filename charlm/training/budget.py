"""How much text a training will read, guessed before it begins: what the recipe is chosen by.

The guess is rough, but it is the same for each training on a machine, so that the same wishes make the same recipe.
"""

from __future__ import annotations

from dataclasses import dataclass

from charlm.config import ModelConfig
from charlm.system.cores import cores

PASSES_WITHOUT_END = 30.0
"""Over the text, of a training that goes on until nothing improves."""
_CPU_PRODUCTS = {
    ("amx", "bf16"): 2e10,
    ("amx", "fp32"): 1e10,
    ("avx512_bf16", "bf16"): 6e10,
    ("avx512_bf16", "fp32"): 3e10,
    ("avx512", "fp32"): 3e10,
}
"""Weights that a thread multiplies by in a second, the work for their gradients included: by instruction set and
precision. AMX on a Xeon whose cores others used as well: between 1.7e10 and 3.2e10."""
_OTHER_CPU_PRODUCTS = 8e9
"""That of AVX2, native or torch's own, taken for all others."""
_CPU_SECONDS = 6e-6
"""What an id costs a thread besides."""
_GPU_PRODUCTS = 8e12
"""Of an H200, with two layers of 512 and 128 streams."""


@dataclass(frozen=True)
class Machine:
    """What a training runs on; ``device`` is cpu, cuda or mps, ``instruction_set`` the native engine's or ""."""

    device: str
    precision: str
    instruction_set: str
    threads: int | None

    def ids_per_second(self, model: ModelConfig) -> float:
        """How many ids it can learn from in a second."""
        widths = model.layer_widths()
        # What the first layer reads is looked up.
        layers = sum(4 * width * width for _, width in widths) + sum(4 * w * width_in for width_in, w in widths[1:])
        products = layers + model.vocabulary_size * model.embedding
        if self.device != "cpu":
            return _GPU_PRODUCTS / products
        threads = cores() if self.threads is None else max(1, min(self.threads, cores()))
        products_per_second = _CPU_PRODUCTS.get((self.instruction_set, self.precision), _OTHER_CPU_PRODUCTS)
        return threads / (products / products_per_second + _CPU_SECONDS)


@dataclass(frozen=True)
class Budget:
    """How long a training may be: at most one of ``steps``, ``epochs`` and ``seconds`` is given."""

    train_ids: int
    ids_per_step: int
    steps: int | None
    epochs: int | None
    seconds: float | None
    machine: Machine

    def ids(self, model: ModelConfig) -> float:
        """How many ids ``model`` will read."""
        if self.steps is not None:
            return self.steps * self.ids_per_step
        if self.epochs is not None:
            return self.epochs * self.train_ids
        if self.seconds is not None:
            return self.seconds * self.machine.ids_per_second(model)
        return PASSES_WITHOUT_END * self.train_ids

    def passes(self, model: ModelConfig) -> float:
        """How often ``model`` will read the text."""
        return self.ids(model) / max(1, self.train_ids)

    def steps_of(self, model: ModelConfig) -> float:
        """How many steps ``model`` will make."""
        return self.ids(model) / max(1, self.ids_per_step)
