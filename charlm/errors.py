"""What a person is told when something cannot be done: one line, what to do next, and the exit code.

Every error that a user can cause is a ``CharlmError``. Its text is a single line that names the thing that is
wrong and what to do about it; its ``exit_code`` is what the command line returns. Anything else that escapes is a
bug in charlm.
"""

from __future__ import annotations


class CharlmError(Exception):
    """The base of all errors that a user can cause and mend."""

    exit_code = 1


class UsageError(CharlmError):
    """Options that contradict one another or have no meaning."""

    exit_code = 2


class DataError(CharlmError):
    """A text, a corpus or a checkpoint whose content cannot be used."""

    exit_code = 65


class MissingInputError(CharlmError):
    """A file or folder that is not there or may not be read."""

    exit_code = 66


class DivergedError(CharlmError):
    """Training whose loss or gradients stopped being finite numbers."""

    exit_code = 70


class OutOfMemoryError(CharlmError):
    """A model or batch that does not fit in the memory of the device."""

    exit_code = 71


class CannotCreateError(CharlmError):
    """An output that cannot be created, or a run that another process is using."""

    exit_code = 73


class InputOutputError(CharlmError):
    """A read or write that failed half-way: a full disk, a broken one."""

    exit_code = 74


class InterruptedBySignal(CharlmError):
    """Work stopped by Ctrl-C or SIGTERM, after what there was to save has been saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
