"""SIGKILL of a random process of a training under torchrun, at a random moment, and signals to torchrun.

With restarts, the training must end with the weights of an undisturbed one; nothing may hang. A signal to torchrun must
save the run once.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from charlm.checkpoint.model_parts import read_model_parts
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.step import ALL_FILES, open_checkpoint
from stress.helpers import restore_signal_handlers

PROCESSES, STEPS = 2, 150
MAX_SECONDS = 60.0
"""Within which a disturbed training must have ended, or gone on."""
MAX_KILLS_OF_A_TRAINING = 3
OPTIONS = (
    "--hidden 24 --layers 2 --batch 4 --bptt 8 --precision fp32 --dropout-output 0.2 --device cpu --eval-every 50 "
    "--save-every 10"
)


def run_trials(kills: int = 100, signals: int = 30, seed: int = 0) -> dict[str, Any]:
    """Kill processes ``kills`` times, and send ``signals`` to torchrun."""
    restore_signal_handlers()
    draw = random.Random(seed)
    figures = {"kills": 0, "trainings": 0, "ends_that_differ": 0, "hangs": 0, "signals": 0, "saved": 0, "nothing": 0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "text.txt"
        text.write_text("".join(draw.choice("abcdefgh ijk\n") for _ in range(20_000)))
        expected = {}
        for form in ("streams", "lines"):
            run = folder / form
            began = time.monotonic()
            assert _launch(text, run, form, 0).wait(10 * MAX_SECONDS) == 0
            duration = time.monotonic() - began
            expected[form] = _weights(run)
        while figures["kills"] < kills:
            form = draw.choice(list(expected))
            run = folder / "run"
            figures["kills"] += _killed(text, run, form, duration, draw, figures)
            figures["trainings"] += 1
            figures["ends_that_differ"] += _weights(run) != expected[form]
            shutil.rmtree(run)
        for number in range(signals):
            sent = (signal.SIGTERM, signal.SIGINT)[number % 2]
            _stopped(text, folder / "run", sent, draw.uniform(0.5, duration), figures)
    return {**figures, "max_seconds": MAX_SECONDS}


def _launch(text: Path, run: Path, form: str, restarts: int, steps: int = STEPS) -> "subprocess.Popen[str]":
    line = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}",
        f"--max-restarts={restarts}", "--monitor-interval=0.1", "-m", "charlm", "train", str(text), "--out", str(run),
        "--steps", str(steps), *OPTIONS.split(), *(["--documents", "lines"] if form == "lines" else []), "--quiet",
    ]  # fmt: skip
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)


def _killed(text: Path, run: Path, form: str, duration: float, draw: random.Random, figures: dict[str, int]) -> int:
    """Train with kills at random moments of ``duration`` seconds; returns how many hit a process."""
    process, kills = _launch(text, run, form, MAX_KILLS_OF_A_TRAINING), 0
    for _ in range(draw.randint(1, MAX_KILLS_OF_A_TRAINING)):
        time.sleep(draw.uniform(0.1, duration))
        if process.poll() is not None:
            break
        if workers := _workers(process.pid):
            os.kill(draw.choice(workers), signal.SIGKILL)
            kills += 1
    if not _ends(process, duration + MAX_SECONDS):
        figures["hangs"] += 1
    assert process.returncode == 0, _said(process)
    return kills


def _stopped(text: Path, run: Path, number: signal.Signals, moment: float, figures: dict[str, int]) -> None:
    process = _launch(text, run, "streams", 0, steps=10**6)
    time.sleep(moment)
    (os.kill if number == signal.SIGTERM else os.killpg)(process.pid, number)
    if not _ends(process, MAX_SECONDS):
        figures["hangs"] += 1
    said = _said(process)
    figures["signals"] += 1
    if match := re.search(r"stopped and saved at step (\d+)", said):
        figures["saved"] += 1
        assert RunFolder(run).step_numbers()[-1] == int(match[1]), said
        assert open_checkpoint(run, "latest", ALL_FILES).step == int(match[1])
    else:
        figures["nothing"] += 1
        assert not RunFolder(run).step_numbers(), said
    shutil.rmtree(run, ignore_errors=True)


def _ends(process: "subprocess.Popen[str]", seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False
    return True


def _said(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    return process.stderr.read()


def _workers(torchrun: int) -> list[int]:
    """The process numbers of what torchrun has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == torchrun and b"charlm" in (folder / "cmdline").read_bytes():
            found.append(int(folder.name))
    return found


def _weights(run: Path) -> dict[str, bytes]:
    parts = read_model_parts(open_checkpoint(run, "latest"))
    return {name: array.tobytes() for name, array in parts.weights.items()}
