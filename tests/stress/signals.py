"""Ctrl-C and SIGTERM at any moment of a command: it ends soon, without a traceback, and loses nothing.

A training saves its weights and prints how to resume; if it had not trained a step, it leaves no run. A second signal
ends the command at once. Signals before charlm's ``main`` are handled by Python; they are counted separately.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from commands import charlm as charlm_command
from commands import one_line

import charlm
from charlm import runs
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.step import ALL_FILES, open_checkpoint
from stress.helpers import restore_signal_handlers

CHARLM = [sys.executable, "-m", "charlm"]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
MAX_SECONDS_TRAINING, MAX_SECONDS_OTHER, MAX_SECONDS_AFTER_SECOND = 5.0, 2.0, 1.0
"""Seconds from a signal to the end of a training, of other commands, and after a second signal."""
SECONDS_OF_AN_ECHO = 0.15
"""Seconds within which a second signal counts as a repetition of the first (``charlm.system.signals``)."""
MAX_SECONDS_BEFORE_MAIN = 1.5
"""Python must have reached charlm's main after this many seconds, even on a busy machine."""
FORMS = (None, "lines")
QUICK = [
    "--layers", "1", "--hidden", "32", "--batch", "8", "--bptt", "32", "--eval-every", "40", "--save-every", "25",
    "--steps", "1000000", "--device", "cpu", "--threads", "1", "--quiet",
]  # fmt: skip


