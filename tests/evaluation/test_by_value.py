"""Evaluation of texts given their conditions, overall and by value, against sums that are computed one by one."""

import csv

import numpy as np
import pytest

import charlm
from charlm.config import SamplingConfig
from charlm.engine.ensemble import log_softmax
from charlm.errors import UsageError


@pytest.fixture(scope="module")
def model(table_run):
    return charlm.load(table_run, device="cpu", precision="fp32", threads=1)


@pytest.fixture(scope="module")
def pairs(table_file):
    """(region, name) of the rows that have both."""
    with open(table_file, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [(row["region"], row["the name"]) for row in rows if row["region"] and row["the name"]][:200]


def one_by_one(model, value, text):
    """The losses of the characters of ``text`` and of its end, given ``value``."""
    tokenizer = model.tokenizer
    before = [tokenizer.start_id, *tokenizer.encode(value), tokenizer.separator_id]
    targets = [*tokenizer.encode(text), tokenizer.end_id]
    logits, _ = model.engine.forward(np.array([*before, *targets[:-1]])[:, None], model.engine.initial_state(1))
    log_V = log_softmax(logits[len(before) - 1 :, 0])
    return -log_V[np.arange(len(targets)), targets]


def ids_of(model, pairs):
    tokenizer = model.tokenizer
    return np.concatenate(
        [[*tokenizer.encode(v), tokenizer.separator_id, *tokenizer.encode(t), tokenizer.end_id] for v, t in pairs]
    )


def test_losses_are_those_of_texts_after_their_values(model, pairs):
    expected = [one_by_one(model, value, text) for value, text in pairs]
    evaluation = model.evaluate_ids([ids_of(model, pairs)])
    assert evaluation.nats == pytest.approx(sum(nats.sum() for nats in expected), rel=1e-6)
    assert evaluation.characters == evaluation.bytes == sum(len(text) + 1 for _, text in pairs)
    assert evaluation.documents == len(pairs)
    scored = list(model.score_documents([text for _, text in pairs], given=[value for value, _ in pairs]))
    assert [(s.given, s.text) for s in scored] == pairs
    assert [s.nats for s in scored] == pytest.approx([nats.sum() for nats in expected], rel=1e-5)
    assert [s.characters for s in scored] == [len(text) + 1 for _, text in pairs]
    value, text = pairs[0]
    assert model.score(text, given=value) == pytest.approx(-expected[0][:-1], rel=1e-5, abs=1e-5)
    assert model.score("", given=value).shape == (0,)
    found = list(model.surprisals(text, given=value))
    assert [surprisal.character for surprisal in found] == [*text, ""]
    assert [surprisal.nats for surprisal in found] == pytest.approx(expected[0], rel=1e-5, abs=1e-5)
    same = [(value, text), (value, text[:2])]
    assert model.evaluate(f"{text}\n{text[:2]}\n", given=value) == model.evaluate_ids([ids_of(model, same)])
    assert [s.nats for s in model.score_documents([text, text[:2]], given=value)] == pytest.approx(
        [one_by_one(model, *pair).sum() for pair in same], rel=1e-5
    )


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_the_parts_by_value_add_up_wherever_ids_are_cut(model, pairs, size):
    known, odd = pairs[:60], [("atlantis", "Svenrik"), ("", "Maru")]
    ids = ids_of(model, [*known[:30], *odd, *known[30:]])
    blocks = [ids[start : start + size] for start in range(0, len(ids), size)]
    overall, by_value = model.evaluate_by_value(blocks)
    assert overall == model.evaluate_ids([ids])
    assert set(by_value) == {*(value for value, _ in known), None}
    for value, evaluation in by_value.items():
        own = odd if value is None else [pair for pair in known if pair[0] == value]
        assert evaluation == model.evaluate_ids([ids_of(model, own)])
    assert sum(part.nats for part in by_value.values()) == pytest.approx(overall.nats, rel=1e-6)


def test_documents_larger_than_a_pool(model, monkeypatch):
    from charlm.evaluation import losses

    pairs = [("north", "Sven"), ("south", "Mara" * 50), ("far east", "Ruka"), ("north", "Gul" * 70)]
    ids = ids_of(model, pairs)
    expected = model.evaluate_by_value([ids])
    monkeypatch.setattr(losses, "DOCUMENT_POOL", 64)
    overall, by_value = model.evaluate_by_value([ids[start : start + 16] for start in range(0, len(ids), 16)])
    assert overall.nats == pytest.approx(expected[0].nats, rel=1e-6)
    assert {value: part.nats for value, part in by_value.items()} == pytest.approx(
        {value: part.nats for value, part in expected[1].items()}, rel=1e-6
    )


def test_the_model_has_learnt_the_condition(model, pairs):
    right = model.evaluate_ids([ids_of(model, pairs)])
    regions = sorted({value for value, _ in pairs})
    wrong = [(regions[(regions.index(value) + 1) % len(regions)], text) for value, text in pairs]
    assert model.evaluate_ids([ids_of(model, wrong)]).nats_per_char > right.nats_per_char + 0.5


def test_generated_texts_are_those_of_the_value(model):
    letters = {"north": set("bjorsvengulrikmundstein"), "far east": set("mikaharutoshi")}
    for value, other in (("north", "far east"), ("far east", "north")):
        texts = list(model.samples(50, config=SamplingConfig(0.5), given=value, seed=1))
        own, others = (sum(set(text.lower()) <= letters[name] for text in texts) for name in (value, other))
        assert own > others + 30
        assert model.generate(given=value, temperature=0.5, seed=1) == texts[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.generate(), r"needs the region of a text, given; known: north \(\d+\), "),
        (lambda model: model.generate(given="nort"), "'nort' is not a known region; did you mean 'north'"),
        (lambda model: model.generate(given=3), "needs the region"),
        (lambda model: model.evaluate("Sven"), "needs the region"),
        (lambda model: model.score("Sven"), "needs the region"),
        (lambda model: model.score_documents(["Sven"]), "needs the region"),
        (lambda model: model.surprisals("Sven"), "needs the region"),
        (lambda model: list(model.score_documents(["Sven", "Mara"], given=["north"])), "one for each document; None"),
        (lambda model: list(model.score_documents(["Sven"], given=[3])), "one for each document; 3 is not a text"),
    ],
)
def test_a_value_must_be_given(model, call, message):
    with pytest.raises(UsageError, match=message):
        call(model)


def test_a_model_without_conditions_takes_no_value(document_run):
    model = charlm.load(document_run, device="cpu")
    for call in (model.generate, lambda given: model.evaluate("the cat", given=given)):
        with pytest.raises(UsageError, match="trained without a condition; leave out what is given"):
            call(given="north")
    with pytest.raises(UsageError, match="trained without a condition"):
        model.evaluate_by_value([])


def test_fingerprints_are_those_of_texts(model, pairs, table_run):
    from charlm.corpus.prepared import open_corpus

    known = set(open_corpus(table_run / "corpus").fingerprints().tolist())
    hits = [model.fingerprint(text) in known for _, text in pairs]
    assert sum(hits) > 0.7 * len(hits)
    assert model.fingerprint("Zzqx") not in known
