"""The model in a checkpoint: its configuration, tokenizer and weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.checkpoint.step import CONFIG, MODEL, TOKENIZER, Checkpoint
from charlm.checkpoint.weights import weights_from_bytes
from charlm.config import ModelConfig, from_dict
from charlm.errors import DataError
from charlm.tokenizer.loading import load_tokenizer
from charlm.tokenizer.protocol import Tokenizer


@dataclass(frozen=True)
class ModelParts:
    """A model without the code that runs it. ``weights`` have the shapes ``config.parameter_shapes()``.

    ``temperature`` divides its logits, see ``calibrated``.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    weights: dict[str, NDArray[np.float32]]
    temperature: float = 1.0

    def calibrated(self) -> ModelParts:
        """The model that is evaluated and generates: the temperature is in its weights. Training goes on without it.

        The embedding is also the decoder: dividing it, and the bias, divides the logits. Multiplying the first layer's
        input weights leaves what that layer computes as it was.
        """
        if self.temperature == 1.0:
            return self
        factor = np.float32(self.temperature)
        changed = {name: self.weights[name] / factor for name in ("embedding.weight", "decoder.bias")}
        changed["lstm.0.weight_ih"] = self.weights["lstm.0.weight_ih"] * factor
        return dataclasses.replace(self, weights={**self.weights, **changed}, temperature=1.0)


def read_model_parts(checkpoint: Checkpoint) -> ModelParts:
    """The checked parts of the model in ``checkpoint``. Raises ``DataError`` where they do not fit together."""
    where = str(checkpoint.path / CONFIG)
    config = from_dict(ModelConfig, checkpoint.config.get("model"), where)
    tokenizer = load_tokenizer(checkpoint.config.get("tokenizer"), checkpoint.files.get(TOKENIZER))
    if tokenizer.vocabulary_size != config.vocabulary_size:
        raise DataError(f"{where} and the tokenizer disagree on the size of the vocabulary; use another step")
    data, weight_format = checkpoint.files[MODEL], checkpoint.config.get("weights")
    weights = weights_from_bytes(data, str(checkpoint.path / MODEL), config.parameter_shapes(), weight_format)
    return ModelParts(config, tokenizer, weights, _read_temperature(checkpoint.config, where))


def _read_temperature(config: Mapping[str, Any], where: str) -> float:
    """The temperature in the content of config.json; 1 where there is none. Raises ``DataError`` from ``where``."""
    temperature = config.get("temperature", 1.0)
    if type(temperature) not in (int, float) or not 0.1 <= temperature <= 10.0:
        raise DataError(f"{where}: temperature is {temperature!r:.40}, not a number from 0.1 to 10; use another step")
    return float(temperature)
