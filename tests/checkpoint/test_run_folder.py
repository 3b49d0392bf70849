import errno
import os

import pytest

from charlm.checkpoint.run_folder import RUNS, RunFolder
from charlm.checkpoint.step import CONFIG, MANIFEST, MODEL, open_checkpoint, save_step
from charlm.config import dump_json
from charlm.errors import CannotCreateError, MissingInputError


def save(run, step):
    run.mkdir(exist_ok=True)
    return save_step(run, step, {CONFIG: dump_json({"format": 1, "step": step}), MODEL: b"weights"})


@pytest.fixture
def run(tmp_path):
    for step in (10, 20, 30, 40):
        save(tmp_path / "run", step)
    return tmp_path / "run"


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_step_numbers_ascend(run, tmp_path):
    save(run, 9)
    assert RunFolder(run).step_numbers() == [9, 10, 20, 30, 40]
    assert RunFolder(tmp_path / "no").step_numbers() == []


def test_keep_only_deletes_all_other_steps(run):
    RunFolder(run).keep_only([20, 40])
    assert names_in(run) == ["step-20", "step-40"]


def test_clean_removes_what_a_killed_process_left(run):
    (run / ".unfinished-step-50").mkdir()
    (run / ".deleted-step-1").mkdir()
    (run / ".unfinished-metrics.jsonl").touch()
    (run / "step-10").rename(run / ".aside-step-10")
    RunFolder(run).clean()
    assert names_in(run) == ["step-10", "step-20", "step-30", "step-40"]


def test_only_one_process_can_lock_a_run(tmp_path):
    run = RunFolder(tmp_path / "run")
    with run.lock(), pytest.raises(CannotCreateError, match="another process"), RunFolder(run.path).lock():
        pass
    with run.lock():
        pass


def let_flock_fail(code, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def flock(handle, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog, code):
    let_flock_fail(code, monkeypatch)
    run = RunFolder.claim(tmp_path / "run", "salad")
    with run.lock():
        save(run.path, 1)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{run.path} cannot be locked ({os.strerror(code)})" in caplog.text
    assert names_in(run.path) == ["step-1"]
    empty = RunFolder.claim(tmp_path / "empty", "salad")
    with empty.lock():
        empty.discard_without_steps()
    assert names_in(tmp_path) == ["run"]


@pytest.mark.parametrize("code", [errno.EWOULDBLOCK, errno.EACCES])
def test_a_lock_that_is_held_elsewhere_is_an_error(tmp_path, monkeypatch, code):
    let_flock_fail(code, monkeypatch)
    with pytest.raises(CannotCreateError, match="is being trained by another process"), RunFolder(tmp_path).lock():
        pass


def test_a_run_that_cannot_be_locked_leaves_nothing_behind(tmp_path, monkeypatch):
    run = RunFolder.claim(tmp_path / "a" / "run", "salad")

    def full(path, flags):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    monkeypatch.setattr("charlm.checkpoint.run_folder.open_without_links", full)
    with pytest.raises(CannotCreateError, match="No space left"), run.lock():
        pass
    assert names_in(tmp_path) == []


def test_the_newest_run_is_found(tmp_path):
    with pytest.raises(MissingInputError):
        RunFolder.newest(tmp_path / "no")
    for age, name in ((300, "old"), (100, "new"), (200, "middle")):
        path = save(tmp_path / name, 1)
        when = 1_700_000_000 - age
        os.utime(path / MANIFEST, (when, when))
    (tmp_path / "README.md").touch()
    assert RunFolder.newest(tmp_path).path.name == "new"


def test_an_exported_model_cannot_be_resumed(tmp_path):
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / MANIFEST).touch()
    assert RunFolder.newest(tmp_path).path.name == "exported"
    with pytest.raises(MissingInputError):
        RunFolder.newest(tmp_path, to_resume=True)


def test_the_newest_run_with_its_text(tmp_path):
    for age, name in ((300, "trained"), (100, "exported")):
        path = save(tmp_path / name, 1)
        os.utime(path / MANIFEST, (1_700_000_000 - age,) * 2)
    assert RunFolder.newest(tmp_path, with_text=True).path.name == "exported"  # no run has its text
    (tmp_path / "trained" / "corpus").mkdir()
    assert RunFolder.newest(tmp_path).path.name == "exported"
    assert RunFolder.newest(tmp_path, with_text=True).path.name == "trained"


def test_a_folder_of_runs_is_not_a_run(tmp_path):
    save(tmp_path / "b", 1)
    (tmp_path / "a").mkdir()
    with pytest.raises(MissingInputError, match=f"is a folder of runs; name one of them, such as {tmp_path / 'b'}"):
        open_checkpoint(tmp_path)
    with pytest.raises(MissingInputError, match="has no checkpoint yet"):
        open_checkpoint(tmp_path / "a")


def test_a_dangling_link_is_no_place_for_a_run(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "missing")
    with pytest.raises(CannotCreateError, match="is a link to nothing"):
        RunFolder.claim(tmp_path / "out", "name")
    assert not (tmp_path / "missing").exists()


def test_claim_creates_a_new_folder_for_each_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = (RunFolder.claim(None, "salad") for _ in range(2))
    assert (first.path, second.path) == (RUNS / "salad", RUNS / "salad-2")
    assert first.created == (RUNS / "salad", RUNS)
    assert second.created == (RUNS / "salad-2",)


def test_claim_refuses_a_folder_with_content(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    for taken in (run, run / "step-10", tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(CannotCreateError, match="--out") as error:
            RunFolder.claim(taken, "salad")
        assert "\n" not in str(error.value)


def test_a_run_killed_before_its_first_step_can_be_claimed_again(tmp_path):
    path = tmp_path / "run"
    (path / "corpus").mkdir(parents=True)
    for name in (".lock", "metrics.jsonl", ".unfinished-step-1", "corpus/text"):
        (path / name).touch()
    run = RunFolder.claim(path, "salad")
    assert run.created == ()
    with run.lock():
        run.clear_beginning()
    assert names_in(path) == [".lock", "metrics.jsonl"]
    save(path, 1)
    with run.lock(), pytest.raises(CannotCreateError, match="a moment ago"):
        run.clear_beginning()


def test_discard_deletes_created_folders_only(tmp_path):
    (tmp_path / "there").mkdir()
    run = RunFolder.claim(tmp_path / "there" / "a" / "b", "salad")
    (run.path / "corpus").mkdir()
    (run.path / "corpus" / "text").touch()
    run.discard_without_steps()
    assert names_in(tmp_path / "there") == []
    run = RunFolder.claim(tmp_path / "there", "salad")
    (run.path / "metrics.jsonl").touch()
    run.discard_without_steps()
    assert names_in(tmp_path) == ["there"]
    save(tmp_path / "there", 1)
    run.discard_without_steps()
    assert run.step_numbers() == [1]
