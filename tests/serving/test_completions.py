"""The completions API: its answers are those of OpenAI's legacy one, and exactly what the model computes."""

import math
from itertools import chain

import pytest

import charlm

PROMPT = "the cat "


@pytest.fixture(scope="module")
def model(trained_run):
    return charlm.load(trained_run, threads=1)


@pytest.fixture(scope="module")
def lines_model(document_run):
    return charlm.load(document_run, threads=1)


def joined(events, index=0):
    """A streamed choice, from its events."""
    parts = [event["choices"][0] for event in events if event["choices"] and event["choices"][0]["index"] == index]
    logprobs = None
    if parts[0]["logprobs"] is not None:
        logprobs = {
            key: [*chain.from_iterable(part["logprobs"][key] for part in parts)] for key in parts[0]["logprobs"]
        }
    assert [part["finish_reason"] for part in parts[:-1]] == [None] * (len(parts) - 1)
    return {
        "index": index, "text": "".join(part["text"] for part in parts), "logprobs": logprobs,
        "finish_reason": parts[-1]["finish_reason"],
    }  # fmt: skip


def test_the_answer_has_the_fields_of_the_api(server):
    status, answer = server.post("/v1/completions", model="salad", prompt=PROMPT, max_tokens=5, seed=1)
    assert status == 200
    assert answer["id"].startswith("cmpl-")
    assert (answer["object"], answer["model"]) == ("text_completion", "salad")
    assert isinstance(answer["created"], int)
    assert answer["usage"] == {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13}
    (choice,) = answer["choices"]
    assert (choice["index"], choice["logprobs"], choice["finish_reason"]) == (0, None, "length")
    assert len(choice["text"]) == 5


def test_defaults_are_those_of_the_api(server, model):
    (choice,) = server.complete(seed=3)
    assert choice["text"] == model.generate("", 16, temperature=1.0, seed=3)


def test_a_text_is_that_of_charlm_generate(server, model):
    options = {"temperature": 0.7, "top_k": 9, "top_p": 0.95, "min_p": 0.01, "seed": 5}
    texts = [choice["text"] for choice in server.complete(prompt=PROMPT, max_tokens=300, n=3, **options)]
    config = charlm.config.SamplingConfig(temperature=0.7, top_k=9, top_p=0.95, min_p=0.01)
    assert texts == list(model.samples(3, PROMPT, 300, config, seed=5))


def test_several_prompts_have_the_texts_of_each(server):
    both = server.complete(prompt=["the ", "a mat"], max_tokens=30, n=2, seed=5)
    alone = [c for p in ("the ", "a mat") for c in server.complete(prompt=p, max_tokens=30, n=2, seed=5)]
    assert [choice["index"] for choice in both] == [0, 1, 2, 3]
    assert [choice["text"] for choice in both] == [choice["text"] for choice in alone]


def test_without_a_seed_texts_differ(server):
    assert len({server.complete(prompt=PROMPT, max_tokens=40)[0]["text"] for _ in range(3)}) == 3


@pytest.mark.parametrize("stop", ["cat", ["zzz", "cat"], ["indeed cat", "cat"]])
def test_a_text_ends_before_a_stop(server, stop):
    (choice,) = server.complete(prompt=PROMPT, max_tokens=2000, stop=stop, seed=4)
    (whole,) = server.complete(prompt=PROMPT, max_tokens=2000, seed=4)
    ends = [whole["text"].find(each) for each in ([stop] if isinstance(stop, str) else stop)]
    assert choice["text"] == whole["text"][: min(end for end in ends if end >= 0)]
    assert choice["finish_reason"] == "stop"
    assert joined(server.events(prompt=PROMPT, max_tokens=2000, stop=stop, seed=4))["text"] == choice["text"]


def test_log_probabilities_are_those_of_charlm_score(server, model):
    (choice,) = server.complete(prompt=PROMPT, max_tokens=600, temperature=1.5, echo=True, logprobs=3, seed=2)
    surprisals = list(model.surprisals(choice["text"], 3))
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert logprobs["tokens"] == [each.character for each in surprisals]
    assert logprobs["token_logprobs"] == pytest.approx([-each.nats for each in surprisals], abs=1e-9)
    assert logprobs["text_offset"] == list(range(len(choice["text"])))
    for chosen, logprob, top, each in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], surprisals, strict=True
    ):
        assert list(top)[:3] == [name for name, _ in each.alternatives]
        assert [math.exp(top[name]) for name, _ in each.alternatives] == pytest.approx(
            [probability for _, probability in each.alternatives]
        )
        assert top[chosen] == logprob
        assert len(top) <= 4


def test_log_probabilities_do_not_change_the_text(server):
    options = {"prompt": PROMPT, "max_tokens": 100, "seed": 6}
    (plain,), (with_logprobs,) = server.complete(**options), server.complete(**options, logprobs=0, echo=True)
    assert with_logprobs["text"] == PROMPT + plain["text"]
    assert [len(top) for top in with_logprobs["logprobs"]["top_logprobs"]] == [1] * 108


