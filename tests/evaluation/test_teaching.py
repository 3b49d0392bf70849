"""The soft targets that are written are the probabilities that the teacher computes."""

import numpy as np
import pytest

from charlm.config import ModelConfig
from charlm.corpus.soft_targets import MAX_IDS, SoftTargets
from charlm.engine.torch import TorchEngine
from charlm.evaluation import teaching
from charlm.evaluation.teaching import write_soft_targets
from charlm.model.char_lm import CharLM


class LastIds:
    """An engine whose prediction depends on the last two ids alone, so that it is the same in parallel streams."""

    def __init__(self, vocabulary):
        self.vocabulary = vocabulary

    def initial_state(self, batch):
        return np.zeros(batch, np.int64)

    def gather(self, parts):
        return np.concatenate([state[rows] for state, rows in parts])

    def forward(self, ids_TB, state):
        before_TB = np.concatenate([state[None], ids_TB[:-1]])
        return self.logits(ids_TB, before_TB), ids_TB[-1].copy()

    def logits(self, ids, before):
        keys = np.arange(self.vocabulary)
        return np.sin(3.0 * keys * (1 + ids[..., None]) + before[..., None]).astype(np.float32) * 3


def read_all(folder, corpus):
    """Ids and probabilities [N, K] of all positions."""
    soft = SoftTargets(folder, corpus)
    size, width = corpus.sizes["train"].ids, soft.width
    ids = np.fromfile(folder / "ids", corpus.ids("train").dtype).reshape(size, width).astype(np.int64)
    return ids, np.fromfile(folder / "probabilities", "<f2").reshape(size, width).astype(np.float64)


def expected(logits_NV, ids_NK):
    """The probabilities of ``ids_NK``, which must be the most likely ones, as shares of their sum."""
    kept = np.take_along_axis(logits_NV, ids_NK, axis=1).astype(np.float64)
    np.testing.assert_allclose(np.sort(kept), np.sort(logits_NV, axis=1)[:, -ids_NK.shape[1] :], rtol=1e-5, atol=1e-5)
    weights = np.exp(kept)
    return weights / weights.sum(axis=1, keepdims=True)


def inputs_before(corpus):
    """The inputs at each position, and the ones before; 0 where there are none."""
    ids = corpus.ids("train").read(0, corpus.sizes["train"].ids).astype(np.int64)
    inputs = np.append(corpus.tokenizer.start_id, ids[:-1])
    before = np.append(0, inputs[:-1])
    if corpus.tokenizer.end_id is not None:
        starts = np.append(0, corpus.ends("train").read(0, corpus.sizes["train"].documents)[:-1]).astype(np.int64)
        inputs[starts], before[starts] = corpus.tokenizer.start_id, 0
    return inputs, before


@pytest.mark.parametrize("kind", ["streams", "documents", "conditions"])
@pytest.mark.parametrize("at_once", [1 << 22, 20_000])
def test_each_position_has_what_the_teacher_predicts_there(
    kind, at_once, corpus, document_corpus, table_corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr(teaching, "_MAX_LOGITS", at_once)
    of = {"streams": corpus, "documents": document_corpus, "conditions": table_corpus}[kind]
    engine, read = LastIds(of.tokenizer.vocabulary_size), []
    write_soft_targets(tmp_path / "soft", engine, of, ["bigram"], read.append)
    assert sum(read) == of.sizes["train"].ids
    ids_NK, probabilities_NK = read_all(tmp_path / "soft", of)
    assert ids_NK.shape[1] == min(MAX_IDS, of.tokenizer.vocabulary_size)
    np.testing.assert_allclose(
        probabilities_NK, expected(engine.logits(*inputs_before(of)), ids_NK), rtol=2e-3, atol=1e-6
    )


def test_a_stream_continues_from_the_text_before_it(corpus, tmp_path):
    """With a real model: nearly what it predicts in one stream from the beginning."""
    engine = TorchEngine(CharLM(ModelConfig(corpus.tokenizer.vocabulary_size, 1, 24, 24), seed=1))
    write_soft_targets(tmp_path / "soft", engine, corpus, ["one"])
    ids_NK, probabilities_NK = read_all(tmp_path / "soft", corpus)
    inputs, _ = inputs_before(corpus)
    logits, _ = engine.forward(inputs[:, None], engine.initial_state(1))
    np.testing.assert_allclose(probabilities_NK, expected(logits[:, 0], ids_NK), rtol=2e-3, atol=1e-6)
