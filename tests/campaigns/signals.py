"""Ctrl-C and SIGTERM at any moment of a command, from its first millisecond: it ends soon, quietly, and loses nothing.

A training saves what it learnt and says how to go on; one that had learnt nothing leaves nothing. A second signal
leaves at once. Before Python has come to charlm's ``main`` a signal is Python's affair; that is counted apart.
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

import charlm
from campaigns.surroundings import let_children_heed_signals
from charlm import runs
from charlm.checkpoint.step import ALL_FILES, open_checkpoint, step_numbers

CHARLM = [sys.executable, "-m", "charlm"]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
SOON, SOON_WITHOUT_TRAINING, AT_ONCE = 5.0, 2.0, 1.0
"""Seconds from a signal to the end: of a training, of other commands, and after a second signal."""
ECHO = 0.15
"""Seconds within which a second signal may be the echo of the first (``charlm.system.signals``)."""
MAIN_BEGINS = 1.5
"""After so many seconds Python must have come to charlm's main, on a busy machine, too."""
FORMS = (None, "lines")
QUICK = [
    "--layers", "1", "--hidden", "32", "--batch", "8", "--bptt", "32", "--eval-every", "40", "--save-every", "25",
    "--steps", "1000000", "--device", "cpu", "--threads", "1", "--quiet",
]  # fmt: skip


