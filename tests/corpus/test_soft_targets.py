"""Soft targets are read where they were written: those that name the text itself are those of the text."""

import numpy as np
import pytest
from trainers import digest, resumed, train

from charlm.corpus.batches import IGNORE_INDEX, Cursor, make_batches
from charlm.corpus.prepared import open_corpus
from charlm.corpus.soft_targets import SoftTargets, SoftTargetWriter
from charlm.errors import DataError, MissingInputError
from charlm.training.events import Stepped


def write_certain(folder, corpus):
    """The soft targets of a teacher that knows the text: the right id, and others with probability 0."""
    ids = corpus.ids("train").read(0, corpus.sizes["train"].ids).astype(np.int64)
    with SoftTargetWriter(folder, corpus, ["all-knowing"]) as writer:
        others = (ids[:, None] + np.arange(writer.width)) % corpus.tokenizer.vocabulary_size
        probabilities = np.zeros(others.shape)
        probabilities[:, 0] = 1.0
        half = len(ids) // 2
        writer.write(half, others[half:], probabilities[half:])  # in any order
        writer.write(0, others[:half], probabilities[:half])
    return SoftTargets(folder, corpus)


@pytest.fixture(params=["streams", "documents", "conditions"])
def any_corpus(request, corpus, document_corpus, table_corpus):
    return {"streams": corpus, "documents": document_corpus, "conditions": table_corpus}[request.param]


def test_every_target_has_its_own_soft_targets(any_corpus, tmp_path):
    soft_targets = write_certain(tmp_path / "soft", any_corpus)
    jitter = 0.3 if any_corpus.tokenizer.end_id is None else 0.0
    batches, cursor = make_batches(any_corpus, batch=5, bptt=11, seed=3, jitter=jitter), Cursor()
    while batches.epochs(cursor) < 2:
        chunk = batches.chunk(cursor)
        soft = soft_targets.of(chunk)
        predicted_TB = chunk.targets_TB != IGNORE_INDEX
        np.testing.assert_array_equal(soft.ids_TBK[predicted_TB][:, 0], chunk.targets_TB[predicted_TB])
        np.testing.assert_array_equal(soft.probabilities_TBK.sum(axis=2), predicted_TB)
        cursor = batches.next_cursor(cursor)


def test_the_probabilities_of_a_position_add_up_to_1(corpus, tmp_path):
    count = corpus.sizes["train"].ids
    with SoftTargetWriter(tmp_path / "soft", corpus, ["even"]) as writer:
        ids = np.tile(np.arange(writer.width), (count, 1))
        writer.write(0, ids, np.full(ids.shape, 1 / writer.width))  # not a number of float16
    soft = SoftTargets(tmp_path / "soft", corpus).of(make_batches(corpus, 4, 16, 1).chunk(Cursor()))
    np.testing.assert_allclose(soft.probabilities_TBK.sum(axis=2), 1.0, rtol=1e-6)


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_a_teacher_that_knows_the_text_teaches_what_the_text_does(make_trainer, any_corpus, weight):
    options = {"steps": 12, "average": "none", "precision": "fp32", "bptt": 8}
    if any_corpus.tokenizer.end_id is not None:
        options |= {"bptt_jitter": 0.0, "state_reset": 0.0}
    plain = make_trainer("plain", of=any_corpus, **options)
    events = train(plain)
    run = plain.run.with_name("taught")
    run.mkdir()
    write_certain(run / "soft-targets", any_corpus)
    taught = make_trainer("taught", of=any_corpus, soft_weight=weight, **options)
    assert taught.soft_targets.teachers == ["all-knowing"]
    losses = [[event.nats_per_char for event in some if isinstance(event, Stepped)] for some in (events, train(taught))]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    for name, weights in plain.model.weights().items():
        np.testing.assert_allclose(taught.model.weights()[name], weights, rtol=1e-3, atol=1e-5)


def test_a_taught_training_interrupted_at_any_step_ends_with_the_same_weights(make_trainer, corpus, tmp_path):
    def trainer(name):
        if not (tmp_path / name).exists():
            (tmp_path / name).mkdir()
            write_certain(tmp_path / name / "soft-targets", corpus)
        return make_trainer(name, steps=8, soft_weight=0.7)

    whole = trainer("whole")
    train(whole)
    for cut in range(1, 8):
        first = trainer(f"cut{cut}")
        assert train(first, cut)[-1].reason == "interrupted"
        second = resumed(first)
        train(second)
        assert digest(second) == digest(whole), f"interrupted after step {cut}"


def test_damage_is_told(corpus, document_corpus, tmp_path):
    soft_targets = write_certain(tmp_path / "soft", corpus)
    soft_targets.check()
    with pytest.raises(DataError, match="those of another text"):
        SoftTargets(tmp_path / "soft", document_corpus)
    with pytest.raises(MissingInputError, match="train again"):
        SoftTargets(tmp_path / "none", corpus)
    probabilities = tmp_path / "soft" / "probabilities"
    data = bytearray(probabilities.read_bytes())
    data[1000] ^= 1
    probabilities.write_bytes(data)
    with pytest.raises(DataError, match="probabilities is damaged"):
        SoftTargets(tmp_path / "soft", corpus).check()
    probabilities.write_bytes(data[:-1])
    with pytest.raises(DataError, match="size"):
        SoftTargets(tmp_path / "soft", corpus)


def test_an_interrupted_teacher_leaves_no_description(corpus, tmp_path):
    with pytest.raises(KeyboardInterrupt), SoftTargetWriter(tmp_path / "soft", corpus, ["one"]):
        raise KeyboardInterrupt
    with pytest.raises(MissingInputError):
        SoftTargets(tmp_path / "soft", open_corpus(corpus.folder))
