"""The model in a checkpoint: its configuration, tokenizer and weights."""

from __future__ import annotations

from dataclasses import dataclass

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
    """A model without the code that runs it. ``weights`` have the shapes ``config.parameter_shapes()``."""

    config: ModelConfig
    tokenizer: Tokenizer
    weights: dict[str, NDArray[np.float32]]


def read_model_parts(checkpoint: Checkpoint) -> ModelParts:
    """The checked parts of the model in ``checkpoint``. Raises ``DataError`` where they do not fit together."""
    where = str(checkpoint.path / CONFIG)
    config = from_dict(ModelConfig, checkpoint.config.get("model"), where)
    tokenizer = load_tokenizer(checkpoint.config.get("tokenizer"), checkpoint.files.get(TOKENIZER))
    if tokenizer.vocabulary_size != config.vocabulary_size:
        raise DataError(f"{where} and the tokenizer disagree on the size of the vocabulary; use another step")
    data, weight_format = checkpoint.files[MODEL], checkpoint.config.get("weights")
    weights = weights_from_bytes(data, str(checkpoint.path / MODEL), config.parameter_shapes(), weight_format)
    return ModelParts(config, tokenizer, weights)
