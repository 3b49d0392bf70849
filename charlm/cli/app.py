"""The ``charlm`` command: its subcommands, and errors as one line on stderr with an exit code.

Text goes to stdout, everything else to stderr. Heavy modules are imported by the commands when they run.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from types import FrameType
from typing import Annotated, Any

import typer

from charlm import __version__
from charlm.cli import compare, evaluate, export, generate, info, score, train
from charlm.cli.output import LogHandler, OutputClosedError, say
from charlm.errors import CharlmError

app = typer.Typer(
    name="charlm",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("train")(train.train)
app.command("generate")(generate.generate)
app.command("eval")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("score")(score.score)
app.command("info")(info.info)
app.command("export")(export.export)

_options = {"debug": False}


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"charlm {__version__}")  # noqa: T201  # the answer belongs on stdout
        raise typer.Exit


@app.callback(invoke_without_command=True)
def charlm(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")] = False,
) -> None:
    """Train a character-level LSTM on any text, write with it, and measure text with it."""
    _options["debug"] = debug
    if context.invoked_subcommand is None:
        print(context.get_help())  # noqa: T201  # help belongs on stdout


def main() -> None:
    """Run the command line and exit with its code."""
    _open_missing_streams()
    # As an exception, SIGTERM lets temporary folders be removed; training watches it by itself.
    signal.signal(signal.SIGTERM, _leave)
    logging.getLogger("charlm").addHandler(LogHandler())
    try:
        code = _run()
        sys.stdout.flush()
    except (OutputClosedError, BrokenPipeError):
        code = _leave_quietly()
    except KeyboardInterrupt:
        code = 130
    _on_signals(lambda number, frame: os._exit(code))  # Python may take a second to clear torch away
    sys.exit(code)


def _leave(number: int, frame: FrameType | None) -> None:
    _on_signals(signal.SIG_IGN)  # what comes twice must not interrupt the clearing up
    sys.exit(128 + number)


def _on_signals(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _open_missing_streams() -> None:
    """Stand in for streams that were closed before we began (``charlm ... >&-``)."""
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115  # they stay open to the end
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  # likewise
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115  # likewise


def _run() -> int:
    try:
        result: Any = app(standalone_mode=False)
    except CharlmError as error:
        if _options["debug"]:
            raise
        _complain(str(error))
        return error.exit_code
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # the parser's way to leave when nobody reads its help
            raise OutputClosedError from None
        raise
    except typer.Abort:
        return 130
    except (KeyboardInterrupt, OutputClosedError, BrokenPipeError):
        raise
    except Exception as error:
        return _unexpected(error)
    return result if isinstance(result, int) else 0


def _unexpected(error: Exception) -> int:
    format_message = getattr(error, "format_message", None)
    if format_message is not None:  # the parser's own errors, whichever library they come from
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "charlm"
        _complain(f"{format_message().rstrip('.')}; see {command} --help")
        return int(getattr(error, "exit_code", 2))
    if _is_out_of_memory(error):
        _complain("out of memory; choose a smaller model, or --device cpu")
        return 71
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        _complain(f"{str(error.filename)[:80]}... is longer than a name can be; check the name")
        return 66
    if isinstance(error, OSError):
        _complain(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}; mend it and try again")
        return 74
    if _options["debug"]:
        raise error
    _complain(f"{type(error).__name__}: {str(error)[:200]}; a bug in charlm (--debug shows where)")
    return 1


def _complain(text: str) -> None:
    """One line on stderr. A file's name may hold anything; a line end or an escape sequence in it is spelt out."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    say(f"charlm: {shown}")


def _is_out_of_memory(error: Exception) -> bool:
    return (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAlloc" in str(error)
    )


def _leave_quietly() -> int:
    # Whoever read our output has gone (``| head``); without this, Python would complain once more at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