def campaign(moments: int = 50, megabytes: int = 24, others: bool = True, seed: int = 0) -> dict[str, Any]:
    """``moments`` trainings stopped once, then some stopped twice; with ``others`` the other commands as well."""
    let_children_heed_signals()
    figures: Counter[str] = Counter(dict.fromkeys(["before_main", "nothing_trained", "saved", "resumed"], 0))
    times: dict[str, list[float]] = {"train": [], "twice": [], "others": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = _text(folder, megabytes)
        ready = _seconds_to_first_step(folder, text)
        for number in range(moments):
            draw = random.Random(f"{seed} {number}")
            # Half of the moments before the first step, half of them while it trains, evaluates and saves.
            moment = draw.uniform(0, ready) if number % 2 else draw.uniform(ready, ready + 3)
            times["train"].append(_stopped_once(folder, text, _trial(draw, number, moment), figures))
        for number in range(moments // 5):
            draw = random.Random(f"{seed} twice {number}")
            moment = draw.uniform(0, ready) if number % 2 else draw.uniform(ready, ready + 3)
            times["twice"].append(_stopped_twice(folder, text, _trial(draw, number, moment), draw))
        code = _second_trainer(folder, text)
        if others:
            figures["doubled_signals"] = _doubled(folder, text, moments // 10)
            times["others"] = _others(folder, text, random.Random(seed), max(1, moments // 5), figures)
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
    """A signal after ``moment`` seconds of a training on documents of ``form``."""

    number: signal.Signals
    moment: float
    form: str | None


def _trial(draw: random.Random, number: int, moment: float) -> Trial:
    return Trial(draw.choice(list(CODES)), moment, FORMS[number // 2 % len(FORMS)])


def _text(folder: Path, megabytes: int) -> Path:
    """Lines of random words, enough of them that preparing takes about a second."""
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
    """A process whose stderr goes to a file; it is not alive any more afterwards."""
    said = folder / "stderr"
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1", "TMPDIR": str(_temporary(folder))}
    with open(said, "wb") as stderr:
        process = subprocess.Popen(
            command,
            stderr=stderr,
            env=variables,
            cwd=folder,
            **{"stdin": subprocess.DEVNULL, **streams},
        )
        try:
            yield process, said
        finally:
            process.kill()
            process.wait()


def _temporary(folder: Path) -> Path:
    (folder / "tmp").mkdir(exist_ok=True)
    return folder / "tmp"


def _wait(process: subprocess.Popen[bytes], limit: float, said_in: Path, about: Any) -> float:
    """Seconds until the process has ended, at most ``limit``; if it has not, where in Python it was."""
    began = time.monotonic()
    try:
        process.wait(limit)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # faulthandler then tells
        process.wait()
        raise AssertionError(f"{about}: still there after {limit} s: {said_in.read_text()}") from None
    return time.monotonic() - began


def _seconds_to_first_step(folder: Path, text: Path) -> float:
    run = folder / "run"
    began = time.monotonic()
    with _started(_training(text, run, None), folder) as (process, said):
        while not step_numbers(run):
            assert process.poll() is None, said.read_text()
            time.sleep(0.01)
        ready = time.monotonic() - began
    shutil.rmtree(run)
    return ready


# ---------------------------------------------------------------------------------------------------- one signal


def _stopped_once(folder: Path, text: Path, trial: Trial, figures: Counter[str]) -> float:
    run = folder / "runs" / "run"
    with _started(_training(text, run, trial.form), folder) as (process, said_in):
        time.sleep(trial.moment)
        process.send_signal(trial.number)
        seconds = _wait(process, SOON, said_in, trial)
        code = process.returncode
    said = said_in.read_text()
    if _was_python(code, said):
        _check_before_main(trial, said, figures)
        assert not run.exists(), trial
        return seconds
    assert code == CODES[trial.number], (trial, code, said)
    _check_quiet(said, trial)
    _check_saved(run, said, trial, figures)
    return seconds


def _was_python(code: int, said: str) -> bool:
    """Whether the signal came to Python before it came to charlm: death by it, or a start that failed."""
    return code < 0 or (code == 1 and "Failed to import the site module" in said)


def _check_before_main(trial: Trial, said: str, figures: Counter[str]) -> None:
    assert trial.moment < MAIN_BEGINS, (trial, said)
    figures["before_main"] += 1
    figures["before_main_with_traceback"] += "Traceback" in said


def _check_quiet(said: str, about: Any) -> None:
    assert "Traceback" not in said, (about, said)
    assert "Exception ignored" not in said, (about, said)
    assert said.count("\n") <= 2, (about, said)


def _check_saved(run: Path, said: str, trial: Trial, figures: Counter[str]) -> None:
    """Either a run that can be gone on with from the step that was told, or nothing at all."""
    told = re.search(r"stopped and saved at step (\d+); continue with: .*charlm train --resume --out (.+)", said)
    if told is None:
        assert not run.parent.exists(), (trial, said, sorted(run.parent.rglob("*")))
        figures["nothing_trained"] += 1
        return
    step = int(told[1])
    assert step_numbers(run)[-1] == step, (trial, said, step_numbers(run))
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
    assert step_numbers(run)[-1] == step + 2


# ---------------------------------------------------------------------------------------------------- two signals


def _stopped_twice(folder: Path, text: Path, trial: Trial, draw: random.Random) -> float:
    """The second one comes soon, but not as soon as an echo; what was saved before the first still opens."""
    run = folder / "runs" / "run"
    with _started(_training(text, run, trial.form), folder) as (process, said_in):
        time.sleep(trial.moment)
        steps = step_numbers(run)
        process.send_signal(trial.number)
        time.sleep(draw.uniform(ECHO, 0.6))
        process.send_signal(draw.choice(list(CODES)))
        seconds = _wait(process, AT_ONCE, said_in, trial)
        code = process.returncode
    said = said_in.read_text()
    # When the first has done its work and Python clears up, the second may be death: the same code to a shell.
    assert code in CODES.values() or -code in CODES or _was_python(code, said), (trial, code, said)
    if trial.moment >= MAIN_BEGINS:
        _check_quiet(said, trial)
    if steps:
        step = open_checkpoint(run, "latest", ALL_FILES).step
        assert step >= steps[-1], (trial, step, steps)
        _check_resumes(run, step)
    elif not step_numbers(run):  # what a beginning leaves is no hindrance
        _train_again(folder, run)
    shutil.rmtree(run.parent, ignore_errors=True)
    return seconds


def _train_again(folder: Path, run: Path) -> None:
    small = folder / "small.txt"
    small.write_text("the cat sat on a mat\n" * 100)
    charlm.train(small, out=run, steps=2, layers=1, hidden=8, device="cpu", threads=1)
    charlm.load(run, device="cpu").generate("the", 3)


def _doubled(folder: Path, text: Path, trials: int) -> int:
    """``timeout`` sends every signal twice, and so does a terminal that closes: that is one wish, and what was learnt
    is saved."""
    for number in range(trials):
        run = folder / "runs" / "run"
        with _started(_training(text, run, None), folder) as (process, said_in):
            while not step_numbers(run):
                time.sleep(0.05)
            time.sleep(0.1 * number)
            for _ in range(2):
                process.send_signal(signal.SIGTERM)
                time.sleep(0.0005 * number)
            _wait(process, SOON, said_in, "a doubled signal")
        said = said_in.read_text()
        assert process.returncode == CODES[signal.SIGTERM], (process.returncode, said)
        assert "stopped and saved" in said, said
        shutil.rmtree(run.parent)
    return trials


# ---------------------------------------------------------------------------------------------------- two trainers


def _second_trainer(folder: Path, text: Path) -> int:
    """Whoever wants a run that is being trained is told so in one line, and the first goes on."""
    run = folder / "runs" / "run"
    codes = set()
    with _started(_training(text, run, None), folder) as (process, _):
        while not (run / "corpus").exists():
            time.sleep(0.01)
        codes.add(_refused(_training(text, run, None)))  # while it prepares
        while not step_numbers(run):
            time.sleep(0.01)
        codes.add(_refused([*CHARLM, "train", "--resume", "--out", str(run)]))
        codes.add(_refused(_training(text, run, None)))
        assert process.poll() is None
    (code,) = codes
    _check_resumes(run, step_numbers(run)[-1])
    shutil.rmtree(run.parent)
    return code


def _refused(command: Sequence[str]) -> int:
    result = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=60)
    said = result.stderr.decode()
    assert result.stdout == b"" and said.count("\n") == 1 and "Traceback" not in said, said
    assert result.returncode == 73, (result.returncode, said)
    return result.returncode


# ---------------------------------------------------------------------------------------------------- other commands


def _others(folder: Path, text: Path, draw: random.Random, moments: int, figures: Counter[str]) -> list[float]:
    """Writing, evaluating and scoring, stopped at ``moments`` each."""
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
            said_in,
        ),
    ):
        time.sleep(trial.moment)
        process.send_signal(trial.number)
        seconds = _wait(process, SOON_WITHOUT_TRAINING, said_in, (name, trial))
        code = process.returncode
    said = said_in.read_text()
    if _was_python(code, said):
        _check_before_main(trial, said, figures)
    else:
        assert code == CODES[trial.number], (name, trial, code, said)
        _check_quiet(said, (name, trial))
    left = [path for path in (*_temporary(folder).iterdir(), *folder.glob("*page.html*")) if "torch" not in path.name]
    assert not left, (name, trial, left)
    return seconds