def test_offsets_count_the_prompt_that_is_not_echoed(server):
    (choice,) = server.complete(prompt=PROMPT, max_tokens=4, logprobs=1)
    assert choice["logprobs"]["text_offset"] == [8, 9, 10, 11]


def test_an_unknown_character_has_the_probability_of_its_bytes(server, model):
    (choice,) = server.complete(prompt="x漢y", max_tokens=0, echo=True, logprobs=1)
    assert choice["logprobs"]["tokens"] == ["x", "漢", "y"]
    expected = [-each.nats for each in model.surprisals("x漢y")]
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(expected, abs=1e-9)


def test_no_new_characters_score_a_prompt(server):
    (choice,) = server.complete(prompt=PROMPT, max_tokens=0, echo=True, logprobs=0)
    assert (choice["text"], choice["finish_reason"]) == (PROMPT, "length")
    assert len(choice["logprobs"]["tokens"]) == len(PROMPT)


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("logprobs", [None, 2])
def test_a_stream_is_the_same_answer_in_pieces(server, echo, logprobs):
    options = {"prompt": [PROMPT, "naïve 漢 "], "n": 2, "max_tokens": 1500, "seed": 8, "echo": echo}
    options |= {} if logprobs is None else {"logprobs": logprobs, "max_tokens": 300}
    events = server.events(**options)
    assert [joined(events, index) for index in range(4)] == server.complete(**options)
    assert len({event["id"] for event in events}) == 1


def test_a_stream_tells_its_usage_if_asked(server):
    events = server.events(prompt=PROMPT, max_tokens=7, stream_options={"include_usage": True})
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == {"prompt_tokens": 8, "completion_tokens": 7, "total_tokens": 15}


def test_a_document_ends_by_itself(server, lines_model):
    choices = server.complete(model="lines", prompt="the", max_tokens=2000, n=4, seed=1, temperature=0.8)
    assert [choice["finish_reason"] for choice in choices] == ["stop"] * 4
    assert ["the" + choice["text"] for choice in choices] == [
        "the" + text for text in lines_model.samples(4, "the", 2000, seed=1)
    ]
    (greedy,) = server.complete(model="lines", prompt="the", max_tokens=5, logprobs=20, temperature=0)
    assert "<|endoftext|>" in greedy["logprobs"]["top_logprobs"][0]


def test_a_condition_is_given(server, table_run):
    options = {"model": "people", "max_tokens": 30, "n": 5, "seed": 2, "temperature": 0.8}
    texts = [choice["text"] for choice in server.complete(given="north", **options)]
    assert texts == list(charlm.load(table_run, threads=1).samples(5, "", 30, seed=2, given="north"))
    status, answer = server.post("/v1/completions", model="people")
    assert status == 400
    assert "given" in answer["error"]["message"]
    status, answer = server.post("/v1/completions", model="people", given="west")
    assert "known: north" in answer["error"]["message"]
    (scored,) = server.complete(model="people", prompt="Sven", given="north", max_tokens=0, echo=True, logprobs=0)
    expected = [-each.nats for each in charlm.load(table_run, threads=1).surprisals("Sven", given="north")][:-1]
    assert scored["logprobs"]["token_logprobs"] == pytest.approx(expected, abs=1e-9)


WRONG = [
    ({"prompt": 5}, "prompt"),
    ({"prompt": [1, 2]}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": "\ud800"}, None),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 2001}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"min_p": 2}, "min_p"),
    ({"top_k": 1.5}, "top_k"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"n": 100, "prompt": ["a", "b"]}, "n"),
    ({"n": 128, "max_tokens": 2000, "logprobs": 20}, "max_tokens"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"logprobs": 21}, "logprobs"),
    ({"echo": "yes"}, "echo"),
    ({"stream": 1}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"suffix": "end"}, "suffix"),
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"best_of": 2}, "best_of"),
    ({"messages": []}, "messages"),
    ({"given": "north"}, None),
]


@pytest.mark.parametrize(("fields", "param"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_field_is_named(server, fields, param):
    status, answer = server.post("/v1/completions", **fields)
    assert status == 400
    error = answer["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert 10 < len(error["message"]) < 400


def test_fields_that_say_nothing_are_accepted(server):
    nothing = {"suffix": None, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "best_of": 1,
               "user": "me", "stop": None, "seed": None, "logprobs": None, "stream": False}  # fmt: skip
    assert len(server.complete(prompt=PROMPT, **nothing)) == 1


def test_an_unknown_model_is_not_found(server):
    status, answer = server.post("/v1/completions", model="../../etc/passwd")
    assert status == 404
    assert answer["error"]["code"] == "model_not_found"
