"""Runs the command line in another process, and checks what it prints."""

import atexit
import functools
import os
import subprocess
import sys
from pathlib import Path

from prefork import Server

CHARLM = [sys.executable, "-m", "charlm"]
QUICK = ["--size", "tiny", "--batch", "4", "--bptt", "16", "--eval-every", "10", "--threads", "1", "--device", "cpu",
         "--precision", "fp32"]  # fmt: skip


@functools.cache
def prefork_server() -> Server:
    """The process, one for each pytest process, that runs commands in forks."""
    server = Server()
    atexit.register(server.close)
    return server


def charlm(*arguments, stdin=None, cwd=None, **options):
    """Run ``charlm ARGUMENTS``; ``charlm train`` runs in a fork of a process that has imported torch."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    words = [str(argument) for argument in arguments]
    if words[:1] == ["train"]:
        return prefork_server().run(words, cwd or Path.cwd(), environment, stdin)
    return subprocess.run(
        [*CHARLM, *words], input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL,
        capture_output=True, cwd=cwd, env=environment, check=False, timeout=120, **options
    )  # fmt: skip


def one_line(result):
    """The single line on stderr of a command that failed, without a traceback and with nothing on stdout."""
    message = result.stderr.decode()
    assert message.startswith("charlm: "), message
    assert message.count("\n") == 1, message
    assert "Traceback" not in message
    assert len(message) < 400
    assert result.stdout == b""
    return message
