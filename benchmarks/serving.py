"""How fast ``charlm serve`` serves many clients, compared with as many samples in one process.

    python benchmarks/serving.py [CHECKPOINT] [--clients 1 16 64] [--length 2000] [--rounds 3] [--json]

Each client asks for one text of --length characters at the same time as all others: "whole", or "streamed" as events.
The clients are one process that reads bytes and parses nothing but the number of characters in the end. "samples" is
``LanguageModel.samples`` in a process of its own, as ``charlm generate --samples N`` does it, without its start.

    chars_per_s         characters of all clients per second, from the first request to the last answer
    share               of what the samples reach in the same rounds
    first_p50, _p99     milliseconds until a client has its first characters, streamed; over all clients and rounds
    memory_mb           of the server at the end

``--soak N`` sends N requests instead, and closes every tenth connection while it is answered; it prints the memory of
the server before, half way and after.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from common import make_parser, report, take_turns

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
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1000 for line in status.splitlines() if line.startswith("VmRSS"))


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


def serve_all(server: Server, clients: int, length: int, stream: bool, latencies: list[float]) -> float:
    """Characters per second of all clients together."""

    async def run() -> float:
        start = time.perf_counter()
        asked = (ask(server.port, max_tokens=length, stream=stream, seed=number) for number in range(clients))
        times = await asyncio.gather(*asked)
        latencies.extend(1000 * (first - start) for first, _ in times)
        return clients * length / (max(last for _, last in times) - start)

    return asyncio.run(run())


def measure(server: Server, samples: subprocess.Popen[str], clients: int, length: int, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    latencies: list[float] = []

    def sample() -> float:
        assert samples.stdin is not None
        assert samples.stdout is not None
        samples.stdin.write(json.dumps([clients, length]) + "\n")
        samples.stdin.flush()
        return float(samples.stdout.readline())

    speeds = take_turns(
        {
            "samples": sample,
            "whole": lambda: serve_all(server, clients, length, False, []),
            "streamed": lambda: serve_all(server, clients, length, True, latencies),
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
        "first_p50": median(latencies),
        "first_p99": quantiles(latencies, n=100)[-1] if len(latencies) > 1 else latencies[0],
        "memory_mb": server.memory_mb(),
    }


def soak(server: Server, requests: int) -> list[dict[str, Any]]:
    """Send many requests, 16 at a time."""

    async def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            await ask(
                server.port, number % 10 == 0, max_tokens=200, stream=number % 2 == 0, logprobs=number % 3, seed=1
            )

    async def run(numbers: range) -> None:
        shared = iter(numbers)
        await asyncio.gather(*(worker(shared) for _ in range(16)))

    rows = []
    for done in range(0, requests + 1, max(1, requests // 4)):
        rows.append({"requests": done, "memory_mb": server.memory_mb()})
        if done < requests:
            asyncio.run(run(range(done, done + max(1, requests // 4))))
    return rows


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("checkpoint", nargs="?", default=str(MODELS / "shakespeare"))
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
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
            serve_all(server, 1, 100, True, [])  # loads the model
            rows = [measure(server, samples, each, arguments.length, arguments.rounds) for each in arguments.clients]
        report(arguments, rows)


if __name__ == "__main__":
    main()
