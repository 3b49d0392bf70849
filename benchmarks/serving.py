"""How fast ``charlm serve`` serves many clients, compared with as many samples in one process.

    python benchmarks/serving.py [CHECKPOINT] [--clients 1 16 64 256] [--length 2000] [--rounds 3] [--json]

Each client asks for one text of --length characters at the same time as all others: "whole", or "streamed" as events.
The clients are one process that reads bytes and parses nothing but the number of characters in the end. "samples" is
``LanguageModel.samples`` in a process of its own, as ``charlm generate --samples N`` does it, without its start.

    chars_per_s         characters of all clients per second, from the first request to the last answer
    share               of what the samples reach in the same rounds
    first_p50, _p99     milliseconds until a client has its first characters, streamed; over all clients and rounds
    last_over_median    when the last client has all, over the median client, streamed; 1 if no client is put behind
    memory_mb           of the server at the end

A request that is refused or cut short ends the benchmark with an error.

``--soak N`` looks for leaks instead: N requests that are answered, whole and streamed, with and without
log-probabilities, and then N / 10 streams of which the client closes the connection after the first event. It prints
the server's memory, open files and threads after each part. All places must be free then, and in the end a seed must
give the text that it gave at the start.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

from common import MB, make_parser, report, take_turns

MODELS = Path(__file__).parents[1] / "checkpoints"
SAMPLES = """
import json, sys, time
import charlm
model = charlm.load(sys.argv[1])
for line in sys.stdin:
    count, length = json.loads(line)
    start = time.perf_counter()
    characters = sum(map(len, model.samples(count, "The ", length, seed=1)))
    print(characters / (time.perf_counter() - start), flush=True)
