"""Requests to ``charlm serve`` that no honest client sends: fields, sizes and encodings at random, and broken HTTP.

Meanwhile other clients send half of a body, or send or read in small parts. After each request the server must have
answered in the form of the API, or have closed the connection; no answer may be a fault of the server (500), and
afterwards it must still serve the same text, without a request or a place left behind.
"""

import contextlib
import json
import random
import re
import socket
import sys
import time
from collections import Counter
from http.client import HTTPException
from pathlib import Path

import serving_process

from stress.slow_clients import SlowClient

REQUESTS_FOR_A_SLOW_CLIENT, REQUESTS_FOR_A_GREEDY_CLIENT = 20, 500
MODEL = Path(__file__).parent.parent / "golden" / "format1-text"
FIELDS = ("prompt", "max_tokens", "temperature", "top_p", "n", "stop", "seed", "echo", "logprobs", "stream", "top_k",
          "min_p", "given", "model", "stream_options", "user", "best_of", "suffix", "logit_bias", "input",
          "alternatives", "per_character", "messages", "__proto__", "")  # fmt: skip
PATHS = (
    "/v1/completions",
    "/v1/completions",
    "/v1/completions",
    "/v1/score",
    "/v1/models",
    "/v1/models/%00",
    "/",
    "/metrics",
    "/health",
    "//",
    "/v1/completions/",
    "/page/../app.py",
    "/progress/%ff",
    "*",
    "/%",
    "/?a=%00",
)
TEXTS = ("", "the cat ", "\0", "\ud800", "\udcff", "漢字🙂", "a\u0301" * 50, "\u202e", "x" * 3000, '"\\', "NaN", "<b>")
NUMBERS = (0, 1, -1, 2, 16, 127, 2**31, 2**63, -(2**70), 10**400, 0.5, 1e-320, 1e308, -0.0)
CONSTANTS = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"[" * 5000, b'{"a":' * 5000, b"\xff\xfe", b"\xef\xbb\xbf{}")


def value(draw, depth=0):
    """A JSON value, likely of a wrong type."""
    kind = draw.randrange(8 if depth < 3 else 6)
    if kind < 2:
        return draw.choice(TEXTS)
    if kind < 4:
        return draw.choice(NUMBERS)
    if kind < 6:
        return draw.choice((None, True, False))
    if kind == 6:
        return [value(draw, depth + 1) for _ in range(draw.choice((0, 1, 3, 200)))]
    return {draw.choice(FIELDS): value(draw, depth + 1) for _ in range(3)}


