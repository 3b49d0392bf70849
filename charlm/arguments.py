"""Checks of the arguments of the Python API. Errors name keywords, and say what is expected."""

from __future__ import annotations

import functools
import os
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

from charlm.errors import CharlmError, UsageError, keyword_message

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def names_keywords(function: FunctionT) -> FunctionT:
    """Decorate a public function, so that errors of shared code name its keywords, not command-line options."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except CharlmError as error:
            error.args = (keyword_message(str(error)),)
            raise

    return typing.cast(FunctionT, called)


def check_text(name: str, value: object) -> None:
    """Raise ``UsageError`` unless ``value`` is a string."""
    if not isinstance(value, str):
        raise UsageError(f"{name} must be a text (str), not {value!r:.40}")


def check_texts(name: str, values: Any) -> Iterator[str]:
    """``values`` one by one. Raises ``UsageError`` at once for one string, and later for one that is not a string."""
    if isinstance(values, (str, bytes)):
        raise UsageError(f"{name} must be several texts, not one string; put the string in a list")
    if not isinstance(values, Iterable):
        raise UsageError(f"{name} must be several texts, such as a list, not {values!r:.40}")
    return _checked(name, values)


def _checked(name: str, values: Iterable[object]) -> Iterator[str]:
    for number, value in enumerate(values):
        check_text(f"{name}[{number}]", value)
        yield typing.cast(str, value)


def check_integer(name: str, value: object, minimum: int = 0, words: str = "") -> None:
    """Raise ``UsageError`` unless ``value`` is an integer of at least ``minimum``, which ``words`` describe."""
    words = words or f"an integer of {minimum} or more"
    if not isinstance(value, Integral) or isinstance(value, bool) or value < minimum:
        raise UsageError(f"{name} must be {words}, not {value!r:.40}")


def check_number(name: str, value: object) -> None:
    """Raise ``UsageError`` unless ``value`` is a real number."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise UsageError(f"{name} must be a number, not {value!r:.40}")


def check_path(name: str, value: object) -> Path:
    """``value`` as a path. Raises ``UsageError``."""
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        raise UsageError(f"{name} must be a path, not {value!r:.60}")
    return Path(value)


def check_flags(**flags: object) -> None:
    """Raise ``UsageError`` unless all are True or False."""
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise UsageError(f"{name} must be True or False, not {flag!r:.40}")


def check_callable(name: str, value: object) -> None:
    """Raise ``UsageError`` unless ``value`` is a function or None."""
    if value is not None and not callable(value):
        raise UsageError(f"{name} must be a function, not {value!r:.40}")


def check_paths(name: str, value: object) -> list[Path]:
    """One or several paths, in a list. Raises ``UsageError``."""
    if isinstance(value, (str, os.PathLike)):
        return [check_path(name, value)]
    if not isinstance(value, Sequence) or not value:
        raise UsageError(f"{name} must be a path or a list of paths, not {value!r:.60}")
    return [check_path(name, path) for path in value]


def check_device_name(name: str) -> None:
    """Raise ``UsageError`` unless ``name`` is that of a device, which this machine may lack."""
    if not re.fullmatch(r"auto|(cpu|cuda|mps)(:[0-9]+)?", name):
        raise UsageError(f"--device {name!r:.40} is not a device; use auto, cpu, cuda or mps")
