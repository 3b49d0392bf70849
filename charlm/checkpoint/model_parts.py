"""The model in a checkpoint: its configuration, tokenizer and weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from charlm.checkpoint.step import CONFIG, MODEL, TOKENIZER, Checkpoint
from charlm.checkpoint.weights import weights_from_bytes
from charlm.config import ModelConfig, from_dict
from charlm.errors import DataError
from charlm.tokenizer.loading import load_tokenizer
from charlm.tokenizer.protocol import Tokenizer

Parts = tuple[ModelConfig, Tokenizer, dict[str, NDArray[np.float32]]]


def checkpoint_parts(checkpoint: Checkpoint) -> Parts:
    """The configuration, tokenizer and checked weights in a checkpoint. Raises ``DataError``."""
    where = str(checkpoint.path / CONFIG)
    config = from_dict(ModelConfig, checkpoint.config.get("model"), where)
    tokenizer = load_tokenizer(checkpoint.config.get("tokenizer"), checkpoint.files.get(TOKENIZER))
    if tokenizer.vocabulary_size != config.vocabulary_size:
        raise DataError(f"{where} and the tokenizer disagree on the size of the vocabulary; use another step")
    data, form = checkpoint.files[MODEL], checkpoint.config.get("weights")
    weights = weights_from_bytes(data, str(checkpoint.path / MODEL), config.parameter_shapes(), form)
    return config, tokenizer, weights
