"""How much text a training will read, guessed before it begins: what the recipe is chosen by.

The guess is rough, but it is the same for each training on a machine, so that the same wishes make the same recipe.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from charlm.config import ModelConfig

PASSES_WITHOUT_END = 30.0
"""Over the text, of a training that goes on until nothing improves."""
_CPU_PRODUCTS = {"bf16": 6e10, "fp32": 3e10}
"""Weights that a thread of the native engine multiplies by in a second, the work for their gradients included."""
_CPU_SECONDS = 6e-6
"""What an id costs a thread besides."""
_GPU_PRODUCTS = 4e12
"""A guess."""


@dataclass(frozen=True)
class Budget:
    """At most one of ``steps``, ``epochs`` and ``seconds`` is given; ``device`` is the kind: cpu, cuda or mps."""

    train_ids: int
    ids_per_step: int
    steps: int | None
    epochs: int | None
    seconds: float | None
    device: str
    precision: str
    threads: int | None

    def ids(self, model: ModelConfig) -> float:
        """How many ids ``model`` will read."""
        if self.steps is not None:
            return self.steps * self.ids_per_step
        if self.epochs is not None:
            return self.epochs * self.train_ids
        if self.seconds is not None:
            return self.seconds * self._ids_per_second(model)
        return PASSES_WITHOUT_END * self.train_ids

    def passes(self, model: ModelConfig) -> float:
        """How often ``model`` will read the text."""
        return self.ids(model) / max(1, self.train_ids)

    def steps_of(self, model: ModelConfig) -> float:
        """How many steps ``model`` will make."""
        return self.ids(model) / max(1, self.ids_per_step)

    def _ids_per_second(self, model: ModelConfig) -> float:
        widths = model.layer_widths()
        # What the first layer reads is looked up.
        layers = sum(4 * width * width for _, width in widths) + sum(4 * w * width_in for width_in, w in widths[1:])
        products = layers + model.vocabulary_size * model.embedding
        if self.device != "cpu":
            return _GPU_PRODUCTS / products
        cores = os.cpu_count() or 1
        threads = cores if self.threads is None else max(1, min(self.threads, cores))
        return threads / (products / _CPU_PRODUCTS[self.precision] + _CPU_SECONDS)
