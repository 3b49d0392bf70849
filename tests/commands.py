"""Runs the command line in a process of its own, and looks at what it says."""

import os
import subprocess
import sys

CHARLM = [sys.executable, "-m", "charlm"]
QUICK = ["--size", "tiny", "--batch", "4", "--bptt", "16", "--eval-every", "10", "--threads", "1", "--device", "cpu",
         "--precision", "fp32"]  # fmt: skip


def charlm(*arguments, stdin=None, cwd=None, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    return subprocess.run(
        [*CHARLM, *map(str, arguments)], input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL,
        capture_output=True, cwd=cwd, env=environment, check=False, timeout=120, **options
    )  # fmt: skip


def one_line(result):
    """The single line of stderr of a command that failed, without a traceback, and with nothing on stdout."""
    said = result.stderr.decode()
    assert said.startswith("charlm: "), said
    assert said.count("\n") == 1, said
    assert "Traceback" not in said
    assert len(said) < 400
    assert result.stdout == b""
    return said
