"""Errors in the form of OpenAI's API."""

from __future__ import annotations

from typing import Any

from charlm.errors import CharlmError, UsageError, keyword_message

_TYPES = {401: "authentication_error", 404: "not_found_error", 408: "timeout_error", 429: "rate_limit_error"}
MAX_MESSAGE = 500
"""Characters of a message, which may repeat what a client sent."""


class ApiError(Exception):
    """An answer other than 200: its status, a message, and the name of the field that is wrong."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message[:MAX_MESSAGE]
        self.param = param
        self.code = code

    @property
    def headers(self) -> dict[str, str]:
        """What the status needs besides the body."""
        if self.status == 429:
            return {"retry-after": "1"}
        return {"www-authenticate": "Bearer"} if self.status == 401 else {}

    def body(self) -> dict[str, Any]:
        """The JSON value of the answer."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def as_api_error(error: Exception) -> ApiError:
    """The answer to a request that failed with ``error``. Nothing about a bug is told to the client."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, CharlmError):
        message = keyword_message(str(error))
        name = message.partition(" ")[0]
        is_field = isinstance(error, UsageError) and name in ("temperature", "top_k", "top_p", "min_p", "stop", "seed")
        return ApiError(400, message, name if is_field else None)
    if isinstance(error, MemoryError):
        return ApiError(503, "the server is out of memory; try again later")
    return ApiError(500, "the server failed; its log says why")
