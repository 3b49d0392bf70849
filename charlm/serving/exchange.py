"""One request and its answer: a bounded body, JSON or server-sent events, and what happens if the client goes away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Coroutine
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from charlm.serving.errors import ApiError, as_api_error
from charlm.serving.limits import BODY_SECONDS


class ClientGoneError(Exception):
    """The client closed the connection before it had its answer."""


class Exchange:
    """A request, whose body is read with ``body``, and the answer to it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.started = time.monotonic()
        """When the request's headers had come."""
        self.status = 0
        """Of the answer; 0 before it has begun."""
        self._is_complete = False

    async def body(self, max_bytes: int) -> bytes:
        """The body of a request in JSON. Raises ``ApiError`` if it is too large, too slow, or of another type."""
        kind = self._headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # the others may be sent by any page in a browser, without being asked
            raise ApiError(415, "send JSON, with the header content-type: application/json")
        too_large = ApiError(413, f"the request is larger than {max_bytes} bytes")
        length = self._headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > max_bytes:
            raise too_large
        try:
            return await asyncio.wait_for(self._read(max_bytes, too_large), BODY_SECONDS)
        except asyncio.TimeoutError:
            raise ApiError(408, f"the request was not complete after {BODY_SECONDS:g} seconds") from None

    async def _read(self, max_bytes: int, too_large: ApiError) -> bytes:
        data = bytearray()
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            data += message.get("body", b"")
            if len(data) > max_bytes:
                raise too_large
            if not message.get("more_body"):
                return bytes(data)

    async def while_connected(self, work: Coroutine[Any, Any, None], seconds: float, cut_off: asyncio.Event) -> None:
        """Do ``work``, cancelled if the client goes (``ClientGoneError``), after ``seconds``, or at ``cut_off``.

        Raises ``ApiError`` for the latter two.
        """
        task, gone, ended = map(asyncio.ensure_future, (work, self._gone(), cut_off.wait()))
        try:
            await asyncio.wait({task, gone, ended}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
            elif gone.done():
                raise ClientGoneError
            elif ended.done():
                raise ApiError(503, "the server is shutting down")
            else:
                raise ApiError(503, f"this took longer than {seconds:g} seconds; ask for less")
        finally:
            for each in (task, gone, ended):
                each.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await each

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    # ------------------------------------------------------------------------------------------------ the answer

    async def send_json(self, values: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """The whole answer."""
        data = to_json(values)
        await self._begin(
            status, {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})}
        )
        await self._write(data, more=False)

    async def begin_events(self) -> None:
        """Begin an answer of server-sent events."""
        # nginx would collect them otherwise
        headers = {"content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no"}
        await self._begin(200, headers)

    async def send_events(self, values: list[Any]) -> None:
        """Some events with JSON values."""
        await self._write(b"".join(b"data: " + to_json(value) + b"\n\n" for value in values), more=True)

    async def end_events(self) -> None:
        """The last event, as OpenAI's API sends it."""
        await self._write(b"data: [DONE]\n\n", more=False)

    async def fail(self, error: Exception) -> None:
        """Tell the client of an error, whatever has been sent already."""
        answer = as_api_error(error)
        if not self.status:
            # what is left of a body that was refused must not be read as the next request
            close = {"connection": "close"} if answer.status in (408, 413) else {}
            await self.send_json(answer.body(), answer.status, {**answer.headers, **close})
        elif not self._is_complete:
            await self._write(b"data: " + to_json(answer.body()) + b"\n\n", more=False)

    async def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def _write(self, data: bytes, more: bool) -> None:
        message: Message = {"type": "http.response.body", "body": data, "more_body": more}
        await self._send(message)
        self._is_complete = not more


def to_json(values: Any) -> bytes:
    """Compact JSON in ASCII."""
    return json.dumps(values, separators=(",", ":"), allow_nan=False).encode("ascii")
