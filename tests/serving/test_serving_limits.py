"""Limits: of a request, of its time, and of how many are served; and clients that are slow, or go away."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest
from serving_process import GOLDEN, serving

pytest.importorskip("starlette", reason="the extra [serve] is not installed")

ENDLESS = 10**9
"""Characters that no test waits for."""
JSON = {"content-type": "application/json"}
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@pytest.fixture(scope="module")
def small():
    """A server with two places and a queue of one, whose texts may be endless."""
    options = ("--streams", 2, "--queue", 1, "--max-tokens", ENDLESS, "--max-input", 1000, "--timeout", "1m")
    with serving("-c", GOLDEN / "format1-text", *options) as server:
        yield server


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def begun(server, **fields):
    """A connection on which an endless answer was asked for."""
    body = json.dumps({"max_tokens": ENDLESS, "stream": True, **fields}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
        yield connection


def streams(server, count):
    """Wait until so many texts are generated."""
    wait_until(lambda: server.metric("charlm_streams") == count)


def test_a_client_that_goes_away_frees_its_place(small):
    with begun(small) as first:
        assert b"200 OK" in first.recv(4096)
        with begun(small) as second:
            assert b"200 OK" in second.recv(4096)
            streams(small, 2)
        streams(small, 1)
    streams(small, 0)
    wait_until(lambda: small.metric('charlm_requests_total{path="/v1/completions",status="499"}') == 2)


def test_a_client_that_goes_away_while_it_waits_leaves_the_queue(small):
    with begun(small, n=2):
        streams(small, 2)
        with begun(small):
            wait_until(lambda: small.metric("charlm_waiting") == 1)
        wait_until(lambda: small.metric("charlm_waiting") == 0)
    streams(small, 0)


def test_a_full_queue_is_said_and_waiting_requests_are_served(small):
    with ThreadPoolExecutor(1) as other:
        with begun(small, n=2) as busy:
            assert b"200 OK" in busy.recv(4096)
            waiting = other.submit(small.complete, max_tokens=5)
            wait_until(lambda: small.metric("charlm_waiting") == 1)
            body = json.dumps({"max_tokens": 5})
            status, headers, answer = small.request("POST", "/v1/completions", body, JSON)
            assert status == 429
            assert headers["retry-after"] == "1"
            assert json.loads(answer)["error"]["type"] == "rate_limit_error"
        assert len(waiting.result()[0]["text"]) == 5


def test_a_slow_client_delays_nobody(small):
    with begun(small):  # and reads nothing
        streams(small, 1)
        assert [len(small.complete(max_tokens=500)[0]["text"]) for _ in range(5)] == [500] * 5
    streams(small, 0)


def test_a_client_that_reads_too_slowly_is_given_up():
    options = ("--max-tokens", ENDLESS, "--timeout", "1h")
    with (
        serving("-c", GOLDEN / "format1-text", *options) as server,
        begun(server, n=20, logprobs=20) as slow,
    ):
        streams(server, 20)
        streams(server, 0)
        assert b'data: {"error":{"message":"the answer was read too slowly' in read_all(slow)
        assert len(server.log) == 1, server.log


def test_time_is_limited():
    with serving("-c", GOLDEN / "format1-text", "--max-tokens", ENDLESS, "--timeout", "1s") as server:
        status, answer = server.post("/v1/completions", max_tokens=ENDLESS)
        assert status == 503
        assert "longer than 1 seconds" in answer["error"]["message"]
        with begun(server) as connection:
            received = read_all(connection)
        assert b'data: {"error":{"message":"this took longer' in received
        assert b"[DONE]" not in received
        streams(server, 0)


def read_all(connection):
    """Everything up to the last chunk of an answer."""
    data = b""
    while not data.endswith(b"\r\n0\r\n\r\n"):
        data += connection.recv(1 << 20)
    return data


def test_too_much_is_refused(small):
    status, answer = small.post("/v1/completions", prompt="a" * 1001)
    assert (status, answer["error"]["param"]) == (413, "prompt")
    status, _, body = small.request("POST", "/v1/completions", b" " * 100_000, JSON)
    assert status == 413
    assert b"larger than" in body
    chunked = HEAD + b"transfer-encoding: chunked\r\n\r\n" + (b"ffff\r\n" + b" " * 0xFFFF + b"\r\n") * 2
    assert small.raw(chunked).startswith(b"HTTP/1.1 413")
    assert small.raw(HEAD + b"content-length: 999999999999\r\n\r\n{").startswith(b"HTTP/1.1 413")
    assert small.raw(b"GET /" + b"a" * 100_000).startswith(b"HTTP/1.1 400")


def test_a_long_prompt_lets_others_pass():
    """The prompts are read in slices. Were it read at once, the other request would wait for all of it."""
    with serving("-c", GOLDEN / "format1-text", "--max-input", 50_000_000) as server:
        body = json.dumps({"input": "the cat " * 4_000_000}).encode()
        head = HEAD.replace(b"completions", b"score") + b"content-length: %d\r\n\r\n" % len(body)
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            connection.sendall(head + body)
            streams(server, 1)
            assert len(server.complete(prompt="the ", max_tokens=50)[0]["text"]) == 50
            assert server.metric("charlm_streams") == 1, "the long one is not complete"
        streams(server, 0)


IMPATIENT = """
from charlm.cli.app import main
from charlm.serving import exchange, server
exchange.BODY_SECONDS, server.IDLE_SECONDS = 1.0, 1
main()
"""


def test_a_request_that_does_not_come_is_not_waited_for():
    """Nothing, half of the headers, half of them after a whole request, and half of a body."""
    whole = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    sent = [b"", HEAD, whole + HEAD, HEAD + b"content-length: 99\r\n\r\n{"]
    with ExitStack() as stack:
        server = stack.enter_context(serving("-c", GOLDEN / "format1-text", code=IMPATIENT))
        connections = []
        for data in sent:
            connections.append(stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60)))
            connections[-1].sendall(data)
        answers = [b"".join(iter(lambda each=each: each.recv(65536), b"")) for each in connections]
    assert answers[:2] == [b"", b""]
    assert answers[2].count(b"HTTP/1.1 200") == answers[2].count(b"HTTP/1.1") == 1
    assert answers[3].startswith(b"HTTP/1.1 408")
