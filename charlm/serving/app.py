"""The application: which path is answered by what."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mimetypes
import time
from collections.abc import AsyncIterator, Iterable
from importlib.resources import files
from traceback import format_exception
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from charlm import __version__
from charlm.serving.completions import Completions
from charlm.serving.errors import ApiError, as_api_error
from charlm.serving.exchange import ClientGoneError, Exchange
from charlm.serving.fields import parse_object
from charlm.serving.guard import OPEN_PREFIX, Guard
from charlm.serving.models import created
from charlm.serving.progress import read_progress
from charlm.serving.scores import Scores
from charlm.serving.service import Service

logger = logging.getLogger("charlm")

CLIENT_GONE = 499
"""The status that is counted for a client that went away; nginx logs it, too."""


def create_app(
    service: Service, hosts: Iterable[str], any_address: bool = False, api_key: str | None = None
) -> ASGIApp:
    """The application of ``service``. Arguments as in ``Guard``."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        service.close()

    routes = [
        *[
            Route(each.path, Posted(service, each), methods=["POST"])
            for each in (Completions(service), Scores(service))
        ],
        *_reading_routes(service),
    ]
    handlers: dict[Any, Any] = {HTTPException: _http_error, Exception: _error}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={**handlers, ApiError: _error})
    app.router.redirect_slashes = False
    return Guard(app, hosts, any_address, api_key)


class Answering(Protocol):
    """What answers the requests to one path."""

    path: str

    async def answer(self, exchange: Exchange, values: dict[str, Any]) -> None:
        """Answer a request with the fields ``values``."""
        ...


class Posted:
    """An application for requests in JSON: it bounds their size and time, and answers with errors of the API."""

    def __init__(self, service: Service, answering: Answering) -> None:
        self._service, self._answering = service, answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange, metrics = Exchange(scope, receive, send), self._service.metrics
        status = CLIENT_GONE
        try:
            values = parse_object(await exchange.body(self._service.limits.body_bytes))
            answer = self._answering.answer(exchange, values)
            await exchange.while_connected(answer, self._service.limits.seconds, self._service.cut_off)
            status = exchange.status
        except (ClientGoneError, ConnectionError):
            pass
        except Exception as error:
            failure = as_api_error(error)
            status = failure.status
            if status == 500:
                logger.error("a request to %s failed: %s", self._answering.path, "".join(format_exception(error)))
            with contextlib.suppress(ClientGoneError, ConnectionError):
                await exchange.fail(failure)
        finally:
            metrics.requests[self._answering.path, status] += 1
            metrics.seconds.observe(time.monotonic() - exchange.started)


def _reading_routes(service: Service) -> list[Route]:
    """The paths that are read with GET."""

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__})

    async def metrics(request: Request) -> Response:
        gauges = {
            "streams: Texts that are generated now.": service.admission.taken,
            "waiting: Requests that wait for a place.": service.admission.waiting,
            "models_loaded: Models in memory.": service.models.loaded,
        }
        return PlainTextResponse(service.metrics.text(gauges), media_type="text/plain; version=0.0.4")

    def listed(name: str) -> dict[str, Any]:
        name, path = service.models.path(name)
        return {"id": name, "object": "model", "created": created(path), "owned_by": "charlm"}

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [listed(name) for name in service.models.paths()]})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        described = await asyncio.to_thread(service.models.describe, name)
        return JSONResponse({**listed(name), "charlm": described})

    async def progress(request: Request) -> Response:
        _, path = service.models.path(request.path_params["name"])
        return JSONResponse(await asyncio.to_thread(read_progress, path))

    return [
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/progress/{name:path}", progress),
        Route("/", _file("index.html")),
        *[Route(OPEN_PREFIX + name, _file(name)) for name in _page_files()],
    ]


def _page_files() -> list[str]:
    return sorted(each.name for each in files("charlm.serving").joinpath("page").iterdir() if each.is_file())


def _file(name: str) -> Any:
    """An endpoint that sends a file of the page. All are read now, so that no request opens a file."""
    content = files("charlm.serving").joinpath("page", name).read_bytes()
    kind = {"js": "text/javascript"}.get(name.rpartition(".")[2]) or mimetypes.guess_type(name)[0]

    async def endpoint(request: Request) -> Response:
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    return endpoint


async def _http_error(request: Request, error: HTTPException) -> Response:
    messages = {404: f"there is nothing at {request.url.path:.100}", 405: f"{request.method} is not possible here"}
    answer = ApiError(error.status_code, messages.get(error.status_code, error.detail))
    return JSONResponse(answer.body(), answer.status, headers=error.headers)


async def _error(request: Request, error: Exception) -> Response:
    answer = as_api_error(error)
    return JSONResponse(answer.body(), answer.status, headers=answer.headers)
