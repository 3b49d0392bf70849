"""Commands that a message suggests, as they can be typed into the shell."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def shell_command(*arguments: str | Path, processes: int | None = None) -> str:
    """The command that runs charlm with these arguments, quoted for a POSIX shell.

    charlm is called as it was for this process: by its name if the shell finds the same program on the PATH, otherwise
    by its path or as ``python -m charlm``. torchrun starts so many ``processes`` on a machine.
    """
    program = _program() if processes is None else ["torchrun", f"--nproc-per-node={processes}", "-m", "charlm"]
    return " ".join([*program, *(shlex.quote(str(argument)) for argument in arguments)])


def _program() -> list[str]:
    started = Path(sys.argv[0])
    if started.name == "__main__.py":
        return [shlex.quote(sys.orig_argv[0]), "-m", "charlm"]
    on_path = shutil.which("charlm")
    if started.stem != "charlm" or (on_path and os.path.realpath(on_path) == os.path.realpath(started)):
        return ["charlm"]
    return [shlex.quote(sys.argv[0])]
