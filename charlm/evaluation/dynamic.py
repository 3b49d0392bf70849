"""Dynamic evaluation: a model that goes on learning from the text it reads (Krause et al. 2018, 2019).

A text repeats itself: names, subjects, a style. Segment by segment the model first scores what comes, then moves by

    theta <- theta - rate * clip(g / (rms + eps)) + decay * (theta_0 - theta) * rms / mean(rms)

where g is the gradient of the segment's mean loss, theta_0 the trained weights, and rms the root mean square that such
gradients had on the training text, number by number: weights that the training moved much may move much here, and are
drawn back sooner. The clipping is ours: without it a text unlike the training's soon drives the weights away. Nothing
is scored after it was learnt from.

A text is one stream, of documents each from a fresh state. N ids in a segment, of which there are at most ``SEGMENT``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch

from charlm.checkpoint.model_parts import read_model_parts
from charlm.checkpoint.step import CONFIG, GRADIENTS, Checkpoint, open_checkpoint
from charlm.checkpoint.weights import weights_from_bytes
from charlm.corpus.prepared import Corpus, corpus_beside
from charlm.engine import FloatArray
from charlm.errors import DataError
from charlm.model.char_lm import CharLM, State, cross_entropy, detach
from charlm.system.devices import keep_freed_memory
from charlm.tokenizer.protocol import Ids, Tokenizer

SEGMENT = 32
RATE, DECAY = 6e-4, 3e-3
"""Found on War and Peace, not on the Shakespeare that is reported (README, "Why these defaults")."""
_EPSILON = 0.1
"""Of the mean rms: what the training hardly ever moved shall not run away here."""
_MOST = 10.0
"""How many times its rms a gradient may count: a text unlike the training's has some that are far beyond."""
_GATHERED, _WARM_UP = 200, 64
"""Segments of the training text from which the rms is taken, and ids read before each."""

Rms = Mapping[str, FloatArray]


class Learner:
    """Learns from every segment once it has scored it. The weights of ``model`` are changed."""

    def __init__(self, model: CharLM, gradient_rms: Rms, rate: float = RATE, decay: float = DECAY) -> None:
        self._model = model
        self._weights: list[torch.Tensor] = list(model.parameters())
        self._trained = [weight.detach().clone() for weight in self._weights]
        rms = [torch.from_numpy(gradient_rms[name]) for name, _ in model.named_parameters()]
        mean = sum(float(r.sum()) for r in rms) / sum(r.numel() for r in rms)
        self._rate = rate
        self._scales = [1.0 / (r + _EPSILON * mean) for r in rms]
        # No weight may be drawn beyond where it was.
        self._pulls = [(decay / mean * r).clamp_(max=1.0) for r in rms]

    def read(self, previous: int, ids_N: Ids, state: State) -> tuple[FloatArray, State]:
        """The losses [N] in nats of ``ids_N`` after ``previous``, and the state after them; then a step of learning."""
        nats_N, state = _losses(self._model, previous, ids_N, state)
        gradients = torch.autograd.grad(nats_N.mean(), self._weights)
        if math.isfinite(sum(norm.item() for norm in torch._foreach_norm(gradients))):
            self._move(gradients)
        nats: FloatArray = nats_N.detach().numpy()
        return nats, detach(state)

    @torch.no_grad()
    def _move(self, gradients: Sequence[torch.Tensor]) -> None:
        for weight, gradient, scale, pull, trained in zip(
            self._weights, gradients, self._scales, self._pulls, self._trained, strict=True
        ):
            away = trained - weight
            weight.add_(gradient.mul_(scale).clamp_(-_MOST, _MOST), alpha=-self._rate).addcmul_(away, pull)

    def losses(self, tokenizer: Tokenizer, blocks: Iterable[Ids]) -> Iterator[tuple[Ids, FloatArray]]:
        """Ids and their losses in nats, segment by segment."""
        previous, fresh = tokenizer.start_id, self._model.initial_state(1)
        state = fresh
        for ids in segments(blocks, tokenizer.end_id):
            nats, state = self.read(previous, ids, state)
            yield ids, nats
            previous = int(ids[-1])
            if previous == tokenizer.end_id:
                state = fresh


