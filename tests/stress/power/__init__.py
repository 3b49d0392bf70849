"""Power cuts: what of a run survives when everything that was not synced may be gone.

The calls to the file system that trainings make are recorded, with their data. A power cut at any point of the record
leaves what was synced before; of the rest it leaves what it likes: a file's unsynced data may be lost, cut or zero, and
of a folder's unsynced creations, renames and removals only the first few, or (harder) any of them, may have happened.
In each such state the run must open at the last step that was reported as saved, with the bytes that were saved.
"""

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from stress.helpers import SCRATCH, without_warnings
from stress.power.checks import Found, Promises, look
from stress.power.saves import Record, recorded, saves, train
from stress.power.simulator import Disk
from stress.recorder import Call

SEQUENCES = 10


def run_trials(states: int = 2000) -> dict[str, int]:
    """``states`` power cuts over ``SEQUENCES`` sequences of saves, and a fifth as many over a whole training."""
    with without_warnings(), tempfile.TemporaryDirectory(dir=SCRATCH) as home:
        folder = Path(home).resolve()
        records = [
            recorded(folder / f"saves-{seed}", lambda run, seed=seed: saves(run, seed)) for seed in range(SEQUENCES)
        ]
        trained = recorded(folder / "training", train)
        truth = _cuts(records, states, folder)
        whole = _cuts([trained], states // 5, folder, "checkpoints/run", corpus=True)
        no_folders = _cuts(
            records, states // 5, folder, forgets=lambda call: call.name == "fsync" and not call.path.parts
        )
        no_files = _cuts(
            records, states // 5, folder, forgets=lambda call: call.name == "fsync" and len(call.path.parts) == 2
        )
    for found in (truth, whole):
        assert (found.lost, found.corrupt, found.left_over) == (0, 0, 0), found
    assert min(no_folders.lost, no_files.lost) > 0, (no_folders, no_files)
    assert no_files.corrupt == no_folders.corrupt == 0, "digests must tell"
    return {
        "states": truth.states,
        "states_with_damaged_steps": truth.damaged,
        "acknowledged_lost": truth.lost,
        "corrupt_loaded": truth.corrupt,
        "whole_run_states": whole.states,
        "whole_runs_lost": whole.lost,
        "without_directory_sync_states": no_folders.states,
        "without_directory_sync_lost": no_folders.lost,
        "without_file_sync_lost": no_files.lost,
    }


def _cuts(
    records: list[Record],
    states: int,
    folder: Path,
    run: str = "",
    corpus: bool = False,
    forgets: Callable[[Call], bool] = lambda call: False,
) -> Found:
    """Cut the power ``states`` times, half of them in order; calls that the disk ``forgets`` have no effect."""
    found = Found()
    for number in range(states):
        draw = random.Random(number)
        record = records[number % len(records)]
        disk, promises = Disk(), Promises()
        for entry in record[: draw.randint(0, len(record))]:
            if not isinstance(entry, Call):
                promises.note(entry)
            elif not forgets(entry):
                disk.make(entry)
        disk.cut(folder / "state", draw, in_order=number // len(records) % 2 == 0)
        look(folder / "state" / run, promises, corpus, found)
        shutil.rmtree(folder / "state")
    return found
