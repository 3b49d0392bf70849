"""A ``LanguageModel`` that goes on learning from the text it reads; ``evaluation.dynamic`` says how."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from charlm.evaluation.dynamic import DECAY, RATE, Learner, gradient_rms, network_of
from charlm.evaluation.losses import Progress, silent
from charlm.evaluation.metrics import Evaluation, Tally
from charlm.language_model import LanguageModel
from charlm.tokenizer.protocol import Ids


def evaluate_dynamically(
    model: LanguageModel, blocks: Iterable[Ids], progress: Progress = silent, rate: float = RATE, decay: float = DECAY
) -> Evaluation:
    """As ``LanguageModel.evaluate_ids``, by a copy of ``model`` that learns as it reads; on the CPU.

    The standard error is that of blocks, of documents too: they are no longer independent of one another. Raises
    ``DataError`` where ``gradient_rms`` does.
    """
    end_id, tally, ends, end_nats = model.tokenizer.end_id, Tally(model.tokenizer), 0, 0.0
    learner = Learner(network_of(model.checkpoint), gradient_rms(model.checkpoint), rate, decay)
    for ids, nats in learner.losses(model.tokenizer, blocks):
        tally.add(ids, nats)
        if ids[-1] == end_id:
            ends, end_nats = ends + 1, end_nats + float(nats[-1])
        progress(len(ids))
    return dataclasses.replace(tally.result(), documents=ends, end_nats=end_nats)


def adapted(model: LanguageModel, blocks: Iterable[Ids], progress: Progress = silent) -> LanguageModel:
    """``model`` after it has read and learnt a text given as ``blocks`` of ids. Raises ``DataError`` likewise."""
    network = network_of(model.checkpoint)
    for ids, _ in Learner(network, gradient_rms(model.checkpoint)).losses(model.tokenizer, blocks):
        progress(len(ids))
    return model.with_weights(network.weights())
