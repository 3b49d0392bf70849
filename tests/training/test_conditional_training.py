"""Training on texts given a condition: the loss is that of the texts, and a resumed training is the same."""

import numpy as np
import pytest
from trainers import digest, resumed, train

from charlm.corpus.preparation import prepare
from charlm.corpus.prepared import longest_prefix
from charlm.corpus.splitting import DocumentOptions
from charlm.corpus.tables import TableOptions, open_table
from charlm.engine.torch import TorchEngine
from charlm.evaluation.dynamic import SEGMENT, Learner, _evenly_spaced_segments, compute_gradient_rms
from charlm.evaluation.measure import evaluate
from charlm.tokenizer.conditions import prefix_mask
from charlm.training.events import Evaluated, Stepped

UNREGULARIZED = {"dropout_embedding": 0.0, "dropout_input": 0.0, "dropout_hidden": 0.0, "dropout_output": 0.0,
                 "weight_drop": 0.0}  # fmt: skip


def all_ids(corpus, split="train"):
    ids = corpus.ids(split)
    return ids.read(0, len(ids)).astype(np.int64)


def test_the_loss_of_a_step_is_that_of_the_texts_alone(make_trainer, table_corpus):
    trainer = make_trainer(of=table_corpus, model=UNREGULARIZED, batch=4000, bptt=100, steps=1, ar=0.0, tar=0.0)
    expected = evaluate(TorchEngine(trainer.model), table_corpus.tokenizer, [all_ids(table_corpus)])
    (step,) = [event for event in train(trainer) if isinstance(event, Stepped)]
    assert step.characters == pytest.approx(expected.characters, abs=1)
    assert step.nats_per_char == pytest.approx(expected.nats_per_char, rel=1e-4)


def test_a_resumed_training_ends_with_the_same_weights(make_trainer, table_corpus):
    options = {"of": table_corpus, "steps": 15, "batch": 10, "bptt": 8, "state_reset": 0.0}
    whole = make_trainer("whole", **options)
    train(whole)
    for cut in (3, 8):
        first = make_trainer(f"cut{cut}", **options)
        train(first, cut)
        second = resumed(first)
        train(second)
        assert digest(second) == digest(whole)


def test_samples_during_training_name_their_values(make_trainer, table_corpus):
    events = train(make_trainer(of=table_corpus, steps=7))
    (evaluated,) = [event for event in events if isinstance(event, Evaluated)]
    values = [value for value, _ in table_corpus.table.frequent()]
    assert [line.partition(": ")[0] for line in evaluated.sample.split("\n")] == values


def test_dynamic_evaluation_learns_and_scores_texts_alone(make_trainer, table_corpus):
    model, tokenizer, ids = make_trainer(of=table_corpus).model, table_corpus.tokenizer, all_ids(table_corpus, "test")
    for before, segment in _evenly_spaced_segments(table_corpus, 10):
        assert prefix_mask(tokenizer, before).all()
        assert before[-1] == tokenizer.separator_id
        assert len(before) <= longest_prefix(table_corpus)
        assert 0 < len(segment) <= SEGMENT
        assert tokenizer.separator_id not in segment
    expected = evaluate(TorchEngine(model), tokenizer, [ids])
    rms = compute_gradient_rms(model, table_corpus, 10)
    still = list(Learner(model, rms, lr=0.0, decay=0.0).losses(tokenizer, [ids]))
    assert np.array_equal(np.concatenate([part for part, _ in still]), ids[~prefix_mask(tokenizer, ids)])
    assert sum(float(nats.sum()) for _, nats in still) == pytest.approx(expected.nats, rel=1e-5)


def test_a_segment_of_a_condition_teaches_nothing(make_trainer, table_corpus):
    model = make_trainer(of=table_corpus).model
    before = {name: weight.copy() for name, weight in model.weights().items()}
    learner = Learner(model, {name: np.ones_like(weight) for name, weight in before.items()}, decay=0.0)
    learner.read(0, np.array([3, 4, 5]), model.initial_state(1), np.ones(3, np.bool_))
    assert all(np.array_equal(before[name], weight) for name, weight in model.weights().items())
    learner.read(0, np.array([3, 4, 5]), model.initial_state(1), np.array([True, True, False]))
    assert not all(np.array_equal(before[name], weight) for name, weight in model.weights().items())


@pytest.mark.parametrize("kind", ["char", "byte"])
def test_a_condition_does_not_change_what_is_counted(table_file, tmp_path, kind):
    sizes, descriptions = [], []
    for given in (None, "region"):
        source = open_table([str(table_file)], TableOptions("the name", given=given))
        options = DocumentOptions("rows", seed=3, conditional=given is not None)
        corpus = prepare(tmp_path / str(given), source, kind, others={"test": source}, documents=options)
        sizes.append(corpus.sizes["test"])
        descriptions.append(corpus.description["splits"]["train"])
    plain, conditional = sizes
    # Rows without a region are left out.
    assert plain.documents - conditional.documents == 8 - 4
    assert plain.characters > conditional.characters > 0.98 * plain.characters
    assert conditional.ids == conditional.characters + conditional.documents + conditional.prefix_ids
    assert plain.prefix_ids == 0 < conditional.prefix_ids
    assert "prefix_ids" not in descriptions[0]
