"""Functions of the Python API that take the options of a training as keywords."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from charlm.arguments import FunctionT, names_keywords
from charlm.errors import keyword_message
from charlm.training.options import Definition, definitions


def takes_options(kind: type) -> Callable[[FunctionT], FunctionT]:
    """Decorate a function whose ``**options`` are those of ``kind``, a class in ``charlm.training.options``.

    Its signature and docstring list the options, and its errors name keywords, not command-line options.
    """
    known = definitions(kind)

    def decorate(function: FunctionT) -> FunctionT:
        signature = _with_keywords(inspect.signature(function), known)

        called = names_keywords(function)
        called.__signature__ = signature  # type: ignore[attr-defined]  # inspect.signature() reads it
        called.__doc__ = f"{inspect.getdoc(function)}\n\nOptions:\n{_described(known)}"
        return called

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


def _described(known: dict[str, Definition]) -> str:
    return "".join(f"    {name}: {keyword_message(option.text)}\n" for name, (_, option) in known.items())