def _losses(model: CharLM, previous: int, ids_N: Ids, state: State) -> tuple[torch.Tensor, State]:
    inputs_N1 = torch.from_numpy(np.append(previous, ids_N[:-1]))[:, None]
    logits_N1V, state = model(inputs_N1, state)
    return cross_entropy(logits_N1V, torch.from_numpy(ids_N)[:, None])[:, 0], state


def segments(blocks: Iterable[Ids], end_id: int | None) -> Iterator[Ids]:
    """Of ``SEGMENT`` ids, fewer where a document ends, whatever the size of the blocks."""
    held: Ids = np.zeros(0, np.int64)
    for block in blocks:
        held = np.concatenate([held, block.astype(np.int64)])
        while stop := _segment_end(held, end_id):
            yield held[:stop]
            held = held[stop:]
    if len(held):
        yield held


def _segment_end(held: Ids, end_id: int | None) -> int:
    """Where the first segment ends; 0 if more ids are needed to tell."""
    ends = np.flatnonzero(held[:SEGMENT] == end_id) if end_id is not None else held[:0]
    return int(ends[0]) + 1 if len(ends) else SEGMENT if len(held) >= SEGMENT else 0


def network_of(checkpoint: Checkpoint) -> CharLM:
    keep_freed_memory()
    parts = read_model_parts(checkpoint)
    network = CharLM(parts.config)
    network.load_weights(parts.weights)
    return network


def ids_of_gradients(step: int) -> int:
    """How many ids ``keep_gradients`` reads for a model of ``step`` steps."""
    return segments_of_gradients(step) * (_WARM_UP + SEGMENT)


def segments_of_gradients(step: int) -> int:
    # A short training is not made much longer by them.
    return max(10, min(_GATHERED, step // 8))


def gradient_rms(checkpoint: Checkpoint) -> Rms:
    """The rms of gradients on the training text, by parameter: kept in the checkpoint, or taken from the run's corpus.

    Raises ``DataError`` where there is neither.
    """
    kept = open_checkpoint(checkpoint.path, names=[CONFIG, GRADIENTS]).files.get(GRADIENTS)
    if kept is not None:
        shapes = read_model_parts(checkpoint).config.parameter_shapes()
        return weights_from_bytes(kept, str(checkpoint.path / GRADIENTS), shapes)
    corpus = corpus_beside(checkpoint.path)
    if corpus is None:
        raise DataError(
            f"{checkpoint.path} has neither the gradients of its training nor its corpus; use the run it came from"
        )
    return gather_gradient_rms(network_of(checkpoint), corpus)


def gather_gradient_rms(
    model: CharLM, corpus: Corpus, count: int = _GATHERED, stop: Callable[[], bool] = lambda: False
) -> dict[str, FloatArray]:
    """Root mean squares over ``count`` segments that are spread evenly over the training text, by parameter.

    Useless where ``stop()`` ended it.
    """
    weights = dict(model.named_parameters())
    squares = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    spread = list(_spread(corpus, count))
    for before, ids in spread:
        if stop():
            break
        state, previous = model.initial_state(1), corpus.tokenizer.start_id
        if len(before):
            with torch.no_grad():
                _, state = _losses(model, previous, before, state)
            previous = int(before[-1])
        gradients = torch.autograd.grad(_losses(model, previous, ids, state)[0].mean(), list(weights.values()))
        for square, gradient in zip(squares.values(), gradients, strict=True):
            square.addcmul_(gradient, gradient)
    return {name: (square / len(spread)).sqrt().numpy() for name, square in squares.items()}


def _spread(corpus: Corpus, count: int) -> Iterator[tuple[Ids, Ids]]:
    """Segments of the training text, each with what is read before it: nothing at the beginning of a document."""
    ids = corpus.ids("train")
    if corpus.tokenizer.end_id is not None:
        ends = corpus.ends("train")
        for document in np.unique(np.linspace(0, len(ends) - 1, count).astype(np.int64)):
            bounds = ends.read(max(0, document - 1), document + 1)
            start, end = (int(bounds[0]) if document else 0), int(bounds[-1])
            yield np.zeros(0, np.int64), ids.read(start, min(end, start + SEGMENT)).astype(np.int64)
        return
    length = min(_WARM_UP + SEGMENT, len(ids))
    for start in np.unique(np.linspace(0, len(ids) - length, count).astype(np.int64)):
        window = ids.read(int(start), int(start) + length).astype(np.int64)
        yield window[:-SEGMENT], window[-SEGMENT:]
