import logging
import os
from pathlib import Path

import pytest

from charlm.corpus.folders import visible_files
from charlm.corpus.text import open_source


def names(folder):
    return [str(path.relative_to(folder)) for path in visible_files(folder)]


def make(folder, *paths):
    for name in paths:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}\n")


def test_files_are_sorted_by_path_without_hidden_ones(tmp_path, caplog):
    make(tmp_path, "b/x.py", "a.txt", "b.txt", "B.txt", ".git/config", "b/.hidden", "a-b/1", "a/2")
    assert names(tmp_path) == ["B.txt", "a/2", "a-b/1", "a.txt", "b/x.py", "b.txt"]
    assert visible_files(tmp_path) == sorted(visible_files(tmp_path))
    assert caplog.messages == []


def test_runs_are_not_read(tmp_path):
    make(tmp_path, "a.txt", "checkpoints/a/corpus/corpus.json", "checkpoints/a/.lock", "other/.lock", "other/text.txt")
    assert names(tmp_path) == ["a.txt", "other/text.txt"]
    assert names(tmp_path / "checkpoints" / "a") == []


def test_a_file_that_links_lead_to_is_read_once(tmp_path, caplog):
    make(tmp_path, "data/a.txt", "elsewhere/b.txt")
    for name, target in (("0.txt", "a.txt"), ("z.txt", "a.txt"), ("1.txt", "../elsewhere/b.txt"), ("2.txt", "1.txt"),
                         ("broken.txt", "nowhere")):  # fmt: skip
        (tmp_path / "data" / name).symlink_to(target)
    assert names(tmp_path / "data") == ["1.txt", "a.txt"]
    assert caplog.messages == []


def test_folders_that_are_links_are_named_and_not_read(tmp_path, caplog):
    make(tmp_path, "data/sub/a.txt", "elsewhere/b.txt")
    (tmp_path / "data" / "up").symlink_to("..")
    (tmp_path / "data" / "sub" / "there").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "data") == ["sub/a.txt"]
    (warning,) = caplog.messages
    assert warning.startswith("did not enter 2 folders that are links: ")
    assert str(tmp_path / "data" / "up") in warning
    link = tmp_path / "link"  # but what is named is read
    link.symlink_to("data/sub")
    assert names(link) == ["a.txt"]


def test_folders_that_cannot_be_read_are_named(tmp_path, caplog, monkeypatch):
    make(tmp_path, "a.txt", "secret/b.txt")
    scan = os.scandir

    def refuse(path):  # root may read every folder
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert names(tmp_path) == ["a.txt"]
    (warning,) = caplog.messages
    assert warning.startswith("could not read 1 folder: ")
    assert "secret" in warning


@pytest.mark.parametrize("any_file", [False, True])
def test_files_that_are_not_text_are_named(tmp_path, caplog, any_file):
    make(tmp_path, "a.txt")
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 20)
    (tmp_path / "c.bin").write_bytes(b"abc\0\1")
    (tmp_path / "d.pdf").write_bytes(b"%PDF-1.4 abc")
    (tmp_path / "e.txt").write_bytes("utf-16".encode("utf-16"))
    source = open_source([str(tmp_path)], any_file=any_file)
    found = [path.name for path in source.paths]
    if any_file:
        assert found == ["a.txt", "b.png", "c.bin", "d.pdf", "e.txt"]
        assert caplog.messages == []
    else:
        assert found == ["a.txt", "e.txt"]
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert record.getMessage().startswith("skipped 3 files that are not text: ")
        assert "b.png" in record.getMessage()
