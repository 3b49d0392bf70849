"""Runs charlm's command line in forks of a process that has imported torch but has never computed with it.

Importing torch and its optimizers takes up to three seconds of processor time, which every ``charlm train`` pays again,
and other commands a third of a second. Here one process pays it once, and forks for each command. What a command does
from its ``main`` on is the same, except that ``charlm compare`` measures speeds in less time.

``python prefork.py SOCKET`` serves. ``Client.run`` and ``start`` send a command to it; so does the script that
``install`` writes, which replaces ``charlm`` on PATH.
"""

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import BinaryIO

IMPORTED_FIRST = (
    "safetensors.numpy", "sentencepiece", "torch._dynamo", "pydantic", "matplotlib.figure",
    "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "uvicorn.lifespan.on",
    "uvicorn.loops.asyncio",
)  # fmt: skip
"""What the commands import beside all of charlm, as far as it is installed."""
ADDRESS = "PREFORK_ADDRESS"
"""The variable of the environment that has the address of a server, if there is one already."""
SPEED_SECONDS = 0.005
"""How long ``charlm compare`` generates to measure a speed, a tenth of the usual; no test depends on the speeds."""
MAX_SECONDS, MAX_SECONDS_STARTED = 120, 1800
"""After which a command is killed that is waited for, or that runs beside the tests."""
MAX_BYTES = 1 << 20
"""Of a request: the arguments and the environment of a command."""


# ---------------------------------------------------------------------------------------------------- the clients


class Process:
    """A command that runs in a fork: like ``subprocess.Popen``, as far as the tests use it."""

    def __init__(
        self, address: str, arguments: list[str], cwd: str, environment: dict[str, str], streams: list[int], limit: int
    ) -> None:
        self.returncode: int | None = None
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_BYTES)
        self._connection.connect(address)
        message = json.dumps([arguments, cwd, environment, limit]).encode()
        socket.send_fds(self._connection, [message], streams)
        self.pid = int(self._connection.recv(16))

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, minus the number of the signal that has killed it; raises ``TimeoutExpired``."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("charlm", timeout or 0)
            self.returncode = int(self._connection.recv(16))
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # its exit code is on its way
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.send_signal(signal.SIGKILL)


class Client:
    """Uses the server at an address, which may still be starting."""

    def __init__(self, address: str) -> None:
        self.address = address

    def _check(self) -> None:
        """Raise if the server has ended."""

    def _wait(self) -> None:
        end = time.monotonic() + MAX_SECONDS
        while not Path(self.address).exists():
            self._check()
            assert time.monotonic() < end, "there is no process that forks"
            time.sleep(0.01)

    def run(self, arguments: list[str], cwd: Path, environment: dict[str, str], stdin: bytes | None = None):
        """Like ``subprocess.run``: the exit code and the output of ``charlm ARGUMENTS``, whose stdin is a pipe."""
        self._wait()
        with _open_for_reading(stdin) as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
            streams = [file.fileno() for file in (given, out, error)]
            code = Process(self.address, arguments, str(cwd), environment, streams, MAX_SECONDS).wait()
            for file in (out, error):
                file.seek(0)
            return subprocess.CompletedProcess(arguments, code, out.read(), error.read())

    def start(self, arguments: list[str], cwd: Path, environment: dict[str, str], streams: list[int]) -> Process:
        """Start a command with three open files as its standard streams."""
        self._wait()
        return Process(self.address, arguments, str(cwd), environment, streams, MAX_SECONDS_STARTED)

    def install(self, folder: Path) -> None:
        """Write a ``charlm``, to stand before the real one on PATH, that sends all commands to the server."""
        self._wait()
        python, client, address = map(shlex.quote, (sys.executable, __file__, self.address))
        script = folder / "charlm"
        script.write_text(f'#!/bin/sh\nexec {python} -S -E {client} {address} "$@"\n')
        script.chmod(0o755)


class Server(Client):
    """Starts the process that forks, which ends with ``close``, or when this process ends."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        super().__init__(str(Path(self._folder.name) / "socket"))
        command = [sys.executable, __file__, self.address]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # torch reads it when it is imported
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)

    def _check(self) -> None:
        assert self._process.poll() is None, "the process that forks has ended"

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
    _import_all()
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


def _import_all() -> None:
    import charlm
    from charlm.evaluation import comparison

    modules = [module.name for module in pkgutil.walk_packages(charlm.__path__, "charlm.")]
    for name in (*IMPORTED_FIRST, *modules):
        if not name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # of what is not installed, and of the engine, which is no module
                importlib.import_module(name)
    comparison._SPEED_SECONDS = SPEED_SECONDS
    gc.freeze()  # else each fork would copy the memory of all modules when it collects garbage


def _answer(connection: socket.socket) -> None:
    """Fork once more for the command; send its process number, and its exit code when it has ended."""
    message, streams, _, _ = socket.recv_fds(connection, MAX_BYTES, 3)
    process = os.fork()
    if not process:
        connection.close()
        _be_charlm(*json.loads(message), streams)
    for stream in streams:
        os.close(stream)
    connection.send(str(process).encode())
    status = os.waitpid(process, 0)[1]
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _be_charlm(arguments: list[str], cwd: str, environment: dict[str, str], limit: int, streams: list[int]) -> None:
    """Become the command: its folder, its environment, its standard streams, its exit code."""
    from charlm.cli import app

    code = 1
    try:
        signal.alarm(limit)
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
    with contextlib.suppress(OSError):  # Python does not end with an error where stderr cannot be written
        sys.stderr.flush()
    try:
        sys.stdout.flush()
    except OSError:
        code = 120  # as Python itself ends
    os._exit(code)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    else:
        sys.exit(Process(sys.argv[1], sys.argv[2:], str(Path.cwd()), dict(os.environ), [0, 1, 2], MAX_SECONDS).wait())
