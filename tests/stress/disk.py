"""Full and broken disks: each call of a save fails in turn, and a real file system becomes full.

After any failure the previous checkpoint must stay whole, the training must continue and end with the weights of an
uninterrupted one, and no temporary file may remain after the next save. Three failed saves in a row end the training
with exit code 74, and it can be resumed once the disk works again.
"""

import contextlib
import errno
import hashlib
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.step import ALL_FILES, MODEL, STATE_TENSORS, open_checkpoint, save_step
from charlm.config import ModelConfig, TrainingConfig
from charlm.corpus.preparation import prepare
from charlm.corpus.prepared import Corpus
from charlm.corpus.text import open_source
from charlm.errors import InputOutputError
from charlm.training.events import Saved, SaveFailed
from charlm.training.saving import MAX_FAILED_SAVES
from charlm.training.trainer import Trainer
from stress.helpers import CHARLM, SCRATCH, leftovers, random_words, without_warnings
from stress.recorder import Call, SaveStarted, intercept_calls, record_saves

CODES = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
STEPS, SAVE_EVERY, EVAL_EVERY = 14, 4, 6
TMPFS_BYTES = 16_000_000


def run_trials(every: int = 1, mount: bool = True) -> dict[str, int | str]:
    """Let every (or every ``every``-th) call fail: once, until the end of a save, in all saves; then fill a disk."""
    broken = ("previous_lost", "left_half_made", "ends_that_differ")
    figures = dict.fromkeys(("injected", "failed_saves", "goings_on", "ends_with_74", *broken), 0)
    with without_warnings(), tempfile.TemporaryDirectory(dir=SCRATCH) as home:
        trials = _Trials(Path(home).resolve(), figures)
        calls = trials.count_calls()
        for number in range(0, calls, every):
            for code in CODES if every == 1 else (CODES[number % 3],):
                trials.training_continues(_Fault(number, code, once=True))
            trials.training_continues(_Fault(number, CODES[number % 3], once=False))
        for number in range(0, trials.calls_of_a_save(), every):
            trials.three_failures_end_the_training(_EverySaveFault(number, CODES[number % 3]))
        figures["calls_of_all_saves"] = calls
    assert not any(figures[name] for name in broken), figures
    return {**figures, **(_full_disk() if mount else {"full_disk": "left out"})}


def _corpus(folder: Path) -> Corpus:
    path = folder / "text.txt"
    path.write_text(random_words(random.Random(1), 1500))
    return prepare(folder / "corpus", open_source([str(path)]))


def _trainer(run: Path, corpus: Corpus) -> Trainer:
    config = TrainingConfig(
        lr=5e-3,
        warmup=3,
        batch=4,
        bptt=16,
        eval_every=EVAL_EVERY,
        save_every=SAVE_EVERY,
        save_every_unit="steps",
        steps=STEPS,
        threads=1,
    )
    return Trainer(run, corpus, ModelConfig(corpus.tokenizer.vocabulary_size, 1, 16, 16, 0.1), config)


# ---------------------------------------------------------------------------------------------------- faults