def run_trials(
    moments: int = 50, twice: int = 10, megabytes: int = 24, seconds: float = 3.0, others: bool = True, seed: int = 0
) -> dict[str, Any]:
    """Interrupt ``moments`` trainings once and ``twice`` trainings twice; with ``others`` the other commands as well.

    Half of the moments come before the first step, half of them in the ``seconds`` after it.
    """
    restore_signal_handlers()
    figures: Counter[str] = Counter(dict.fromkeys(["before_main", "nothing_trained", "saved", "resumed"], 0))
    times: dict[str, list[float]] = {"train": [], "twice": [], "others": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = _text(folder, megabytes)
        code, ready = _second_trainer(folder, text)
        for number in range(moments):
            draw = random.Random(f"{seed} {number}")
            times["train"].append(_stopped_once(folder, text, _trial(draw, number, ready, seconds), figures))
        for number in range(twice):
            draw = random.Random(f"{seed} twice {number}")
            times["twice"].append(_stopped_twice(folder, text, _trial(draw, number, ready, seconds), draw))
        if others:
            figures["doubled_signals"] = _signals_sent_twice(folder, text, moments // 10)
            times["others"] = _other_commands(folder, text, random.Random(seed), max(1, moments // 5), figures)
    longest = {f"max_seconds_{name}": round(max(found), 2) for name, found in times.items() if found}
    return {
        "moments": moments,
        "moments_of_others": len(times["others"]),
        "stopped_twice": len(times["twice"]),
        **figures,
        "max_seconds": longest["max_seconds_train"],
        **longest,
        "second_trainer_exit_code": code,
    }


class Trial(NamedTuple):
    """A signal ``moment`` seconds after the start, or after the first saved step, of a training on documents."""

    number: signal.Signals
    moment: float
    form: str | None
    after_step: bool = False

    def wait(self, process: subprocess.Popen[bytes], run: Path, stderr_path: Path) -> None:
        """Return at the moment of the signal."""
        if self.after_step:
            _wait_for_step(process, run, stderr_path)
        time.sleep(self.moment)


def _trial(draw: random.Random, number: int, ready: float, seconds: float) -> Trial:
    after_step = number % 2 == 0
    moment = draw.uniform(0, seconds if after_step else ready)
    return Trial(draw.choice(list(CODES)), moment, FORMS[number // 2 % len(FORMS)], after_step)


def _text(folder: Path, megabytes: int) -> Path:
    """Lines of random words; preparing 24 MB takes about a second."""
    draw = random.Random(1)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 8))) for _ in range(400)]
    block = "".join(" ".join(draw.choices(words, k=draw.randint(1, 12))) + "\n" for _ in range(20_000))
    path = folder / "text.txt"
    path.write_text(block * max(1, megabytes * 1_000_000 // len(block)))
    return path


def _training(text: Path, run: Path, form: str | None) -> list[str]:
    documents = [] if form is None else ["--documents", form]
    return [*CHARLM, "train", str(text), "--out", str(run), *QUICK, *documents]


@contextlib.contextmanager
def _started(command: Sequence[str], folder: Path, **streams: Any) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process whose stderr is written to a file; it is killed at the end."""
    stderr_path = folder / "stderr"
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1", "TMPDIR": str(_temporary(folder))}
    with open(stderr_path, "wb") as stderr:
        process = subprocess.Popen(
            command,
            stderr=stderr,
            env=variables,
            cwd=folder,
            **{"stdin": subprocess.DEVNULL, **streams},
        )
        try:
            yield process, stderr_path
        finally:
            process.kill()
            process.wait()


def _temporary(folder: Path) -> Path:
    (folder / "tmp").mkdir(exist_ok=True)
    return folder / "tmp"


def _wait(process: subprocess.Popen[bytes], limit: float, stderr_path: Path, about: Any) -> float:
    """Seconds until the process has ended; raises with its Python stack if it takes longer than ``limit``."""
    start = time.monotonic()
    try:
        process.wait(limit)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # faulthandler prints the stack
        process.wait()
        raise AssertionError(f"{about}: still there after {limit} s: {stderr_path.read_text()}") from None
    return time.monotonic() - start


def _wait_for_step(process: subprocess.Popen[bytes], run: Path, stderr_path: Path) -> None:
    while not RunFolder(run).step_numbers():
        assert process.poll() is None, stderr_path.read_text()
        time.sleep(0.01)


# ---------------------------------------------------------------------------------------------------- one signal


def _stopped_once(folder: Path, text: Path, trial: Trial, figures: Counter[str]) -> float:
    run = folder / "runs" / "run"
    with _started(_training(text, run, trial.form), folder) as (process, stderr_path):
        trial.wait(process, run, stderr_path)
        process.send_signal(trial.number)
        seconds = _wait(process, MAX_SECONDS_TRAINING, stderr_path, trial)
        code = process.returncode
    message = stderr_path.read_text()
    if _was_before_main(code, message):
        _check_before_main(trial, message, figures)
        assert not run.exists(), trial
        return seconds
    assert code == CODES[trial.number], (trial, code, message)
    _check_quiet(message, trial)
    _check_saved(run, message, trial, figures)
    return seconds


def _was_before_main(code: int, message: str) -> bool:
    """Whether the signal came before charlm's main: it killed Python, or made its start fail."""
    return code < 0 or (code == 1 and "Failed to import the site module" in message)


def _check_before_main(trial: Trial, message: str, figures: Counter[str]) -> None:
    assert not trial.after_step and trial.moment < MAX_SECONDS_BEFORE_MAIN, (trial, message)
    figures["before_main"] += 1
    figures["before_main_with_traceback"] += "Traceback" in message


def _check_quiet(message: str, about: Any) -> None:
    assert "Traceback" not in message, (about, message)
    assert "Exception ignored" not in message, (about, message)
    assert message.count("\n") <= 2, (about, message)


def _check_saved(run: Path, message: str, trial: Trial, figures: Counter[str]) -> None:
    """Check that there is a run that resumes from the printed step, or no run at all."""
    match = re.search(r"stopped and saved at step (\d+); continue with: .*charlm train --resume --out (.+)", message)
    if match is None:
        assert not run.parent.exists(), (trial, message, sorted(run.parent.rglob("*")))
        figures["nothing_trained"] += 1
        return
    step = int(match[1])
    assert RunFolder(run).step_numbers()[-1] == step, (trial, message, RunFolder(run).step_numbers())
    assert open_checkpoint(run, "latest", ALL_FILES).step == step
    assert not list(run.glob(".unfinished*")) and not list(run.glob(".deleted*")), (trial, sorted(run.iterdir()))
    figures["saved"] += 1
    _check_resumes(run, step, in_process=figures["saved"] % 5 != 0)
    figures["resumed"] += 1
    shutil.rmtree(run.parent)


def _check_resumes(run: Path, step: int, in_process: bool = True) -> None:
    if in_process:
        assert runs.resume(run, steps=step + 2, threads=1).step == step + 2
    else:
        command = [*CHARLM, "train", "--resume", "--out", str(run), "--steps", str(step + 2), "--quiet"]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=60)
    assert RunFolder(run).step_numbers()[-1] == step + 2


# ---------------------------------------------------------------------------------------------------- two signals


def _stopped_twice(folder: Path, text: Path, trial: Trial, draw: random.Random) -> float:
    """Send two signals, the second later than a repetition; steps saved before the first must still open."""
    run = folder / "runs" / "run"
    with _started(_training(text, run, trial.form), folder) as (process, stderr_path):
        trial.wait(process, run, stderr_path)
        steps = RunFolder(run).step_numbers()
        process.send_signal(trial.number)
        time.sleep(draw.uniform(SECONDS_OF_AN_ECHO, 0.6))
        process.send_signal(draw.choice(list(CODES)))
        seconds = _wait(process, MAX_SECONDS_AFTER_SECOND, stderr_path, trial)
        code = process.returncode
    message = stderr_path.read_text()
    # The second may kill Python while it shuts down after the first: a shell sees the same code.
    assert code in CODES.values() or -code in CODES or _was_before_main(code, message), (trial, code, message)
    if trial.after_step or trial.moment >= MAX_SECONDS_BEFORE_MAIN:
        _check_quiet(message, trial)
    if steps:
        step = open_checkpoint(run, "latest", ALL_FILES).step
        assert step >= steps[-1], (trial, step, steps)
        _check_resumes(run, step)
    elif not RunFolder(run).step_numbers():  # a partial start must not prevent a new training
        _train_again(folder, run)
    shutil.rmtree(run.parent, ignore_errors=True)
    return seconds


def _train_again(folder: Path, run: Path) -> None:
    small = folder / "small.txt"
    small.write_text("the cat sat on a mat\n" * 100)
    charlm.train(small, out=run, steps=2, layers=1, hidden=8, device="cpu", threads=1)
    charlm.load(run, device="cpu").generate("the", 3)


def _signals_sent_twice(folder: Path, text: Path, trials: int) -> int:
    """Check that a signal sent twice at once counts as one, and the training is saved.

    ``timeout`` sends every signal twice, and so does a terminal that closes.
    """
    for number in range(trials):
        run = folder / "runs" / "run"
        with _started(_training(text, run, None), folder) as (process, stderr_path):
            while not RunFolder(run).step_numbers():
                time.sleep(0.05)
            time.sleep(0.1 * number)
            for _ in range(2):
                process.send_signal(signal.SIGTERM)
                time.sleep(0.0005 * number)
            _wait(process, MAX_SECONDS_TRAINING, stderr_path, "a doubled signal")
        message = stderr_path.read_text()
        assert process.returncode == CODES[signal.SIGTERM], (process.returncode, message)
        assert "stopped and saved" in message, message
        shutil.rmtree(run.parent)
    return trials


# ---------------------------------------------------------------------------------------------------- two trainers


def _second_trainer(folder: Path, text: Path) -> tuple[int, float]:
    """Check that a second trainer on a run is refused in one line, and the first continues.

    Returns the exit code of the second, and after how many seconds the first had saved a step.
    """
    run = folder / "runs" / "run"
    codes = set()
    start = time.monotonic()
    with _started(_training(text, run, None), folder) as (process, stderr_path):
        while not (run / "corpus").exists():
            assert process.poll() is None, stderr_path.read_text()
            time.sleep(0.01)
        codes.add(_refused("train", text, "--out", run, *QUICK))  # while it prepares
        _wait_for_step(process, run, stderr_path)
        ready = time.monotonic() - start
        codes.add(_refused("train", "--resume", "--out", run))
        codes.add(_refused("train", text, "--out", run, *QUICK))
        assert process.poll() is None
    (code,) = codes
    _check_resumes(run, RunFolder(run).step_numbers()[-1])
    shutil.rmtree(run.parent)
    return code, ready


def _refused(*arguments: Any) -> int:
    result = charlm_command(*arguments)
    message = one_line(result)
    assert result.returncode == 73, (result.returncode, message)
    return result.returncode


# ---------------------------------------------------------------------------------------------------- other commands


def _other_commands(folder: Path, text: Path, draw: random.Random, moments: int, figures: Counter[str]) -> list[float]:
    """Stop generating, evaluating and scoring, each at ``moments`` random moments."""
    small, run = folder / "small.txt", folder / "model"
    small.write_text("the cat sat on a mat\n" * 1000)
    charlm.train(small, out=run, steps=20, layers=1, hidden=256, device="cpu", threads=1)
    where = ["-c", str(run), "--threads", "1"]
    commands = {
        "generate": ["generate", "-n", "1000000000", "-p", "the", *where],
        "samples": ["generate", "-n", "100000", "--samples", "100000", "-p", "the", *where],
        "eval": ["eval", str(text), *where],
        "eval from a pipe": ["eval", "-", *where],
        "score": ["score", str(text), "--documents", "lines", *where],
        "score from a pipe": ["score", "--documents", "lines", "--top", "3", *where],
        "page": ["score", str(text), "--documents", "lines", "--html", str(folder / "page.html"), *where],
    }
    return [
        _stopped_other(folder, text, name, command, Trial(number, draw.uniform(0, 2), None), figures)
        for name, command in commands.items()
        for _ in range(moments)
        for number in CODES
    ]


def _stopped_other(
    folder: Path, text: Path, name: str, command: list[str], trial: Trial, figures: Counter[str]
) -> float:
    streams: dict[str, Any] = {"stdout": subprocess.DEVNULL}
    with (
        open(text, "rb") as stdin,
        _started([*CHARLM, *command], folder, **streams, **({"stdin": stdin} if "pipe" in name else {})) as (
            process,
            stderr_path,
        ),
    ):
        time.sleep(trial.moment)
        process.send_signal(trial.number)
        seconds = _wait(process, MAX_SECONDS_OTHER, stderr_path, (name, trial))
        code = process.returncode
    message = stderr_path.read_text()
    if _was_before_main(code, message):
        _check_before_main(trial, message, figures)
    else:
        assert code == CODES[trial.number], (name, trial, code, message)
        _check_quiet(message, (name, trial))
    left = [path for path in (*_temporary(folder).iterdir(), *folder.glob("*page.html*")) if "torch" not in path.name]
    assert not left, (name, trial, left)
    return seconds