"""


class Server:
    """``charlm serve`` in a process of its own."""

    def __init__(self, checkpoint: str) -> None:
        command = [sys.executable, "-m", "charlm", "serve", "-c", checkpoint, "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        found = re.search(r":(\d+)/ ", self.process.stderr.readline())
        assert found is not None, "the server did not start"
        self.port = int(found[1])

    def memory_mb(self) -> float:
        """Its resident memory."""
        return self._status("VmRSS") * 1024 / MB

    def threads(self) -> int:
        """How many it has."""
        return self._status("Threads")

    def open_files(self) -> int:
        """How many descriptors it has open, connections included."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def _status(self, name: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{name}:"))

    def metric(self, name: str) -> int:
        """One of the numbers at /metrics; 0 if it is not there."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            found = re.search(rf"^{re.escape(name)} (\d+)$", answer.read().decode(), re.MULTILINE)
        return int(found[1]) if found else 0


@contextmanager
def started(checkpoint: str) -> Iterator[Server]:
    server = Server(checkpoint)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait()


async def ask(port: int, leaves: bool = False, **fields: Any) -> tuple[float, float]:
    """One request: when its first characters came, and when it was complete."""
    body = json.dumps({"prompt": "The ", "temperature": 0.8, **fields}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    received = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in received, received
    received = await reader.read(65536)
    first = time.perf_counter()
    parts = [received]
    while not leaves and (part := await reader.read(1 << 20)):
        parts.append(part)
    last = time.perf_counter()
    writer.close()
    text = b"".join(parts)
    assert leaves or b'"finish_reason":"length"' in text, text[-300:]
    return first, last


class Times(NamedTuple):
    """What clients waited for, over all rounds."""

    first: list[float]
    """Milliseconds of each client, until it had its first characters."""
    last: list[float]
    """Of each round: the time until the last client had all, over that of the median client."""


def serve_all(server: Server, clients: int, length: int, stream: bool, waited: Times) -> float:
    """Characters per second of all clients together."""

    async def run() -> float:
        start = time.perf_counter()
        asked = (ask(server.port, max_tokens=length, stream=stream, seed=number) for number in range(clients))
        times = await asyncio.gather(*asked)
        complete = [last - start for _, last in times]
        waited.first.extend(1000 * (first - start) for first, _ in times)
        waited.last.append(max(complete) / median(complete))
        return clients * length / max(complete)

    return asyncio.run(run())


def measure(server: Server, samples: subprocess.Popen[str], clients: int, length: int, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    waited = Times([], [])

    def sample() -> float:
        assert samples.stdin is not None
        assert samples.stdout is not None
        samples.stdin.write(json.dumps([clients, length]) + "\n")
        samples.stdin.flush()
        return float(samples.stdout.readline())

    speeds = take_turns(
        {
            "samples": sample,
            "whole": lambda: serve_all(server, clients, length, False, Times([], [])),
            "streamed": lambda: serve_all(server, clients, length, True, waited),
        },
        rounds,
    )
    shares = {
        name: median(a / b for a, b in zip(speeds[name], speeds["samples"], strict=True))
        for name in ("whole", "streamed")
    }
    return {
        "clients": clients,
        **{f"{name}_chars_per_s": median(each) for name, each in speeds.items()},
        **{f"{name}_share": share for name, share in shares.items()},
        "first_p50": median(waited.first),
        "first_p99": quantiles(waited.first, n=100)[-1] if len(waited.first) > 1 else waited.first[0],
        "last_over_median": max(waited.last),
        "memory_mb": server.memory_mb(),
    }


SOAK_CLIENTS, SOAK_LENGTH, SOAK_PARTS = 16, 100, 4
"""Of a soak: clients at a time, characters of an answer, and in how many parts the answered requests are sent."""


def soak(server: Server, requests: int) -> list[dict[str, Any]]:
    """Send many requests, and then streams that are closed. A row for what the server takes after each part."""
    asyncio.run(ask(server.port, max_tokens=SOAK_LENGTH))  # loads the model
    expected = complete(server)
    rows = [taken(server, 0, 0)]
    for part in range(1, SOAK_PARTS + 1):
        done, target = rows[-1]["answered"], requests * part // SOAK_PARTS
        asyncio.run(send_all(server, range(done, target), leaves=False))
        rows.append(taken(server, target, 0))
    for part in (1, 2):
        done, target = rows[-1]["aborted"], requests // 10 * part // 2
        asyncio.run(send_all(server, range(done, target), leaves=True))
        rows.append(taken(server, requests, target))
    gone = server.metric('charlm_requests_total{path="/v1/completions",status="499"}')
    assert gone == requests // 10, f"{gone} clients left before they had all"
    assert complete(server) == expected
    return rows


async def send_all(server: Server, numbers: range, leaves: bool) -> None:
    """Send the requests with these numbers, some at a time."""

    async def client(numbers: Iterator[int]) -> None:
        for number in numbers:
            fields = {"logprobs": number % 3 or None, "seed": number}
            if leaves:
                await ask(server.port, True, max_tokens=10_000, stream=True, **fields)
            else:
                await ask(server.port, max_tokens=SOAK_LENGTH, stream=number % 2 == 0, **fields)

    shared = iter(numbers)
    await asyncio.gather(*(client(shared) for _ in range(SOAK_CLIENTS)))


def taken(server: Server, answered: int, aborted: int) -> dict[str, Any]:
    """What the server takes when no text is generated any more."""
    deadline = time.monotonic() + 10
    while server.metric("charlm_streams") or server.metric("charlm_waiting"):
        assert time.monotonic() < deadline, "places are not given back"
        time.sleep(0.05)
    return {
        "answered": answered,
        "aborted": aborted,
        "memory_mb": server.memory_mb(),
        "open_files": server.open_files(),
        "threads": server.threads(),
    }


def complete(server: Server) -> str:
    """The text of a seed."""
    body = json.dumps({"prompt": "The ", "max_tokens": 500, "seed": 1}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/v1/completions", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return str(json.load(answer)["choices"][0]["text"])


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("checkpoint", nargs="?", default=str(MODELS / "shakespeare"))
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--length", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--soak", type=int)
    arguments = parser.parse_args()
    with started(arguments.checkpoint) as server:
        if arguments.soak:
            report(arguments, soak(server, arguments.soak))
            return
        command = [sys.executable, "-c", SAMPLES, arguments.checkpoint]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as samples:
            serve_all(server, 1, 100, True, Times([], []))  # loads the model
            rows = [measure(server, samples, each, arguments.length, arguments.rounds) for each in arguments.clients]
        report(arguments, rows)


if __name__ == "__main__":
    main()