class _Fault:
    """Lets call number ``number`` of all saves fail: only this one, or all further calls of the same save too."""

    def __init__(self, number: int, code: int, once: bool) -> None:
        self.injected = 0
        self.calls: list[str] = []
        self._number, self._code, self._once = number, code, once
        self._broken = False

    def save_begins(self) -> None:
        self._broken = False

    def __call__(self, call: Call, perform: Callable[..., Any]) -> Any:
        self.calls.append(call.name)
        hit = len(self.calls) - 1 == self._number
        self._broken = self._broken or (hit and not self._once)
        return self._fail(call, perform) if hit or self._broken else perform()

    def _fail(self, call: Call, perform: Callable[..., Any]) -> None:
        self.injected += 1
        if call.name == "write":  # half of it is written
            perform(call.data[: len(call.data) // 2])
        raise OSError(self._code, os.strerror(self._code))


class _EverySaveFault(_Fault):
    """Lets the same call fail in every save except the first."""

    def __init__(self, number: int, code: int) -> None:
        super().__init__(number, code, once=True)
        self._first = True

    def save_begins(self) -> None:
        self._first = self._first and not self.calls
        self.calls.clear()

    def __call__(self, call: Call, perform: Callable[..., Any]) -> Any:
        if not self._first:
            return super().__call__(call, perform)
        self.calls.append(call.name)
        return perform()


class _Trials:
    """Trainings on a disk with faults, which count their results in ``figures``."""

    def __init__(self, home: Path, figures: dict[str, int]) -> None:
        self._home, self._figures = home, figures
        self._corpus = _corpus(home)
        self._run = home / "run"
        self._versions: dict[int, list[dict[str, bytes]]] = {}
        self._uninterrupted = ""

    def count_calls(self) -> int:
        """Train without faults and return how many calls its saves make."""
        fault = _Fault(-1, 0, once=True)
        with self._new_run() as trainer:
            self._train(trainer, fault)
            self._uninterrupted = _digest(self._run)
        return len(fault.calls)

    def calls_of_a_save(self) -> int:
        """The number of calls that even the shortest ``save_step`` makes."""
        fault = _Fault(-1, 0, once=True)
        with self._new_run(), intercept_calls(self._run, fault):
            save_step(self._run, 1, dict.fromkeys(ALL_FILES, b""))
        return len(fault.calls)

    def training_continues(self, fault: _Fault) -> None:
        """Check that a training with one failed save ends like one without."""
        with self._new_run() as trainer:
            if not self._train(trainer, fault):
                self._figures["goings_on"] += 1
            else:  # the last save failed, which ends the training
                self._resume()
            self._check_end()
        self._figures["injected"] += fault.injected

    def three_failures_end_the_training(self, fault: _EverySaveFault) -> None:
        """Check that three failed saves end the training, and that it can be resumed without faults."""
        with self._new_run() as trainer:
            assert self._train(trainer, fault) == MAX_FAILED_SAVES, fault.calls
            self._resume()
            self._check_end()
        self._figures["injected"] += fault.injected

    @contextlib.contextmanager
    def _new_run(self) -> Iterator[Trainer]:
        self._run.mkdir()
        self._versions.clear()
        yield _trainer(self._run, self._corpus)
        shutil.rmtree(self._run)

    def _train(self, trainer: Trainer, fault: _Fault) -> int:
        """Train; returns the number of failed saves in a row that ended the training, 0 if it finished."""
        failed, saved, disturbed = 0, None, False
        with self._noted(fault), intercept_calls(self._run, fault):
            events = trainer.events()
            while True:
                try:
                    event = next(events, None)
                except InputOutputError as error:
                    assert error.exit_code == 74
                    assert "\n" not in str(error)
                    self._figures["ends_with_74"] += 1
                    self._figures["failed_saves"] += 1
                    self._check_previous(saved)
                    return failed + 1
                if event is None:
                    return 0
                if isinstance(event, SaveFailed):
                    failed += 1
                    self._figures["failed_saves"] += 1
                    self._check_previous(saved)
                elif isinstance(event, Saved):
                    failed, saved = 0, event.step
                    self._check_previous(saved)
                    self._check_leftovers(fault.injected > 0 and disturbed)
                    disturbed = fault.injected > 0

    @contextlib.contextmanager
    def _noted(self, fault: _Fault) -> Iterator[None]:
        def note(entry: Any) -> None:
            if isinstance(entry, SaveStarted):
                fault.save_begins()
                self._versions.setdefault(entry.step, []).append(entry.files)

        with record_saves(note):
            yield

    def _check_previous(self, saved: int | None) -> None:
        """Check that the last saved step, or a newer one, opens with the bytes that were saved."""
        if saved is None:
            return
        opened = open_checkpoint(self._run, "latest", ALL_FILES)
        as_saved = any(dict(opened.files) == version for version in self._versions[opened.step])
        self._figures["previous_lost"] += opened.step < saved or not as_saved

    def _check_leftovers(self, expected_none: bool) -> None:
        self._figures["left_half_made"] += expected_none and bool(leftovers(self._run))

    def _resume(self) -> None:
        """Resume to the end without faults, as ``charlm train --resume`` does."""
        RunFolder(self._run).clean()
        checkpoint = open_checkpoint(self._run, "latest", ALL_FILES)
        fresh = _trainer(self._run, self._corpus)
        resumed = Trainer.resume(self._run, self._corpus, checkpoint, fresh.config)
        for _ in resumed.events():
            pass
        self._check_leftovers(True)

    def _check_end(self) -> None:
        self._figures["ends_that_differ"] += _digest(self._run) != self._uninterrupted


def _digest(run: Path) -> str:
    """A hash of the last step's weights and training state, without times."""
    opened = open_checkpoint(run, "latest", ALL_FILES)
    assert opened.step == RunFolder(run).step_numbers()[-1]
    return hashlib.sha256(opened.files[MODEL] + opened.files[STATE_TENSORS]).hexdigest()


# ---------------------------------------------------------------------------------------------------- a full disk


def _full_disk() -> dict[str, int | str]:
    """Fill a small file system during ``charlm train``; returns only a reason if none can be mounted."""
    with tempfile.TemporaryDirectory() as home:
        place = Path(home).resolve() / "small"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(place)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            return {"full_disk": f"left out, nothing can be mounted: {getattr(error, 'stderr', '') or error}".strip()}
        try:
            return _FullDisk(place).try_all()
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


class _FullDisk:
    """Trainings on the small file system ``place``."""

    def __init__(self, place: Path) -> None:
        self._place, self._run = place, place / "run"
        self._text = place.parent / "text.txt"
        self._text.write_text(random_words(random.Random(1), 9000))

    def try_all(self) -> dict[str, int | str]:
        """Train with enough space; with space freed in time; with space freed too late; and without any space."""
        assert self._train(self._new()).returncode == 0
        uninterrupted = _digest(self._run)
        self._in_time(uninterrupted)
        self._too_late(uninterrupted)
        self._from_the_start()
        return {"full_disk": "mounted", "full_disk_went_on": 1, "full_disk_ended_with_74": 2, "full_disk_refused": 1}

    def _new(self) -> list[str]:
        shutil.rmtree(self._run, ignore_errors=True)
        return [
            str(self._text), "--size", "tiny", "--batch", "8", "--bptt", "32", "--steps", "800", "--save-every", "40",
            "--eval-every", "200", "--seed", "1", "--threads", "1", "--device", "cpu", "--precision", "fp32",
        ]  # fmt: skip

    def _start(self, arguments: list[str]) -> subprocess.Popen[str]:
        command = [*CHARLM, "train", *arguments, "--out", str(self._run), "--quiet"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)

    def _train(self, arguments: list[str]) -> subprocess.Popen[str]:
        with self._start(arguments) as process:
            self._messages = process.stderr.read().splitlines()
        return process

    def _in_time(self, uninterrupted: str) -> None:
        with self._start(self._new()) as process:
            with self._filled_after_a_save(process):
                messages = process.stderr.readline()
            messages += process.stderr.read()
        assert process.returncode == 0, messages
        assert "No space left on device" in messages, messages
        self._check(messages.splitlines(), "")
        assert _digest(self._run) == uninterrupted
        assert not leftovers(self._run)

    def _too_late(self, uninterrupted: str) -> None:
        with self._start(self._new()) as process, self._filled_after_a_save(process):
            messages = process.stderr.read().splitlines()
            process.wait()
            saved = open_checkpoint(self._run, "latest", ALL_FILES).step
            assert process.returncode == 74, messages
            self._check(messages, "make room")
            assert self._train(["--resume"]).returncode == 74, self._messages
            self._check(self._messages, "make room")
            assert open_checkpoint(self._run, "latest", ALL_FILES).step >= saved
        assert self._train(["--resume"]).returncode == 0, self._messages
        assert _digest(self._run) == uninterrupted
        assert not leftovers(self._run)

    def _from_the_start(self) -> None:
        arguments = self._new()
        with self._filled():
            assert self._train(arguments).returncode in (73, 74), self._messages
            self._check(self._messages, "")
            assert len(self._messages) == 1
            assert not self._run.exists()

    def _check(self, messages: list[str], advice: str) -> None:
        """Check that every message is one line, and that the last one is the error."""
        assert all(line.startswith("charlm: ") for line in messages), messages
        assert len([line for line in messages if not line.startswith("charlm: warning: ")]) <= 1, messages
        assert advice in messages[-1], messages

    @contextlib.contextmanager
    def _filled_after_a_save(self, process: subprocess.Popen[str]) -> Iterator[None]:
        while not RunFolder(self._run).step_numbers():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        with self._filled():
            yield

    @contextlib.contextmanager
    def _filled(self) -> Iterator[None]:
        """While entered, no byte is free: space that the training frees is filled at once."""
        over = threading.Event()
        filler = threading.Thread(target=self._fill, args=(over,))
        filler.start()
        try:
            yield
        finally:
            over.set()
            filler.join()
            (self._place / "filler").unlink()

    def _fill(self, over: threading.Event) -> None:
        with open(self._place / "filler", "wb", buffering=0) as file:
            while not over.is_set():
                with contextlib.suppress(OSError):
                    while file.write(bytes(4096)):
                        pass
                over.wait(0.002)
