"""A model of bytes: a token is a byte, and bytes that are not UTF-8 become U+FFFD in an answer."""

import pytest
from serving_process import serving

import charlm

TEXT = "naïve 漢字 cats 🙂 "


@pytest.fixture(scope="module")
def byte_run(tmp_path_factory):
    """A run that has learned next to nothing, so that it writes invalid UTF-8."""
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "text.txt").write_text(TEXT * 200, "utf-8")
    options = {"hidden": 16, "layers": 1, "steps": 4, "bptt": 16, "batch": 4, "threads": 1, "device": "cpu"}
    charlm.train(folder / "text.txt", out=folder / "run", tokenizer="byte", precision="fp32", **options)
    return folder / "run"


def test_tokens_are_bytes(byte_run):
    pytest.importorskip("starlette", reason="the extra [serve] is not installed")
    model = charlm.load(byte_run, threads=1)
    question = {"prompt": TEXT, "max_tokens": 60, "seed": 1, "echo": True, "logprobs": 2, "temperature": 1.5}
    with serving("-c", byte_run) as server:
        (choice,) = server.complete(**question)
        streamed = server.events(**question)
        status, answer = server.post("/v1/score", input=[TEXT])
    written = TEXT + model.generate(TEXT, 60, temperature=1.5, seed=1)
    assert choice["text"] == "".join(c if not "\ud800" <= c <= "\udfff" else "\ufffd" for c in written)
    assert "".join(event["choices"][0]["text"] for event in streamed) == choice["text"]
    logprobs, data = choice["logprobs"], written.encode("utf-8", "surrogateescape")
    names = [chr(byte) if byte < 0x80 else f"bytes:\\x{byte:02x}" for byte in data]
    assert logprobs["tokens"] == names
    expected = [-each.nats for each in model.surprisals(written)]
    assert logprobs["token_logprobs"] == pytest.approx(expected, abs=1e-9)
    assert [choice["text"][offset] for offset in logprobs["text_offset"][:3]] == list("naï")
    assert logprobs["text_offset"][2:4] == [2, 2]
    assert (status, answer["data"][0]["count"]) == (200, len(TEXT.encode("utf-8")))
