"""POST /v1/score: the figures of ``charlm score``."""

import math

import pytest

import charlm

TEXTS = ["the cat sat on a mat", "", "naïve 漢 dogs", "the cat " * 100]


@pytest.mark.parametrize("name", ["salad", "lines"])
def test_scores_are_those_of_charlm_score(server, trained_run, document_run, name):
    run = {"salad": trained_run, "lines": document_run}[name]
    status, answer = server.post("/v1/score", model=name, input=TEXTS)
    assert status == 200
    assert (answer["object"], answer["model"]) == ("list", name)
    for scored, expected in zip(answer["data"], charlm.load(run, threads=1).score_documents(TEXTS), strict=True):
        assert scored["index"] == expected.number - 1
        # float32, read in batches of other shapes
        assert scored["nats"] == pytest.approx(expected.nats, rel=1e-6, abs=1e-4)
        assert scored["bits"] == pytest.approx(scored["nats"] / math.log(2))
        assert (scored["count"], scored["unknown"]) == (expected.characters, expected.unknown_characters)
        assert scored["bits_per_char"] == pytest.approx(expected.bits_per_char, abs=1e-5)
        assert sum(each["bits"] for each in scored["characters"]) == pytest.approx(scored["bits"])
        assert "".join(each["text"] for each in scored["characters"]) == expected.text


def test_alternatives_are_given_if_asked(server):
    _, answer = server.post("/v1/score", input="the", alternatives=3)
    for each in answer["data"][0]["characters"]:
        assert len(each["alternatives"]) == 3
        assert 0 < sum(probability for _, probability in each["alternatives"]) <= 1 + 1e-9
    _, answer = server.post("/v1/score", input="the", per_character=False)
    assert "characters" not in answer["data"][0]


def test_conditions_are_given_for_all_or_for_each(server, table_run):
    model, names = charlm.load(table_run, threads=1), ["Svenrik", "Maruto"]
    for given in ("north", ["north", "far east"]):
        _, answer = server.post("/v1/score", model="people", input=names, given=given)
        expected = [each.nats for each in model.score_documents(names, given)]
        assert [each["nats"] for each in answer["data"]] == pytest.approx(expected, abs=1e-4)
    status, answer = server.post("/v1/score", model="people", input=names, given=["north"] * 3)
    assert (status, answer["error"]["param"]) == (400, "given")


@pytest.mark.parametrize(("fields", "status", "param"), [
    ({}, 400, "input"), ({"input": 3}, 400, "input"), ({"input": []}, 400, "input"),
    ({"input": ["a"] * 1001}, 400, "input"), ({"input": "a" * 100_001}, 413, "input"),
    ({"input": "a" * 90_000, "alternatives": 20}, 413, "alternatives"), ({"input": "a", "n": 1}, 400, "n"),
])  # fmt: skip
def test_a_wrong_field_is_named(server, fields, status, param):
    got, answer = server.post("/v1/score", **fields)
    assert (got, answer["error"]["param"]) == (status, param)
