"""Texts that nobody would call texts, through everything that reads one.

Any Unicode, halves of characters, NUL, SentencePiece's own marks, byte-order marks, mixed line ends, control and escape
sequences, very long lines, nothing at all; right and wrong encodings, random and cut bytes, cut gzip files. Whatever
comes, a command succeeds and is exact, or ends with a ``CharlmError`` that says what to do, and leaves nothing behind.
"""

import tempfile
from pathlib import Path
from typing import Any

from stress.hostile_text.changing_files import try_changing_files
from stress.hostile_text.processes import try_processes
from stress.hostile_text.trials import Bench

PROMPT_MB = 100


def run_trials(inputs: int = 10_000, prompt_mb: int = PROMPT_MB, seed: int = 0) -> dict[str, Any]:
    """``inputs`` texts in this process, some processes with odd arguments and streams, and changing files.

    Without a ``prompt_mb`` no process is started.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Bench(folder, seed)
        for number in range(inputs):
            bench.try_input(number)
        changed = try_changing_files(folder, passes=(1, 2, 3) if prompt_mb else (2,))
        processes = try_processes(folder, bench.models, prompt_mb) if prompt_mb else {}
    return {"inputs": inputs, **dict(bench.figures), "other_exceptions": 0, "files_changed": changed, **processes}
