"""Functions of the Python API that take the options of a training as keywords."""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import typing
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar

from charlm.errors import CharlmError
from charlm.training.options import Definition, definitions

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

# A command to type stays as it is, up to the end of its clause.
_COMMAND_OR_OPTION = re.compile(r"(?:charlm [a-z]+|--resume)\b[^;,]*|(?<![^\s(])--([a-z]+(?:-[a-z]+)*)")


def keyword_message(message: str, keywords: Collection[str]) -> str:
    """``message`` with the command-line options that are ``keywords`` named as these: ``save_every``, not --save-every.

    Shared code names options as the command line does.
    """

    def renamed(match: re.Match[str]) -> str:
        name = (match[1] or "").replace("-", "_")
        return name if name in keywords else match[0]

    return _COMMAND_OR_OPTION.sub(renamed, message)


def takes_options(kind: type) -> Callable[[FunctionT], FunctionT]:
    """Decorate a function whose ``**options`` are those of ``kind``, a class in ``charlm.training.options``.

    Its signature and docstring list the options, and its errors name keywords, not command-line options.
    """
    known = definitions(kind)

    def decorate(function: FunctionT) -> FunctionT:
        signature = _with_keywords(inspect.signature(function), known)

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            with _keywords_in_messages(signature.parameters.keys()):
                return function(*args, **kwargs)

        called.__signature__ = signature  # type: ignore[attr-defined]  # inspect.signature() reads it
        called.__doc__ = f"{inspect.getdoc(function)}\n\nOptions:\n{_described(known, signature.parameters.keys())}"
        return typing.cast(FunctionT, called)

    return decorate


def _with_keywords(signature: inspect.Signature, known: dict[str, Definition]) -> inspect.Signature:
    own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    keywords = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=" | ".join([*(kind.__name__ for kind in kinds), "None"]),
        )
        for name, (kinds, _) in known.items()
    ]
    return signature.replace(parameters=own + keywords)


def _described(known: dict[str, Definition], keywords: Collection[str]) -> str:
    return "".join(f"    {name}: {keyword_message(option.text, keywords)}\n" for name, (_, option) in known.items())


@contextlib.contextmanager
def _keywords_in_messages(keywords: Collection[str]) -> Iterator[None]:
    try:
        yield
    except CharlmError as error:
        error.args = (keyword_message(str(error), keywords),)
        raise
