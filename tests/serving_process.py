"""``charlm serve`` in a process of its own, and a client for it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

from commands import start

GOLDEN = Path(__file__).parent / "golden"


class Server:
    """``charlm serve`` with some options. Its messages are in ``log``. It may be started by some ``code``.

    It is a fork, or with ``env`` (variables to add to the environment) or ``code`` a new process.
    """

    def __init__(self, *options, env=None, code=None):
        self.log = []
        words = ["serve", "--port", "0", "--threads", "1", *map(str, options)]
        reader, writer = os.pipe()
        self._stderr = open(reader, encoding="utf-8")  # noqa: SIM115  # open until it ends
        if env is None and code is None:
            self.process = start(*words, stderr=writer)
        else:
            program = ["-m", "charlm"] if code is None else ["-c", code]
            self.process = subprocess.Popen(
                [sys.executable, *program, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=writer,
                env={**os.environ, **(env or {})},
            )  # fmt: skip
        os.close(writer)
        for line in self._stderr:
            self.log.append(line)
            if found := re.search(r" at http://(\S+?):(\d+)/ ", line):
                self.host, self.port = found[1].strip("[]"), int(found[2])
                break
        else:
            self.process.wait()
            raise AssertionError("".join(self.log))
        self._reader = threading.Thread(target=lambda: self.log.extend(self._stderr))
        self._reader.start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    def request(self, method, path, body=None, headers=None):
        """The status, the headers and the body of the answer."""
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def get(self, path, **headers):
        status, _, body = self.request("GET", path, headers=headers)
        return status, json.loads(body)

    def post(self, path, **fields):
        status, _, body = self.request("POST", path, json.dumps(fields), {"content-type": "application/json"})
        return status, json.loads(body)

    def complete(self, **fields):
        """The choices of a completion."""
        status, answer = self.post("/v1/completions", **fields)
        assert status == 200, answer
        return answer["choices"]

    def events(self, **fields):
        """The events of a streamed completion."""
        body = json.dumps({**fields, "stream": True})
        status, headers, body = self.request("POST", "/v1/completions", body, {"content-type": "application/json"})
        assert status == 200, body
        assert headers["content-type"].startswith("text/event-stream")
        lines = body.decode("ascii").split("\n\n")
        assert lines.pop() == ""
        assert lines.pop() == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines]

    def raw(self, data):
        """What the server answers to bytes, until it closes the connection or says nothing for a while."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def metric(self, name):
        _, _, body = self.request("GET", "/metrics")
        return float(re.search(rf"^{re.escape(name)} (\S+)$", body.decode(), re.MULTILINE)[1])

    def end(self, number=signal.SIGTERM):
        """Ask it to end; returns its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join()
        self._stderr.close()
        return code


@contextmanager
def serving(*options, env=None, code=None):
    server = Server(*options, env=env, code=code)
    try:
        yield server
    finally:
        server.process.kill()
        server.end()
