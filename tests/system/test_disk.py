import errno
import os
import stat
from contextlib import suppress

import pytest

from charlm.corpus.split_writer import write_bytes
from charlm.system import disk


def failing(name, code, monkeypatch, when=lambda *arguments: True):
    """Let the function ``os.NAME`` fail with the error ``code``."""
    genuine = getattr(os, name)

    def fail(*arguments):
        if when(*arguments):
            raise OSError(code, os.strerror(code))
        return genuine(*arguments)

    monkeypatch.setattr(os, name, fail)


def is_folder(handle):
    return stat.S_ISDIR(os.fstat(handle).st_mode)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_that_does_not_sync_folders_is_no_failure(tmp_path, monkeypatch, code):
    failing("fsync", code, monkeypatch, is_folder)
    disk.write_folder(tmp_path / "step", {"a": b"1"})
    disk.write_synced(tmp_path / "b", b"2")
    disk.sync_folders([tmp_path / "step"])
    assert (tmp_path / "step" / "a").read_bytes() + (tmp_path / "b").read_bytes() == b"12"


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_folder_that_cannot_be_synced_is_a_failure_which_names_it(tmp_path, monkeypatch, code):
    failing("fsync", code, monkeypatch, is_folder)
    with pytest.raises(OSError, match="step") as error:
        disk.write_folder(tmp_path / "step", {"a": b"1"})
    assert error.value.errno == code
    with pytest.raises(OSError, match=str(tmp_path)):
        disk.sync_folders([tmp_path])


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL])
def test_a_file_that_cannot_be_synced_is_a_failure_which_names_it(tmp_path, monkeypatch, code):
    failing("fsync", code, monkeypatch)
    for write in (disk.write_synced, write_bytes):
        with pytest.raises(OSError, match=r"data\.bin"):
            write(tmp_path / "data.bin", b"1")


def test_every_failing_read_names_its_file(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        disk.read_at_most(tmp_path / "folder", 9)


def test_the_original_name_of_a_file_is_kept(tmp_path):
    with pytest.raises(FileNotFoundError, match="inner"), disk.naming(tmp_path / "outer"):
        (tmp_path / "inner").read_bytes()


def test_a_planted_link_is_not_followed(tmp_path):
    victim, page = tmp_path / "victim", tmp_path / "page.html"
    victim.write_text("years of work")
    (tmp_path / f".page.html.{os.getpid()}.unfinished").symlink_to(victim)
    page.symlink_to(victim)
    with disk.replacing(page) as file:
        file.write(b"new")
    assert (victim.read_text(), page.read_text(), page.is_symlink()) == ("years of work", "new", False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "victim"]


def test_a_link_that_is_planted_while_the_page_is_opened_is_refused(tmp_path, monkeypatch):
    (tmp_path / "victim").write_text("years of work")
    monkeypatch.setattr(disk.Path, "unlink", lambda path, missing_ok: None)
    (tmp_path / f".page.html.{os.getpid()}.unfinished").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError), disk.replacing(tmp_path / "page.html"):
        pass
    assert (tmp_path / "victim").read_text() == "years of work"


def test_a_pipe_is_written_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with disk.replacing(pipe) as file:
        file.write(b"page")
    assert os.read(reader, 9) == b"page"
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    os.close(reader)


def test_an_interrupted_page_leaves_the_old_one(tmp_path):
    page = tmp_path / "page.html"
    page.write_bytes(b"old")
    with suppress(KeyboardInterrupt), disk.replacing(page) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert page.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [page]
