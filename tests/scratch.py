"""Where the tests write: into memory if there is enough, because a disk makes every save wait.

Nothing but a power cut tells the two apart. Those are simulated (``stress/power``), and so are full and broken disks.
"""

import os
import shutil
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")
NEEDED_BYTES = 4 << 30
"""Several times what a run of all tests leaves."""


def use_memory() -> None:
    """Keep temporary files in memory, here and in all processes started from now on, unless TMPDIR says where."""
    if "TMPDIR" not in os.environ and _is_usable(MEMORY):
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None  # it may have been read before


def _is_usable(folder: Path) -> bool:
    """Whether there is enough space in the folder, and programs may run there: tests build some."""
    if not os.access(folder, os.W_OK):
        return False
    return shutil.disk_usage(folder).free >= NEEDED_BYTES and not os.statvfs(folder).f_flag & os.ST_NOEXEC
