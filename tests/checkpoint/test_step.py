import contextlib
import errno
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from charlm.checkpoint import step as module
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.step import ALL_FILES, CONFIG, MANIFEST, MODEL, STATE, open_checkpoint, save_step
from charlm.checkpoint.tensors import tensors_from_bytes, tensors_to_bytes
from charlm.config import dump_json
from charlm.errors import DataError, InputOutputError, InterruptedBySignal, MissingInputError


def files(step, validation=None, **more):
    config = {"format": 1, "step": step, "validation": validation}
    return {CONFIG: dump_json(config), MODEL: f"weights {step}".encode() * 50, **more}


def save(run, step, validation=None, **more):
    return save_step(run, step, files(step, validation, **more))


@pytest.fixture
def run(tmp_path):
    for step, validation in ((10, 2.0), (20, 1.5), (30, 1.8), (40, None)):
        save(tmp_path / "run" if (tmp_path / "run").exists() else _made(tmp_path / "run"), step, validation)
    return tmp_path / "run"


def _made(path):
    path.mkdir()
    return path


def test_a_saved_step_is_opened_with_the_same_content(run):
    opened = open_checkpoint(run / "step-20")
    assert dict(opened.files) == files(20, 1.5)
    assert (opened.step, opened.validation) == (20, 1.5)


def test_a_run_opens_at_its_best_or_latest_step(run):
    assert open_checkpoint(run).step == 20
    assert open_checkpoint(run, "latest").step == 40
    RunFolder(run).keep_only([40])
    assert open_checkpoint(run).step == 40


def test_among_steps_without_loss_the_latest_is_best(tmp_path):
    run = _made(tmp_path / "run")
    for step in (5, 100, 20):
        save(run, step)
    assert open_checkpoint(run).step == 100


def test_saving_a_step_again_replaces_it(run):
    save(run, 40, 1.0)
    assert open_checkpoint(run).step == 40
    assert sorted(RunFolder(run).step_numbers()) == [10, 20, 30, 40]


@pytest.mark.parametrize("name", [CONFIG, MODEL, MANIFEST])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "missing", "grown"])
def test_a_damaged_step_is_refused_and_a_run_falls_back(run, name, damage, caplog):
    path = run / "step-20" / name
    data = path.read_bytes()
    changed = {
        "flip": data[:30] + bytes([data[30] ^ 4]) + data[31:],
        "cut": data[:-7],
        "empty": b"",
        "grown": data + b" x",
    }
    path.unlink()
    if damage != "missing":
        path.write_bytes(changed[damage])
    with pytest.raises(DataError) as error:
        open_checkpoint(run / "step-20")
    assert "\n" not in str(error.value)
    assert open_checkpoint(run).step == 30
    for step in (10, 30, 40):
        (run / f"step-{step}" / MODEL).write_bytes(b"x")
    with pytest.raises(DataError, match="no checkpoint that passes"):
        open_checkpoint(run)
    assert "is skipped" in caplog.text


def test_every_flipped_bit_of_a_small_checkpoint_is_noticed(tmp_path):
    run = _made(tmp_path / "run")
    path = save_step(run, 1, {CONFIG: files(1)[CONFIG], MODEL: b"0123456789"})
    for name in (CONFIG, MODEL, MANIFEST):
        data = (path / name).read_bytes()
        unnoticed = 0
        for bit in range(8 * len(data)):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            (path / name).write_bytes(changed)
            try:
                opened = open_checkpoint(path)
            except DataError:
                continue
            # Flips in the manifest's white space, or in how a key is escaped, do not change its meaning.
            assert name == MANIFEST
            assert dict(opened.files) == {CONFIG: files(1)[CONFIG], MODEL: b"0123456789"}
            unnoticed += 1
        (path / name).write_bytes(data)
        assert unnoticed < 8 * len(data) / 4


