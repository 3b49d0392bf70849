"""The JSON of requests: strict, and every error names its field."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from typing import Any

from charlm.serving.errors import ApiError

MAX_INTEGER = 2**63 - 1
MAX_FIELD_NAME = 60


def parse_object(data: bytes) -> dict[str, Any]:
    """The fields of a request. Raises ``ApiError`` for what is not a JSON object in UTF-8."""
    try:
        values = json.loads(data.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not valid JSON in UTF-8: {str(error)[:100]}") from None
    if not isinstance(values, dict):
        raise ApiError(400, "the body is not a JSON object")
    return values


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("duplicate key")
    return values


class Fields:
    """Takes typed values out of a JSON object. A field that is missing or null has its default."""

    def __init__(self, values: dict[str, Any], known: Collection[str]) -> None:
        unknown = sorted(set(values) - set(known))
        if unknown:
            name = unknown[0][:MAX_FIELD_NAME]
            raise ApiError(400, f"unrecognized request argument supplied: {name}", name)
        self._values = values

    def get(self, name: str) -> Any:
        """The value as it is; None if it is missing."""
        return self._values.get(name)

    def boolean(self, name: str, default: bool = False) -> bool:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise wrong(name, "true or false", value)
        return value

    def integer(self, name: str, default: int, low: int = 0, high: int = MAX_INTEGER) -> int:
        value = self.get(name)
        if value is None:
            return default
        if type(value) is not int or not low <= value <= high:
            raise wrong(name, f"an integer, {low} to {high}", value)
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        value = self.get(name)
        if value is None:
            return default
        if type(value) not in (int, float) or not low <= value <= high or not math.isfinite(value):
            raise wrong(name, f"a number, {low:g} to {high:g}", value)
        return float(value)

    def text(self, name: str) -> str | None:
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            raise wrong(name, "a string", value)
        return value

    def texts(self, name: str, most: int) -> list[str] | None:
        """A string, or a list of at most ``most`` strings."""
        value = self.get(name)
        if value is None:
            return None
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            hint = "; token ids are not accepted, send text" if isinstance(value, list) else ""
            raise wrong(name, f"a string or a list of strings{hint}", value)
        if not 1 <= len(values) <= most:
            raise ApiError(400, f"{name} must have 1 to {most} strings, not {len(values)}", name)
        return values

    def only(self, name: str, *accepted: Any) -> None:
        """Raise ``ApiError`` unless a field that charlm does not have is missing, or says nothing."""
        value = self.get(name)
        if value is not None and not any(type(value) is type(each) and value == each for each in accepted):
            raise ApiError(400, f"{name} is not supported; leave it out", name)


def wrong(name: str, expected: str, value: Any) -> ApiError:
    """The error for a field of a wrong type or value."""
    return ApiError(400, f"{name} must be {expected}, not {_shown(value)}", name)


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "this list"
    return json.dumps(value)[:40]
