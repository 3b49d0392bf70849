"""Disks that are full or broken: every call of a save fails in turn, and a real file system runs full.

Whatever fails, the checkpoint before must stay whole, the training must go on and end with the weights of an
undisturbed one, and nothing half-made may be left once it has saved again. Three failed saves in a row end it with the
exit code 74, and it can be resumed once the disk is mended.
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

from charlm.checkpoint.run_folder import clean
from charlm.checkpoint.step import ALL_FILES, MODEL, STATE_TENSORS, open_checkpoint, save_step, step_numbers
from charlm.config import ModelConfig, TrainingConfig
from charlm.corpus.preparation import prepare
from charlm.corpus.prepared import Corpus
from charlm.corpus.text import open_source
from charlm.errors import InputOutputError
from charlm.training.events import Saved, SaveFailed
from charlm.training.saving import MAX_FAILED_SAVES
from charlm.training.trainer import Trainer
from stress.helpers import CHARLM, SCRATCH, leftovers, random_words, without_warnings
from stress.recorder import Begun, Call, noted_promises, watched

CODES = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
STEPS, SAVE_EVERY, EVAL_EVERY = 14, 4, 6
TMPFS_BYTES = 16_000_000


def run_trials(every: int = 1, mount: bool = True) -> dict[str, int | str]:
    """Let every call fail (or one of ``every``), once, in each save, and to the end of a save; then fill a disk."""
    broken = ("previous_lost", "left_half_made", "ends_that_differ")
    figures = dict.fromkeys(("injected", "failed_saves", "goings_on", "ends_with_74", *broken), 0)
    with without_warnings(), tempfile.TemporaryDirectory(dir=SCRATCH) as home:
        trials = _Trials(Path(home).resolve(), figures)
        calls = trials.count_calls()
        for number in range(0, calls, every):
            for code in CODES if every == 1 else (CODES[number % 3],):
                trials.training_goes_on(_Fault(number, code, once=True))
            trials.training_goes_on(_Fault(number, CODES[number % 3], once=False))
        for number in range(0, trials.calls_of_a_save(), every):
            trials.three_in_a_row_end_it(_EverySave(number, CODES[number % 3]))
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
    """Lets call number ``number`` of all saves fail: only this, or all that follow until the save is over."""

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
        if call.name == "write":  # some of it went through
            perform(call.data[: len(call.data) // 2])
        raise OSError(self._code, os.strerror(self._code))


class _EverySave(_Fault):
    """Lets the same call of every save but the first fail."""

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
    """Trainings on a disk with faults; what they find goes to ``figures``."""

    def __init__(self, home: Path, figures: dict[str, int]) -> None:
        self._home, self._figures = home, figures
        self._corpus = _corpus(home)
        self._run = home / "run"
        self._versions: dict[int, list[dict[str, bytes]]] = {}
        self._whole = ""

    def count_calls(self) -> int:
        """Train undisturbed, and tell how many calls its saves make."""
        fault = _Fault(-1, 0, once=True)
        with self._new_run() as trainer:
            self._train(trainer, fault)
            self._whole = _digest(self._run)
        return len(fault.calls)

    def calls_of_a_save(self) -> int:
        """Calls that every ``save_step`` makes, even the shortest."""
        fault = _Fault(-1, 0, once=True)
        with self._new_run(), watched(self._run, fault):
            save_step(self._run, 1, dict.fromkeys(ALL_FILES, b""))
        return len(fault.calls)

    def training_goes_on(self, fault: _Fault) -> None:
        """One save is disturbed; all else must be as if it had not been."""
        with self._new_run() as trainer:
            if not self._train(trainer, fault):
                self._figures["goings_on"] += 1
            else:  # it was the last one, which must not fail
                self._resume()
            self._check_end()
        self._figures["injected"] += fault.injected

    def three_in_a_row_end_it(self, fault: _EverySave) -> None:
        """Every save fails, the third ends the training; on a mended disk it goes on."""
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
        """The number of failed saves in a row that ended the training; 0 if it came to its end."""
        failed, saved, disturbed = 0, None, False
        with self._noted(fault), watched(self._run, fault):
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
                    self._check_half_made(fault.injected > 0 and disturbed)
                    disturbed = fault.injected > 0

    @contextlib.contextmanager
    def _noted(self, fault: _Fault) -> Iterator[None]:
        def note(entry: Any) -> None:
            if isinstance(entry, Begun):
                fault.save_begins()
                self._versions.setdefault(entry.step, []).append(entry.files)

        with noted_promises(note):
            yield

    def _check_previous(self, saved: int | None) -> None:
        """The step that was saved last, or a newer one, opens with what was to be saved in it."""
        if saved is None:
            return
        opened = open_checkpoint(self._run, "latest", ALL_FILES)
        as_saved = any(dict(opened.files) == version for version in self._versions[opened.step])
        self._figures["previous_lost"] += opened.step < saved or not as_saved

    def _check_half_made(self, expected_none: bool) -> None:
        self._figures["left_half_made"] += expected_none and bool(leftovers(self._run))

    def _resume(self) -> None:
        """What ``charlm train --resume`` does, on a mended disk."""
        clean(self._run)
        checkpoint = open_checkpoint(self._run, "latest", ALL_FILES)
        fresh = _trainer(self._run, self._corpus)
        resumed = Trainer.resume(self._run, self._corpus, checkpoint, fresh.config)
        for _ in resumed.events():
            pass
        self._check_half_made(True)

    def _check_end(self) -> None:
        self._figures["ends_that_differ"] += _digest(self._run) != self._whole


def _digest(run: Path) -> str:
    """Of the last step's weights and training state, as far as it does not tell the time."""
    opened = open_checkpoint(run, "latest", ALL_FILES)
    assert opened.step == step_numbers(run)[-1]
    return hashlib.sha256(opened.files[MODEL] + opened.files[STATE_TENSORS]).hexdigest()


