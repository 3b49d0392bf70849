"""The ``charlm`` command: its subcommands, and errors as one line on stderr with an exit code.

Text goes to stdout, everything else to stderr. Commands import heavy modules only when they run.
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
from charlm.cli import (
    classify,
    compare,
    evaluate,
    export,
    generate,
    info,
    neurons,
    plot,
    runs,
    score,
    serve,
    train,
)
from charlm.cli.mistakes import explain
from charlm.cli.output import LogHandler, OutputClosedError, say
from charlm.errors import CharlmError
from charlm.system.processes import is_first_process

app = typer.Typer(
    name="charlm",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("train", cls=train.TrainCommand)(train.train)
app.command("generate")(generate.generate)
app.command("eval")(evaluate.evaluate)
app.command("compare", cls=compare.CompareCommand)(compare.compare)
app.command("score")(score.score)
app.command("classify")(classify.classify)
app.command("neurons")(neurons.neurons)
app.command("info")(info.info)
app.command("runs")(runs.runs)
app.command("plot")(plot.plot)
app.command("export")(export.export)
app.command("serve")(serve.serve)

_options = {"debug": False}


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"charlm {__version__}")  # noqa: T201  # the version goes to stdout
        raise typer.Exit


@app.callback(invoke_without_command=True)
def charlm(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")] = False,
) -> None:
    """Train a character-level LSTM on any text, generate text with it, and evaluate text with it."""
    _options["debug"] = debug
    if context.invoked_subcommand is None:
        print(context.get_help())  # noqa: T201  # help goes to stdout


def main() -> None:
    """Run the command line and exit with its code."""
    _open_missing_streams()
    # SIGTERM becomes an exception, so that temporary folders are removed. Training handles it itself.
    signal.signal(signal.SIGTERM, _exit_on_signal)
    logger = logging.getLogger("charlm")
    logger.addHandler(LogHandler())
    if not is_first_process():
        logger.setLevel(logging.ERROR)
    try:
        code = _run()
        sys.stdout.flush()
    except (OutputClosedError, BrokenPipeError):
        code = _discard_stdout()
    except KeyboardInterrupt:
        code = 130
    _set_handlers(lambda number, frame: os._exit(code))  # unloading torch may take a second
    sys.exit(code)


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    _set_handlers(signal.SIG_IGN)  # a second signal must not interrupt the cleanup
    sys.exit(128 + number)


def _set_handlers(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _open_missing_streams() -> None:
    """Replace streams that were closed before the start (``charlm ... >&-``) by the null device."""
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115  # open until the process ends
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  # likewise
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115  # likewise


def _run() -> int:
    try:
        result: Any = app(standalone_mode=False)
    except CharlmError as error:
        if _options["debug"]:
            raise
        if is_first_process():  # the others would print the same line
            _print_error(str(error))
        return error.exit_code
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # how the parser exits if its help is not read
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
    if hasattr(error, "format_message"):  # an error of the parser, typer's own or click's
        _print_error(explain(error, sys.argv[1:]))
        return int(getattr(error, "exit_code", 2))
    if _is_out_of_memory(error):
        _print_error("out of memory; use a smaller model or --device cpu")
        return 71
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        _print_error(f"{str(error.filename)[:80]}... is too long for a file name; check the name")
        return 66
    if isinstance(error, OSError):
        # All other reads and writes name their file.
        name = error.filename or "stdin or stdout"
        _print_error(f"{name}: {error.strerror or error}; fix this and try again")
        return 74
    if _options["debug"]:
        raise error
    _print_error(f"{type(error).__name__}: {str(error)[:200]}; this is a bug in charlm (charlm --debug shows where)")
    return 1


def _print_error(text: str) -> None:
    """Print one line on stderr. Line ends and escape sequences, which a file name may hold, are escaped."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    say(f"charlm: {shown}")


def _is_out_of_memory(error: Exception) -> bool:
    return (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAlloc" in str(error)
    )


def _discard_stdout() -> int:
    # The reader of stdout has exited (``| head``). Without this, Python reports the broken pipe again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
