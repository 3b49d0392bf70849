"""Documents padded, bucketed, or read one at a time give the same loss and the same gradients.

The reference reads each document alone, in chunks, and carries the detached state from chunk to chunk, as truncated
backpropagation does.
"""

import numpy as np
import pytest
import torch
from conftest import environment
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.config import ModelConfig
from charlm.corpus.batches import IGNORE_INDEX, Chunk, Cursor, DocumentBatches
from charlm.model.char_lm import CharLM, cross_entropy, detach

VOCABULARY, BOUNDARY, SPAN = 11, 10, 16
SMALL = st.lists(st.integers(0, 9), min_size=1, max_size=30)
LENGTHS = st.one_of(SMALL, SMALL.map(lambda lengths: [*lengths, 150]), st.just([0]), st.just([0, 0, 1]))


class ArrayFile:
    """Reads an array by position, like ``IdFile``."""

    def __init__(self, numbers):
        self.numbers = numbers

    def __len__(self):
        return len(self.numbers)

    def cache(self):
        pass

    def read(self, start, stop):
        return self.numbers[start:stop]


def make_documents(lengths, seed):
    draw = np.random.default_rng(seed)
    return [np.append(draw.integers(0, VOCABULARY - 1, length), BOUNDARY) for length in lengths]


def one_at_a_time(documents):
    for ids in documents:
        for first in range(0, len(ids), SPAN):
            targets = ids[first : first + SPAN]
            before = BOUNDARY if first == 0 else ids[first - 1]
            yield Chunk(np.append(before, targets[:-1])[:, None], targets[:, None], first == 0)


def naively_padded(documents):
    """All documents in one batch in their order, padded to the longest."""
    longest = max(map(len, documents))
    targets_TB = np.full((longest, len(documents)), IGNORE_INDEX)
    inputs_TB = np.full((longest, len(documents)), BOUNDARY)
    for row, ids in enumerate(documents):
        targets_TB[: len(ids), row] = ids
        inputs_TB[1 : len(ids), row] = ids[:-1]
    for first in range(0, longest, SPAN):
        yield Chunk(inputs_TB[first : first + SPAN], targets_TB[first : first + SPAN], first == 0)


def bucketed(documents):
    ends = np.cumsum([len(ids) for ids in documents])
    batches = DocumentBatches(ArrayFile(np.concatenate(documents)), ArrayFile(ends), BOUNDARY, 4, SPAN, 1)
    cursor = Cursor()
    while batches.epochs(cursor) < 1:
        yield batches.chunk(cursor)
        cursor = batches.next_cursor(cursor)


def loss_and_gradients(network, chunks):
    """The summed nats of all predictions, the gradient of that sum as one vector, and the number of predictions."""
    total, state, count = 0.0, None, 0
    network.zero_grad()
    for chunk in chunks:
        rows = chunk.inputs_TB.shape[1]
        state = network.initial_state(rows) if chunk.fresh else tuple((h[:rows], c[:rows]) for h, c in state)
        targets = torch.from_numpy(chunk.targets_TB)
        logits, state = network(torch.from_numpy(chunk.inputs_TB), state)
        loss = cross_entropy(logits, targets).sum()
        loss.backward()
        total, state, count = total + loss.item(), detach(state), count + int((targets != IGNORE_INDEX).sum())
    return total, torch.cat([p.grad.flatten() for p in network.parameters()]), count


@pytest.mark.parametrize("engine", ["native", "torch"])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(lengths=LENGTHS, seed=st.integers(0, 5))
def test_padded_bucketed_and_single_documents_agree(engine, lengths, seed):
    documents = make_documents(lengths, seed)
    network = CharLM(ModelConfig(VOCABULARY, 2, 12, 8), seed)
    with environment(CHARLM_ENGINE=None if engine == "native" else engine):
        loss, gradient, count = loss_and_gradients(network, one_at_a_time(documents))
        assert count == sum(lengths) + len(lengths)
        found = {
            "padded": loss_and_gradients(network, naively_padded(documents)),
            "bucketed": loss_and_gradients(network, bucketed(documents)),
        }
    for name, (other, other_gradient, other_count) in found.items():
        assert other_count == count, name
        assert abs(other - loss) / count < 1e-5, name
        assert torch.linalg.vector_norm(other_gradient - gradient) < 1e-4 * torch.linalg.vector_norm(gradient), name
