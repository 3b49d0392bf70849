"""Clients of ``charlm serve`` that take their time, or stop in the middle.

Each does a little whenever ``step`` is called, so that one thread has many of them beside its other requests.
"""

import contextlib
import json
import socket
import time

HEAD = "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n"
BODY_SECONDS = 20
"""After which the server gives up a body that is not complete."""
MARGIN_SECONDS = 15
"""What it may take longer on a busy machine."""
END_SECONDS = 90
"""In which everything else must be answered, once the client reads as fast as it can."""


class SlowClient:
    """A client that sends its body in small parts, stops half way, or reads its answer in small parts."""

    def __init__(self, server, draw, is_greedy):
        self.kind = "sips" if is_greedy else draw.choice(("stalls", "drips", "sips"))
        self.answer = b""
        self.has_left = False
        """Whether it closed the connection before the server did."""
        fields = {"prompt": "the cat ", "max_tokens": draw.choice((20, 2000)), "stream": draw.random() < 0.7}
        fields |= {"n": draw.choice((1, 3)), "logprobs": draw.choice((None, 0, 5))}
        fields["user"] = "u" * draw.choice((9, 5000))
        if is_greedy:  # asks for more than the server keeps for a client that does not read
            fields |= {"max_tokens": 2000, "n": 20, "logprobs": 20, "stream": True}
        body = json.dumps(fields).encode()
        head = f"{HEAD.format(path='/v1/completions')}content-length: {len(body)}\r\n\r\n".encode()
        data = head + (body[: draw.randrange(len(body))] if self.kind == "stalls" else body)
        self._leaves_after = draw.choice((3, 30, 300, None, None))  # steps
        self._part = draw.choice((1, 40, 1000))
        self.unsent = data if self.kind == "drips" else b""
        self._connection = socket.socket()
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048 if self.kind == "sips" else 1 << 16)
        self._connection.connect(("127.0.0.1", server.port))
        if self.kind != "drips":
            self._connection.sendall(data)
        self._connection.setblocking(False)
        self._steps = 0

    def step(self):
        """Send or read a little. False when the connection is at its end."""
        self._steps += 1
        if self._steps == self._leaves_after:
            self.leave()
            return False
        try:
            received = self._connection.recv(self._part if self.kind == "sips" else 1 << 16)
        except BlockingIOError:
            return self._send()
        except ConnectionError:  # the server has given up, and closed before it had all
            received = b""
        self.answer += received
        if not received:
            self._connection.close()
        return bool(received)

    def _send(self):
        with contextlib.suppress(OSError):  # of which the next step learns
            self.unsent = self.unsent[self._connection.send(self.unsent[: self._part]) :] if self.unsent else b""
        return True

    def leave(self):
        """Close the connection."""
        self.has_left = True
        self._connection.close()

    def finish(self):
        """Send the rest, and read all of the answer."""
        seconds = BODY_SECONDS + MARGIN_SECONDS if self.kind == "stalls" else END_SECONDS
        deadline = time.monotonic() + seconds
        self._leaves_after, self._part = None, 1 << 16
        while self.step():
            assert time.monotonic() < deadline, f"a client that {self.kind} is not answered"
            time.sleep(0.001)
