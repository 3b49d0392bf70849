"""Runs the command line in another process, and checks what it prints."""

import atexit
import contextlib
import functools
import os
import subprocess
import sys
from pathlib import Path

from prefork import ADDRESS, Client, Server

CAN_FORK = sys.platform == "linux"
CHARLM = [sys.executable, "-m", "charlm"]
QUICK = ["--size", "tiny", "--batch", "4", "--bptt", "16", "--eval-every", "10", "--threads", "1", "--device", "cpu",
         "--precision", "fp32"]  # fmt: skip


@functools.cache
def prefork_server() -> Client:
    """The process that runs commands in forks: one for all workers of pytest-xdist (see ``conftest.py``)."""
    if ADDRESS in os.environ:
        return Client(os.environ[ADDRESS])
    server = Server()
    atexit.register(server.close)
    return server


def charlm(*arguments, stdin=None, cwd=None, env=None):
    """Run ``charlm ARGUMENTS``, in a fork where that does the same.

    With ``env``, variables to add to the environment, it is a new process, because Python reads some when it starts.
    """
    words, folder = [str(argument) for argument in arguments], cwd or Path.cwd()
    if CAN_FORK and env is None:
        return prefork_server().run(words, folder, {**os.environ, "OMP_NUM_THREADS": "1"}, stdin)
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    return subprocess.run(
        [*CHARLM, *words], input=stdin or b"", capture_output=True, cwd=folder, env=variables, check=False, timeout=120
    )


def start(*arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=None):
    """Start ``charlm ARGUMENTS`` with files as its streams; returns a ``prefork.Process`` or a ``Popen``."""
    words, folder = [str(argument) for argument in arguments], cwd or Path.cwd()
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    given = (stdin, stdout, stderr)
    if not CAN_FORK:
        streams = dict(zip(("stdin", "stdout", "stderr"), given, strict=True))
        return subprocess.Popen([*CHARLM, *words], cwd=folder, env=variables, **streams)
    with open(os.devnull, "r+b") as nothing:
        streams = [nothing if stream == subprocess.DEVNULL else stream for stream in given]
        numbers = [stream if isinstance(stream, int) else stream.fileno() for stream in streams]
        return prefork_server().start(words, folder, variables, numbers)


@contextlib.contextmanager
def pipe(*arguments, name="stderr", **streams):
    """Start ``charlm ARGUMENTS``; yields the process, and the file at the other end of its stream ``name``.

    It is killed at the end.
    """
    reader, writer = os.pipe()
    inside, outside, mode = (reader, writer, "wb") if name == "stdin" else (writer, reader, "rb")
    with open(outside, mode, buffering=0 if mode == "wb" else -1) as file:
        process = start(*arguments, **{name: inside}, **streams)
        os.close(inside)
        try:
            yield process, file
        finally:
            process.kill()
            process.wait()


def one_line(result):
    """The single line on stderr of a command that failed, without a traceback and with nothing on stdout."""
    message = result.stderr.decode()
    assert message.startswith("charlm: "), message
    assert message.count("\n") == 1, message
    assert "Traceback" not in message
    assert len(message) < 400
    assert result.stdout == b""
    return message