def body(draw):
    """The body of a request: mostly valid JSON, sometimes damaged."""
    fields = {name: value(draw) for name in draw.sample(FIELDS, draw.randrange(6))}
    if draw.random() < 0.7:  # so that most of the others are looked at
        fields = {name: each for name, each in fields.items() if name not in ("messages", "__proto__", "", "input")}
        fields.setdefault("max_tokens", draw.choice((0, 5, 50)))
    sys.set_int_max_str_digits(0)
    data = json.dumps(fields, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    if draw.random() < 0.2:
        data = draw.choice(CONSTANTS) if draw.random() < 0.5 else data[: draw.randrange(len(data) + 1)]
    if draw.random() < 0.1:
        place = draw.randrange(len(data) + 1)
        data = data[:place] + draw.randbytes(3) + data[place:]
    return data


def request(draw):
    """The bytes of a request, whether they are a whole one, and whether the client leaves without its answer."""
    method, path = "POST", draw.choice(PATHS[:4])
    if draw.random() < 0.3:
        method, path = draw.choice(("POST", "GET", "PUT", "HEAD", "TRACE", "\0")), draw.choice(PATHS)
    data = body(draw)
    length = len(data) if draw.random() < 0.9 else draw.choice((0, -1, len(data) // 2, len(data) + 9, 10**30, "x"))
    lines = [f"{method} {path} HTTP/1.1", f"host: {draw.choice(('localhost',) * 9 + ('evil.example',))}"]
    lines.append(f"content-type: {draw.choice(('application/json',) * 9 + ('text/plain',))}")
    lines += [f"content-length: {length}"] if draw.random() < 0.95 else ["transfer-encoding: chunked"]
    if draw.random() < 0.05:
        lines.append("x: " + "y" * draw.choice((10, 20_000)))
    lines.append("connection: close")
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    sent = head + data
    is_whole = length == len(data) and "transfer-encoding: chunked" not in lines
    if draw.random() < 0.1:
        sent, is_whole = sent[: draw.randrange(len(sent))], False
    return sent, is_whole, draw.random() < 0.1


def check(answer):
    """The status of an answer, 0 for none. Raises ``AssertionError`` for one that is not as promised."""
    if not answer:
        return 0
    head, _, content = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 "), head[:100]
    status = int(head[9:12])
    assert status != 500, content
    assert b"Traceback" not in content
    assert b"site-packages" not in content
    if status >= 400 and b"application/json" in head and content:
        length = int(re.search(rb"content-length: (\d+)", head)[1])  # an answer to the rest may follow
        if len(content) >= length:
            assert set(json.loads(content[:length])["error"]) == {"message", "type", "param", "code"}
    return status


def send(server, data, is_whole, leaves):
    """Send the bytes; the answer as far as it came, or nothing if the client ``leaves``."""
    answer = b""
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection,
        contextlib.suppress(ConnectionError),
    ):
        with contextlib.suppress(OSError):  # the server may have answered and closed before it had all
            connection.sendall(data)
            if not is_whole:  # the server would wait for the rest
                connection.shutdown(socket.SHUT_WR)
        while not leaves and (part := connection.recv(65536)):
            answer += part
    return answer


def run_trials(requests: int = 5000, seed: int = 1, waits: bool = True) -> dict[str, int]:
    """Send the requests, one after another, with slow clients beside them, and count the answers.

    Slow clients that stop half way are answered after 20 seconds, for which the last ones wait only if it ``waits``.
    """
    draw, counts = random.Random(seed), Counter[str]()
    question = {"prompt": "the ", "max_tokens": 40, "seed": 1, "logprobs": 2}
    with serving_process.serving("-c", MODEL, "--max-input", 5000, "--max-tokens", 2000, env={}) as server:
        expected = server.complete(**question)
        memory = [resident(server)]
        slow = []
        for number in range(requests):
            if number == requests // 2:
                memory.append(resident(server))
            data, is_whole, leaves = request(draw)
            try:
                status = check(send(server, data, is_whole, leaves))
                # what is too large is answered before it was read, so that the answer may get lost
                assert status or leaves or not is_whole or len(data) > 60_000, "no answer"
            except (AssertionError, OSError, HTTPException, ValueError) as error:
                raise AssertionError(f"request {number}: {data[:300]!r}") from error
            counts[f"status_{status}"] += 1
            if number % REQUESTS_FOR_A_SLOW_CLIENT == 0:
                slow.append(SlowClient(server, draw, is_greedy=waits and number % REQUESTS_FOR_A_GREEDY_CLIENT == 0))
                counts["slow_clients"] += 1
            ended = [client for client in slow if not client.step()]
            slow = [client for client in slow if client not in ended]
            counts.update(map(outcome, ended))
        for client in slow:
            client.finish() if waits or client.kind != "stalls" else client.leave()
        counts.update(map(outcome, slow))
        assert server.complete(**question) == expected
        deadline = time.monotonic() + 60
        while server.metric("charlm_streams") or server.metric("charlm_waiting"):
            assert time.monotonic() < deadline, "a place is left behind"
        memory.append(resident(server))
        assert server.end() == 0
        assert not any("Traceback" in line or "failed" in line for line in server.log), server.log
    grown = {"grown_kilobytes": memory[2] - memory[0], "grown_second_half_kilobytes": memory[2] - memory[1]}
    return {"requests": requests, **dict(sorted(counts.items())), "failures": 0, **grown}


def outcome(client):
    """What became of a slow client, as a key of the counts. Raises ``AssertionError`` for an answer not as promised."""
    if client.has_left:
        return f"{client.kind}_left"
    status = check(client.answer)
    expected = (408,) if client.kind == "stalls" else (200, 408, 0) if client.unsent else (200,)
    assert status in expected, (client.kind, client.answer[:500])  # 0: a server that closes while data come resets
    return f"{client.kind}_{status}"


def resident(server):
    """Memory of the server, in kB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