class FailingSystem:
    """Makes the n-th call of the file system fail."""

    def __init__(self, monkeypatch, fail_at, code):
        self.calls, self.fail_at, self.code = 0, fail_at, code
        for owner, name in ((os, "fsync"), (Path, "mkdir"), (Path, "rename"), (Path, "replace")):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, call):
        def counted(*arguments, **options):
            self.calls += 1
            if self.calls == self.fail_at:
                raise OSError(self.code, os.strerror(self.code))
            return call(*arguments, **options)

        return counted


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_the_last_checkpoint_survives_any_failing_call(tmp_path, code):
    run, fail_at = _made(tmp_path / "run"), 1
    save(run, 1, 2.0)
    while True:
        with pytest.MonkeyPatch.context() as patch:
            system = FailingSystem(patch, fail_at, code)
            try:
                save(run, 2, 1.0)
                failed = False
            except InputOutputError:
                failed = True
        assert open_checkpoint(run, "latest").step in ((1, 2) if failed else (2,))
        assert not [p for p in run.iterdir() if p.name.startswith(".unfinished")]
        if not failed:
            break
        fail_at += 1
    assert system.calls == fail_at - 1 >= 6


def test_replacing_a_step_never_loses_it(tmp_path):
    for fail_at in range(1, 12):
        run = _made(tmp_path / f"run{fail_at}")
        save(run, 1, 2.0)
        with pytest.MonkeyPatch.context() as patch:
            FailingSystem(patch, fail_at, errno.EIO)
            with contextlib.suppress(InputOutputError):
                save(run, 1, 1.0)
        assert open_checkpoint(run).validation in (1.0, 2.0)
        RunFolder(run).clean()
        assert [p.name for p in run.iterdir()] == ["step-1"]
        assert open_checkpoint(run).validation in (1.0, 2.0)


def test_files_of_other_programs(tmp_path):
    target = tmp_path / "touched"
    stolen = tmp_path / "model.pt"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (target,))

    stolen.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match="is a file"):
        open_checkpoint(stolen)
    step = _made(tmp_path / "step-1")
    for name in (*ALL_FILES, MANIFEST):
        (step / name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError):
        open_checkpoint(step)
    assert not target.exists()


def test_missing_and_newer_checkpoints(tmp_path, run):
    with pytest.raises(MissingInputError, match="does not exist"):
        open_checkpoint(tmp_path / "no")
    with pytest.raises(MissingInputError, match="no checkpoint"):
        open_checkpoint(_made(tmp_path / "empty"))
    with pytest.raises(DataError, match="which is needed here"):
        open_checkpoint(run, names=[STATE])
    save_step(run, 50, {CONFIG: dump_json({"format": 2, "step": 50})})
    with pytest.raises(DataError, match="newer charlm"):
        open_checkpoint(run / "step-50", names=[CONFIG])


def test_tensors_are_restored_and_invalid_files_refused():
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float16)}
    data = tensors_to_bytes(tensors)
    again = tensors_from_bytes(data, "here")
    assert all(np.array_equal(again[name], tensors[name]) for name in tensors)
    with pytest.raises(DataError, match="finite"):
        tensors_from_bytes(tensors_to_bytes({"a": np.array([np.nan], np.float32)}), "here")
    for junk in (b"", b"x" * 100, data[:-3], (2**40).to_bytes(8, "little") + b"{}"):
        with pytest.raises(DataError, match="not a safetensors"):
            tensors_from_bytes(junk, "here")


def test_the_manifest_is_plain_json(run):
    manifest = json.loads((run / "step-10" / MANIFEST).read_text())
    assert set(manifest["files"]) == {CONFIG, MODEL}


def test_ctrl_c_while_a_step_is_read_does_not_count_as_damage(run, monkeypatch):
    def interrupted(*arguments):
        raise InterruptedBySignal("stopped", 2)

    monkeypatch.setattr(module, "_read_file", interrupted)
    for prefer in ("best", "latest"):
        with pytest.raises(InterruptedBySignal):
            open_checkpoint(run, prefer)
