"""Unusual and invalid texts, given to everything that reads text.

Any Unicode, surrogates, NUL, SentencePiece's special characters, byte-order marks, mixed line ends, control and escape
sequences, very long lines, empty texts; right and wrong encodings, random and truncated bytes; packed texts, whole and
cut, under any name, and files that are not text.
With any of them, a command succeeds with exact results, or ends with a ``CharlmError`` that says what to do and leaves
no files.
"""

import tempfile
from pathlib import Path
from typing import Any

from stress.hostile_text.changing_files import try_changing_files
from stress.hostile_text.processes import try_processes
from stress.hostile_text.trials import Trials

PROMPT_MB = 100


def run_trials(inputs: int = 10_000, prompt_mb: int = PROMPT_MB, seed: int = 0) -> dict[str, Any]:
    """Try ``inputs`` texts in this process, texts that change while they are read, and unusual processes.

    Without ``prompt_mb`` no process is started.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trials = Trials(folder, seed)
        for number in range(inputs):
            trials.try_input(number)
        changed = try_changing_files(folder, passes=(1, 2, 3) if prompt_mb else (2,))
        processes = try_processes(folder, trials.models, prompt_mb) if prompt_mb else {}
    return {"inputs": inputs, **dict(trials.figures), "other_exceptions": 0, "files_changed": changed, **processes}
