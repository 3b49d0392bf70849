"""Classification by Bayes' theorem, against probabilities that are computed one by one."""

import math

import numpy as np
import pytest

import charlm
from charlm.corpus.pieces import Piece
from charlm.engine.ensemble import log_softmax
from charlm.errors import UsageError
from charlm.evaluation import classification
from charlm.evaluation.classification import Confusion, classify_documents
from charlm.tokenizer.protocol import code_points

TEXTS = ["Svenrik", "Maraluci", "", "Karu", "é🙂", "Mi" * 200, "Bel", "Ru"]


@pytest.fixture(scope="module")
def model(table_run):
    return charlm.load(table_run, device="cpu", precision="fp32", threads=1)


def log_probability(model, value, text):
    """Of ``text`` and its end, given ``value``."""
    tokenizer = model.tokenizer
    before = [tokenizer.start_id, *tokenizer.encode(value), tokenizer.separator_id]
    targets = [*tokenizer.encode(text), tokenizer.end_id]
    logits, _ = model.engine.forward(np.array([*before, *targets[:-1]])[:, None], model.engine.initial_state(1))
    return log_softmax(logits[len(before) - 1 :, 0])[np.arange(len(targets)), targets].sum()


def test_probabilities_follow_from_bayes(model):
    counts = model.table.counts
    found = list(model.classify(TEXTS))
    assert [(each.number, each.text) for each in found] == list(enumerate(TEXTS, start=1))
    for each in found:
        joint = {
            v: log_probability(model, v, each.text) + math.log(n / sum(counts.values())) for v, n in counts.items()
        }
        total = np.logaddexp.reduce(list(joint.values()))
        expected = {value: math.exp(log - total) for value, log in joint.items()}
        assert each.probabilities == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert list(each.probabilities.values()) == sorted(each.probabilities.values(), reverse=True)
        assert each.value == max(expected, key=expected.get)
        assert each.probability == each.probabilities[each.value]
        assert sum(each.probabilities.values()) == pytest.approx(1)
    assert [each.value for each in found[:4]] == ["north", "south", found[2].value, "far east"]


def test_the_prior_is_that_of_the_counts(model):
    """Without a text that tells values apart, the more frequent value is more probable."""
    pieces = [Piece(code_points("Mar"), np.array([3]))]
    one, other = (
        next(classify_documents(model.engine, model.tokenizer, pieces, {"north": n, "south": 1000 - n}))[0]
        for n in (1, 999)
    )
    odds = [each.probabilities["north"] / each.probabilities["south"] for each in (one, other)]
    assert odds[1] / odds[0] == pytest.approx(999**2, rel=1e-3)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_documents_do_not_depend_on_pieces_and_pools(model, monkeypatch, size):
    expected = [(each.text, each.probabilities) for each in model.classify(TEXTS)]
    codes = code_points("".join(TEXTS))
    ends = np.cumsum([len(text) for text in TEXTS])
    pieces = [
        Piece(codes[start : start + size], ends[(ends > start) & (ends <= start + size)] - start)
        for start in range(0, len(codes), size)
    ]
    empty = TEXTS.index("")
    pieces = [Piece(p.codes, p.ends) for p in pieces]
    monkeypatch.setattr(classification, "_POOL", 8)
    found = [each for batch in model.classify_pieces(pieces) for each in batch]
    assert [each.number for each in found] == list(range(1, len(TEXTS) + 1))
    assert len(expected[empty][0]) == 0
    for each, (text, probabilities) in zip(found, expected, strict=True):
        assert each.text == text
        assert each.probabilities == pytest.approx(probabilities, rel=1e-4)


def test_other_models_and_single_strings_are_refused(model, document_run):
    with pytest.raises(UsageError, match="several texts, not one string"):
        model.classify("Sven")
    with pytest.raises(UsageError, match="trained without a condition"):
        charlm.load(document_run, device="cpu").classify(["the cat"])


def test_an_ensemble_classifies_with_the_mean_of_its_probabilities(model):
    together = charlm.LanguageModel.ensemble([model, model])
    for one, both in zip(model.classify(TEXTS), together.classify(TEXTS), strict=True):
        assert both.probabilities == pytest.approx(one.probabilities, rel=1e-3, abs=1e-6)


def test_accuracy_and_confusions():
    confusion = Confusion({"a": 3, "b": 1})
    for true, found in ["aa", "aa", "ab", "bb", "ca"]:
        confusion.add(true, found)
    assert confusion.counts == {("a", "a"): 2, ("a", "b"): 1, ("b", "b"): 1}
    assert (confusion.unknown, confusion.documents, confusion.right) == (1, 4, 3)
    assert confusion.accuracy == 0.75
    assert confusion.true_counts() == {"a": 3, "b": 1}
    assert confusion.standard_error == pytest.approx(math.sqrt(5 / 8 * 3 / 8 / 8))
    confusion.counts.clear()
    confusion.add("a", "a")
    assert 0.1 < confusion.standard_error < 1
