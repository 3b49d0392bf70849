"""The server: its socket, connections that must not idle, and an orderly end."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from charlm.errors import CannotCreateError, UsageError
from charlm.serving.errors import ApiError
from charlm.serving.exchange import to_json
from charlm.serving.service import Service

IDLE_SECONDS = 15
"""A connection without a complete request for this time is closed: a new one, and one after an answer."""
MAX_CONNECTIONS = 900
"""Of the 1,024 files that a process may usually open. More are answered with 503."""
CUT_OFF_SECONDS, END_SECONDS = 4.0, 5
"""After SIGTERM: when requests that are not complete fail, and when connections are closed."""
_MAX_HEADER_BYTES = 1 << 14
_NOT_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at ``host``; port 0 is any free one. Raises ``CannotCreateError`` and ``UsageError``."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise UsageError(f"--host {host!r:.60} is not an address or a name of this machine") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise CannotCreateError(f"port {port} is in use; choose another one with --port") from None
        raise CannotCreateError(
            f"{host}:{port} cannot be opened ({error.strerror}); choose another --host or --port"
        ) from None
    return listener


def run(app: ASGIApp, service: Service, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, and then until what is being served is complete, at most ``END_SECONDS``."""
    config = uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        loop="asyncio",
        lifespan="on",
        access_log=False,
        log_config=None,
        log_level="error",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=END_SECONDS,
        limit_concurrency=MAX_CONNECTIONS,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
    )
    with _signals_ignored_afterwards():
        _Server(config, service).run(sockets=[listener])


@contextmanager
def _signals_ignored_afterwards() -> Iterator[None]:
    """uvicorn raises a signal once more when it has ended; here the end is what was asked for."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        timer = asyncio.get_running_loop().call_later(CUT_OFF_SECONDS, self._service.cut_off.set)
        await super().shutdown(sockets)
        timer.cancel()


class _Connection(H11Protocol):
    """Closes a connection on which no complete request comes. uvicorn stops the time at the first byte of one.

    What is not HTTP is answered in the form of the API, and only if no other answer is being sent.
    """

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        self.conn.receive_data(data)
        self.handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._unset_keepalive_if_required()

    def send_400_response(self, msg: str) -> None:
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if not is_answering:
            body = to_json(ApiError(400, "this is not a valid HTTP request").body())
            self.transport.write(_NOT_HTTP % (len(body), body))
        else:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
