import errno
import os
import stat

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