# ---------------------------------------------------------------------------------------------------- a full disk


def _full_disk() -> dict[str, int | str]:
    """Let a small file system run full under ``charlm train``; nothing but a reason where none can be mounted."""
    with tempfile.TemporaryDirectory() as home:
        place = Path(home).resolve() / "small"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(place)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            return {"full_disk": f"left out, nothing can be mounted: {getattr(error, 'stderr', '') or error}".strip()}
        try:
            return _Full(place).try_all()
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


class _Full:
    """Trainings on the small file system ``place``."""

    def __init__(self, place: Path) -> None:
        self._place, self._run = place, place / "run"
        self._text = place.parent / "text.txt"
        self._text.write_text(random_words(random.Random(1), 9000))

    def try_all(self) -> dict[str, int | str]:
        """An undisturbed training, one for which room is made in time, one for which it is not, one without any."""
        assert self._train(self._new()).returncode == 0
        whole = _digest(self._run)
        self._in_time(whole)
        self._too_late(whole)
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
            self._said = process.stderr.read().splitlines()
        return process

    def _in_time(self, whole: str) -> None:
        with self._start(self._new()) as process:
            with self._filled_after_a_save(process):
                said = process.stderr.readline()
            said += process.stderr.read()
        assert process.returncode == 0, said
        assert "No space left on device" in said, said
        self._check(said.splitlines(), "")
        assert _digest(self._run) == whole
        assert not leftovers(self._run)

    def _too_late(self, whole: str) -> None:
        with self._start(self._new()) as process, self._filled_after_a_save(process):
            said = process.stderr.read().splitlines()
            process.wait()
            saved = open_checkpoint(self._run, "latest", ALL_FILES).step
            assert process.returncode == 74, said
            self._check(said, "make room")
            assert self._train(["--resume"]).returncode == 74, self._said
            self._check(self._said, "make room")
            assert open_checkpoint(self._run, "latest", ALL_FILES).step >= saved
        assert self._train(["--resume"]).returncode == 0, self._said
        assert _digest(self._run) == whole
        assert not leftovers(self._run)

    def _from_the_start(self) -> None:
        arguments = self._new()
        with self._filled():
            assert self._train(arguments).returncode in (73, 74), self._said
            self._check(self._said, "")
            assert len(self._said) == 1
            assert not self._run.exists()

    def _check(self, said: list[str], advice: str) -> None:
        """Whatever is said is one line each; what ended it is the last."""
        assert all(line.startswith("charlm: ") for line in said), said
        assert len([line for line in said if not line.startswith("charlm: warning: ")]) <= 1, said
        assert advice in said[-1], said

    @contextlib.contextmanager
    def _filled_after_a_save(self, process: subprocess.Popen[str]) -> Iterator[None]:
        while not step_numbers(self._run):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        with self._filled():
            yield

    @contextlib.contextmanager
    def _filled(self) -> Iterator[None]:
        """While entered, no byte is free: what the training gives back is taken at once."""
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
