"""What every request passes: trusted hosts, the key, and headers that restrict what a browser does with the answer."""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
from collections.abc import Iterable

import h11
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from charlm.serving.errors import ApiError
from charlm.serving.exchange import ClientGoneError, Exchange

OPEN_PATHS = ("/", "/health")
"""Served without a key, as is all below ``OPEN_PREFIX``: the page, which asks for the key, and a sign of life."""
OPEN_PREFIX = "/page/"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """An application that passes on what is allowed.

    A page of another site can make a browser send requests to this server under a name of its own that it points here
    (DNS rebinding). So the host must be one of ``hosts``, or with ``any_address`` an address in numbers. Without CORS
    headers, a browser shows the answers to no other site.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], any_address: bool, api_key: str | None) -> None:
        self._app = app
        self._hosts = {host.lower() for host in hosts}
        self._any_address = any_address
        self._api_key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            try:
                await send(message)
            except h11.LocalProtocolError:  # what came from the client after this request has ended the connection
                raise ClientGoneError from None

        with contextlib.suppress(ClientGoneError):
            try:
                self._check(scope)
            except ApiError as error:
                await Exchange(scope, receive, send_guarded).fail(error)
            else:
                await self._app(scope, receive, send_guarded)

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        if not self._is_trusted(headers.get(b"host", b"").decode("latin-1")):
            raise ApiError(421, "this host name is not served here; see charlm serve --allow-host", code="unknown_host")
        path = scope["path"]
        if self._api_key is None or path in OPEN_PATHS or path.startswith(OPEN_PREFIX):
            return
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not secrets.compare_digest(key.strip(), self._api_key):
            raise ApiError(401, "the API key is missing or wrong: Authorization: Bearer KEY", code="invalid_api_key")

    def _is_trusted(self, host: str) -> bool:
        name = _without_port(host).lower()
        if name in self._hosts:
            return True
        return self._any_address and _is_address(name)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can connect to ``host``."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_wildcard(host: str) -> bool:
    """Whether ``host`` stands for all addresses of this machine."""
    return _is_address(host) and ipaddress.ip_address(host).is_unspecified
