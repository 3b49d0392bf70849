"""The errors that a user can cause, with the exit codes of the command line.

Each is a ``CharlmError``. Its text is one line that names what is wrong and says what to do next. Any other exception
that reaches the user is a bug in charlm.
"""

from __future__ import annotations

import re


class CharlmError(Exception):
    """The base class of all errors that a user can cause and fix."""

    exit_code = 1


class UsageError(CharlmError):
    """Invalid or contradictory options."""

    exit_code = 2


class DataError(CharlmError):
    """A text, corpus or checkpoint with unusable content."""

    exit_code = 65


class MissingInputError(CharlmError):
    """A file or folder that is missing or not readable."""

    exit_code = 66


class DivergedError(CharlmError):
    """Training whose loss or gradients became non-finite."""

    exit_code = 70


class OutOfMemoryError(CharlmError):
    """A model or batch that does not fit in the memory of the device."""

    exit_code = 71


class CannotCreateError(CharlmError):
    """An output that cannot be created, or a run that another process is using."""

    exit_code = 73


class InputOutputError(CharlmError):
    """A read or write that failed: the disk is full or broken."""

    exit_code = 74


class InterruptedBySignal(CharlmError):
    """Ctrl-C or SIGTERM, after everything that can be saved was saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


# A command to type stays as it is, up to the end of its clause.
_COMMAND_OR_OPTION = re.compile(r"(?:charlm [a-z]+|--resume)\b[^;,]*|(?<![^\s(])--([a-z]+(?:-[a-z]+)*)")


def keyword_message(message: str) -> str:
    """``message`` with keywords, such as ``save_every``, in place of command-line options, such as --save-every.

    Shared code names options as the command line does.
    """
    return _COMMAND_OR_OPTION.sub(lambda match: match[1].replace("-", "_") if match[1] else match[0], message)
