"""Runs charlm's command line in forks of a process that has imported torch but has never computed with it.

Importing torch and its optimizers takes up to three seconds of processor time, which every ``charlm train`` pays again.
Here one process pays it once, and forks for each command. What a command does from its ``main`` on is the same.

``python prefork.py SOCKET`` serves. ``Server.run`` sends a command to it; so does the script that ``Server.install``
writes, which replaces ``charlm`` on PATH.
"""

import contextlib
import importlib
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

IMPORTED_FIRST = ("charlm.cli.train_view", "charlm.runs", "safetensors.numpy", "sentencepiece", "torch._dynamo")
MAX_SECONDS = 120
MAX_BYTES = 1 << 20
"""Of a request: the arguments and the environment of a command."""


# ---------------------------------------------------------------------------------------------------- the clients


def request(address: str, arguments: list[str], cwd: str, environment: dict[str, str], streams: list[int]) -> int:
    """Run a command with three open files as its standard streams; returns its exit code."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_BYTES)
        connection.connect(address)
        message = json.dumps([arguments, cwd, environment]).encode()
        socket.send_fds(connection, [message], streams)
        return int(connection.recv(16))


class Server:
    """The process that forks. It ends with ``close``, or when this process ends."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._address = str(Path(self._folder.name) / "socket")
        command = [sys.executable, __file__, self._address]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # torch reads it when it is imported
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
        while not Path(self._address).exists():
            assert self._process.poll() is None, "the process that forks has ended"
            time.sleep(0.01)

    def run(self, arguments: list[str], cwd: Path, environment: dict[str, str], stdin: bytes | None = None):
        """Like ``subprocess.run``: the exit code and the output of ``charlm ARGUMENTS``, whose stdin is a pipe."""
        with _open_for_reading(stdin) as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
            streams = [file.fileno() for file in (given, out, error)]
            code = request(self._address, arguments, str(cwd), environment, streams)
            for file in (out, error):
                file.seek(0)
            return subprocess.CompletedProcess(arguments, code, out.read(), error.read())

    def install(self, folder: Path, patterns: Iterable[str]) -> None:
        """Write a ``charlm`` into ``folder``, to stand before the real one on PATH.

        It sends a command whose arguments match one of the shell ``patterns`` to this server, and runs the real one
        for all others.
        """
        names = [sys.executable, __file__, self._address, Path(sys.executable).with_name("charlm")]
        python, client, address, charlm = (shlex.quote(str(name)) for name in names)
        script = folder / "charlm"
        script.write_text(
            f'#!/bin/sh\ncase "$*" in\n{"|".join(patterns)}) exec {python} -S -E {client} {address} "$@" ;;\n'
            f'*) exec {charlm} "$@" ;;\nesac\n'
        )
        script.chmod(0o755)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()  # closes its stdin
        self._folder.cleanup()


def _open_for_reading(data: bytes | None) -> BinaryIO:
    """A pipe that holds ``data``, or without data the null device."""
    if data is None:
        return open(os.devnull, "rb")
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as file:
        assert len(data) <= select.PIPE_BUF, "the data must fit into a pipe without a reader"
        file.write(data)
    return os.fdopen(reader, "rb")


# ---------------------------------------------------------------------------------------------------- the server


def serve(address: str) -> None:
    """Fork for each connection, until stdin is closed."""
    for module in IMPORTED_FIRST:
        importlib.import_module(module)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address + ".new")
    listener.listen()
    Path(address + ".new").rename(address)
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if not os.fork():
            listener.close()
            _answer(connection)
        connection.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _answer(connection: socket.socket) -> None:
    """Fork once more for the command, wait for it, and send its exit code."""
    message, streams, _, _ = socket.recv_fds(connection, MAX_BYTES, 3)
    process = os.fork()
    if not process:
        connection.close()
        _be_charlm(*json.loads(message), streams)
    status = os.waitpid(process, 0)[1]
    connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _be_charlm(arguments: list[str], cwd: str, environment: dict[str, str], streams: list[int]) -> None:
    """Become the command: its folder, its environment, its standard streams, its exit code."""
    from charlm.cli import app

    code = 1
    try:
        signal.alarm(MAX_SECONDS)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environment)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        sys.argv = ["charlm", *arguments]
        app.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    else:
        sys.exit(request(sys.argv[1], sys.argv[2:], str(Path.cwd()), dict(os.environ), [0, 1, 2]))
