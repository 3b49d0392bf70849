"""Programs that speak OpenAI's API: its own Python package, and curl."""

import json
import shutil
import subprocess
from itertools import chain

import pytest

openai = pytest.importorskip("openai")

OPTIONS = {"model": "salad", "prompt": "the cat ", "max_tokens": 60, "seed": 3}


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_openai_completes(client, server):
    completion = client.completions.create(**OPTIONS)
    assert completion.choices[0].text == server.complete(**OPTIONS)[0]["text"]
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 60


def test_openai_streams(client, server):
    (whole,) = server.complete(**OPTIONS, logprobs=3, echo=True)
    events = list(client.completions.create(**OPTIONS, logprobs=3, echo=True, stream=True))
    assert "".join(event.choices[0].text for event in events) == whole["text"]
    logprobs = [event.choices[0].logprobs for event in events]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [*chain.from_iterable(getattr(each, name) for each in logprobs)] == whole["logprobs"][name]


def test_openai_passes_the_fields_of_charlm(client, server):
    extra = {"top_k": 5, "min_p": 0.05}
    completion = client.completions.create(**OPTIONS, extra_body=extra)
    assert completion.choices[0].text == server.complete(**OPTIONS, **extra)[0]["text"]


def test_openai_lists_the_models(client):
    assert [model.id for model in client.models.list()] == ["salad", "lines", "people"]
    assert client.models.retrieve("people").id == "people"


@pytest.mark.parametrize(("fields", "error"), [
    ({"model": "gpt-4"}, openai.NotFoundError),
    ({"temperature": -1}, openai.BadRequestError),
    ({"prompt": "a" * 100_001}, openai.APIStatusError),
])  # fmt: skip
def test_openai_understands_the_errors(client, fields, error):
    with pytest.raises(error) as caught:
        client.completions.create(**{**OPTIONS, **fields})
    assert caught.value.body["message"] in str(caught.value)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_completes_and_streams(server):
    def curl(fields):
        command = ["curl", "-sSN", f"{server.address}/v1/completions", "--json", json.dumps(fields)]
        return subprocess.run(command, capture_output=True, check=True).stdout

    (whole,) = json.loads(curl(OPTIONS))["choices"]
    *lines, done, rest = curl({**OPTIONS, "stream": True}).decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    texts = [json.loads(line.removeprefix("data: "))["choices"][0]["text"] for line in lines]
    assert "".join(texts) == whole["text"]
