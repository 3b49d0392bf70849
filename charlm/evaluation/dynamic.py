"""Dynamic evaluation: a model that continues to learn from the text it reads (Krause et al. 2018, 2019).

A text repeats names, subjects and a style. For each segment of the text, the model first computes the losses, then
takes the step

    theta <- theta - lr * clip(g / (rms + eps)) + decay * (theta_0 - theta) * rms / mean(rms)

where g is the gradient of the segment's mean loss, theta_0 the trained weights, and rms the root mean square of such
gradients on the training text, for each weight: weights with large gradients in training move more here, and decay
faster. The clipping is not in the papers: without it the weights soon diverge on a text unlike the training text. No
segment is scored after the model was trained on it.

The text is read in one stream. A document begins with the initial state. Shapes: N ids in a segment, N <= ``SEGMENT``;
V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.checkpoint.step import CONFIG, GRADIENTS, open_checkpoint
from charlm.checkpoint.weights import weights_from_bytes
from charlm.config import ModelConfig
from charlm.corpus.prepared import Corpus, find_corpus, longest_prefix
from charlm.engine import FloatArray
from charlm.errors import DataError
from charlm.evaluation.losses import ProgressCallback, no_progress
from charlm.evaluation.metrics import Evaluation, Tally
from charlm.model.char_lm import CharLM, State, cross_entropy, detach
from charlm.system.devices import avoid_lost_threads, keep_freed_memory
from charlm.tokenizer.conditions import PrefixTracker, prefix_mask
from charlm.tokenizer.protocol import Ids, Tokenizer

SEGMENT = 32
LR, DECAY = 6e-4, 3e-3
"""Tuned on War and Peace, not on the Shakespeare that is reported (benchmarks/LOG.md)."""
_EPSILON = 0.1
"""Relative to the mean rms; keeps weights with tiny gradients in training from diverging."""
_MAX_SCALED_GRADIENT = 10.0
"""Where g / rms is clipped: a text unlike the training text has gradients far beyond their rms."""
_RMS_SEGMENTS, _RMS_WARMUP = 200, 64
"""Segments of the training text from which the rms is computed, and ids read before each."""

_MAX_SUM = float(np.finfo(np.float32).max)

Rms = Mapping[str, FloatArray]


class Learner:
    """Computes the losses of each segment, then learns from it. Modifies the weights of ``model``."""

    def __init__(self, model: CharLM, gradient_rms: Rms, lr: float = LR, decay: float = DECAY) -> None:
        self._model = model
        self._weights: list[torch.Tensor] = list(model.parameters())
        self._trained = [weight.detach().clone() for weight in self._weights]
        rms = [torch.from_numpy(gradient_rms[name]) for name, _ in model.named_parameters()]
        mean = sum(float(r.sum()) for r in rms) / sum(r.numel() for r in rms)
        self._lr = lr
        self._scales = [1.0 / (r + _EPSILON * mean) for r in rms]
        # Above 1 the decay would move a weight beyond its trained value.
        self._decays = [(decay / mean * r).clamp_(max=1.0) for r in rms]

    def read(
        self, previous: int, ids_N: Ids, state: State, read_only_N: NDArray[np.bool_] | None = None
    ) -> tuple[FloatArray, State]:
        """The losses [N] in nats of ``ids_N`` after the id ``previous``, and the state after them. Takes one step.

        It learns nothing from the ids where ``read_only_N`` is true, those of conditions.
        """
        nats_N, state = _segment_losses(self._model, previous, ids_N, state)
        learnt_N = nats_N if read_only_N is None else nats_N[torch.from_numpy(~read_only_N)]
        if not len(learnt_N):
            return nats_N.detach().numpy(), detach(state)
        gradients = torch.autograd.grad(learnt_N.mean(), self._weights)
        if math.isfinite(sum(norm.item() for norm in torch._foreach_norm(gradients))):
            self._step(gradients)
        nats: FloatArray = nats_N.detach().numpy()
        return nats, detach(state)

    @torch.no_grad()
    def _step(self, gradients: Sequence[torch.Tensor]) -> None:
        limit = _MAX_SCALED_GRADIENT
        for weight, gradient, scale, decay, trained in zip(
            self._weights, gradients, self._scales, self._decays, self._trained, strict=True
        ):
            to_trained = trained - weight
            weight.add_(gradient.mul_(scale).clamp_(-limit, limit), alpha=-self._lr).addcmul_(to_trained, decay)

    def losses(self, tokenizer: Tokenizer, blocks: Iterable[Ids]) -> Iterator[tuple[Ids, FloatArray]]:
        """Ids and their losses in nats, segment by segment, without the ids of conditions."""
        previous, initial_state = tokenizer.start_id, self._model.initial_state(1)
        state, tracker = initial_state, None if tokenizer.separator_id is None else PrefixTracker(tokenizer)
        for ids in segments(blocks, tokenizer.end_id):
            read_only = None if tracker is None else tracker.mask(ids)
            nats, state = self.read(previous, ids, state, read_only)
            yield (ids, nats) if read_only is None else (ids[~read_only], nats[~read_only])
            previous = int(ids[-1])
            if previous == tokenizer.end_id:
                state = initial_state


def evaluate_dynamically(
    learner: Learner, tokenizer: Tokenizer, blocks: Iterable[Ids], progress: ProgressCallback = no_progress
) -> Evaluation:
    """The evaluation of a text given as ``blocks`` of ids of any size.

    The standard error is that of blocks of characters, for documents as well: they are not independent here.
    """
    tally, documents, end_nats = Tally(tokenizer), 0, 0.0
    for ids, nats in learner.losses(tokenizer, blocks):
        tally.add(ids, nats)
        if len(ids) and ids[-1] == tokenizer.end_id:
            documents, end_nats = documents + 1, end_nats + float(nats[-1])
        progress(len(ids))
    return replace(tally.result(), documents=documents, end_nats=end_nats)


def _segment_losses(model: CharLM, previous: int, ids_N: Ids, state: State) -> tuple[torch.Tensor, State]:
    device = model.embedding.weight.device
    inputs_N1 = torch.from_numpy(np.append(previous, ids_N[:-1])).to(device)[:, None]
    logits_N1V, state = model(inputs_N1, state)
    return cross_entropy(logits_N1V, torch.from_numpy(ids_N).to(device)[:, None])[:, 0], state


def segments(blocks: Iterable[Ids], end_id: int | None) -> Iterator[Ids]:
    """Segments of ``SEGMENT`` ids, shorter at the end of a document, for blocks of any size."""
    pending: Ids = np.zeros(0, np.int64)
    for block in blocks:
        pending = np.concatenate([pending, block.astype(np.int64)])
        while size := _segment_size(pending, end_id):
            yield pending[:size]
            pending = pending[size:]
    if len(pending):
        yield pending


def _segment_size(pending: Ids, end_id: int | None) -> int:
    """The size of the first segment; 0 if it is incomplete."""
    ends = np.flatnonzero(pending[:SEGMENT] == end_id) if end_id is not None else pending[:0]
    return int(ends[0]) + 1 if len(ends) else SEGMENT if len(pending) >= SEGMENT else 0


def make_network(config: ModelConfig, weights: Mapping[str, FloatArray]) -> CharLM:
    """A network with a copy of ``weights``, prepared for learning on the CPU."""
    keep_freed_memory()
    avoid_lost_threads(None)
    network = CharLM(config)
    network.load_weights(weights)
    return network


# ---------------------------------------------------------------------------------------------------- gradient rms


def gradient_rms_ids(step: int) -> int:
    """How many ids ``compute_gradient_rms`` reads for a model after ``step`` training steps."""
    return gradient_rms_segments(step) * (_RMS_WARMUP + SEGMENT)


def gradient_rms_segments(step: int) -> int:
    """How many segments: few after a short training, so that they do not prolong it much."""
    return max(10, min(_RMS_SEGMENTS, step // 8))


def gradient_rms(path: Path, config: ModelConfig, weights: Mapping[str, FloatArray]) -> Rms:
    """The rms of gradients on the training text, by parameter, for the model of the checkpoint at ``path``.

    Read from the checkpoint if it has them, otherwise computed from the run's corpus. Raises ``DataError`` if there is
    neither.
    """
    stored = open_checkpoint(path, names=[CONFIG, GRADIENTS]).files.get(GRADIENTS)
    if stored is not None:
        rms = weights_from_bytes(stored, str(path / GRADIENTS), config.parameter_shapes())
        total = sum(float(array.sum(dtype=np.float64)) for array in rms.values())
        if any((array < 0).any() for array in rms.values()) or not 0 < total < _MAX_SUM:
            raise DataError(f"{path / GRADIENTS} has negative, huge or only zero sizes of gradients; use another step")
        return rms
    corpus = find_corpus(path)
    if corpus is None:
        raise DataError(f"{path} has neither the gradients of its training nor its corpus; use the run it came from")
    return compute_gradient_rms(make_network(config, weights), corpus)


def compute_gradient_rms(
    model: CharLM, corpus: Corpus, count: int = _RMS_SEGMENTS, stop: Callable[[], bool] = lambda: False
) -> dict[str, FloatArray]:
    """Root mean squares over ``count`` segments, evenly spaced in the training text, by parameter.

    Returns early, with a meaningless result, once ``stop()`` is true.
    """
    weights = dict(model.named_parameters())
    squares = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    samples = list(_evenly_spaced_segments(corpus, count))
    for before, ids in samples:
        if stop():
            break
        state, previous = model.initial_state(1), corpus.tokenizer.start_id
        if len(before):
            with torch.no_grad():
                _, state = _segment_losses(model, previous, before, state)
            previous = int(before[-1])
        nats_N, _ = _segment_losses(model, previous, ids, state)
        gradients = torch.autograd.grad(nats_N.mean(), list(weights.values()))
        for square, gradient in zip(squares.values(), gradients, strict=True):
            square.addcmul_(gradient, gradient)
    return {name: (square / len(samples)).sqrt().cpu().numpy() for name, square in squares.items()}


def _evenly_spaced_segments(corpus: Corpus, count: int) -> Iterator[tuple[Ids, Ids]]:
    """The ids read before a segment of the training text, and the segment.

    Documents give their first segments, after their conditions.
    """
    ids = corpus.ids("train")
    if corpus.tokenizer.end_id is not None:
        ends, longest = corpus.ends("train"), longest_prefix(corpus)
        for document in np.unique(np.linspace(0, len(ends) - 1, count).astype(np.int64)):
            bounds = ends.read(max(0, document - 1), document + 1)
            start, end = (int(bounds[0]) if document else 0), int(bounds[-1])
            read = ids.read(start, min(end, start + longest + SEGMENT)).astype(np.int64)
            given = int(prefix_mask(corpus.tokenizer, read).sum())
            yield read[:given], read[given : given + SEGMENT]
        return
    length = min(_RMS_WARMUP + SEGMENT, len(ids))
    for start in np.unique(np.linspace(0, len(ids) - length, count).astype(np.int64)):
        window = ids.read(int(start), int(start) + length).astype(np.int64)
        yield window[:-SEGMENT], window[-SEGMENT:]
