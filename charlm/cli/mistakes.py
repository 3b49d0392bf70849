"""What to say about a mistake that the parser of the command line found: the word that was given, and the nearest one.

The errors are the parser's, typer's own or click's by version, so they are told apart by their attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from charlm.cli.advice import shell_command

_OTHER_NAMES = {
    "batch-size": "batch", "block-size": "bptt", "chunk-length": "bptt", "cuda": "device", "dropout": "dropout-output",
    "emb-size": "embedding", "embedding-size": "embedding", "epoch": "epochs", "gpu": "device", "grad-clip": "clip",
    "hidden-size": "hidden", "iterations": "steps", "learning-rate": "lr", "max-epochs": "epochs", "max-iters": "steps",
    "max-new-tokens": "length", "max-steps": "steps", "model": "checkpoint", "num-epochs": "epochs",
    "num-layers": "layers", "num-samples": "samples", "out-dir": "out", "output": "out", "rnn-size": "hidden",
    "save-dir": "out", "seq-length": "bptt", "sequence-length": "bptt", "start": "prompt", "temp": "temperature",
    "text": "prompt", "val": "valid", "validation": "valid", "wd": "weight-decay",
}  # fmt: skip
"""What other programs call an option, and what charlm calls it."""
_INSTEAD_OF_ARGUMENT = {"generate": "--prompt", "info": "--checkpoint"}
"""Commands without an argument, and the option that people mean when they give one."""


def explain(error: Any, words: Sequence[str]) -> str:
    """One line about ``error``, which the parser raised for the ``words`` of the command line."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "charlm"
    message = _message(error, words, context)
    return f"{message.rstrip('.')}; see {command} --help"


def _message(error: Any, words: Sequence[str], context: Any) -> str:
    message: str = error.format_message()
    if context is None:
        return message
    if type(error).__name__ == "NoSuchOption":
        return _no_such_option(error.option_name, context)
    parameter = getattr(error, "param", None)
    if parameter is not None and (given := _value(parameter.opts, words)) is not None:
        return f"{max(parameter.opts, key=len)} {given!r:.60} is not valid: {_reason(error.message)}"
    if message.startswith("No such command"):
        return _no_such_command(next((word for word in words if not word.startswith("-")), ""), context)
    if "unexpected extra argument" in message and context.info_name in _INSTEAD_OF_ARGUMENT:
        extra = message.partition(" (")[2].rstrip(".").removesuffix(")")
        option = _INSTEAD_OF_ARGUMENT[context.info_name]
        suggested = shell_command(context.info_name, option, extra)
        return f"charlm {context.info_name} has only options, not {extra!r:.60}; use {suggested}"
    return message


def _no_such_option(name: str, context: Any) -> str:
    known = [option for parameter in context.command.params for option in parameter.opts if option.startswith("--")]
    other = f"--{_OTHER_NAMES.get(name.lstrip('-').replace('_', '-'), '')}"
    nearest = [other] if other in known else get_close_matches(name, known, n=1)
    return f"no such option: {name}" + (f"; do you mean {nearest[0]}?" if nearest else "")


def _no_such_command(name: str, context: Any) -> str:
    nearest = get_close_matches(name, context.command.commands, n=1)
    return f"no such command: {name}" + (f"; do you mean charlm {nearest[0]}?" if nearest else "")


def _value(names: Sequence[str], words: Sequence[str]) -> str | None:
    """The last value of an option on the command line, as ``--lr 1`` or ``--lr=1``."""
    found = None
    for word, following in zip(words, [*words[1:], None], strict=True):
        name, equals, value = word.partition("=")
        if name in names:
            found = value if equals else following
    return found


def _reason(message: str) -> str:
    """What typer says, in words that do not name an input: "Input should be a valid number, unable to ..."."""
    first, separator, _ = message.partition(", unable to")
    return first.replace("Input should", "it should") if separator or first.startswith("Input") else message
