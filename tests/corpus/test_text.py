import bz2
import gzip
import lzma
import os
from pathlib import Path

import numpy as np
import pytest

from charlm.corpus.blocks import BLOCK_BYTES
from charlm.corpus.encodings import Decoding, check_encoding
from charlm.corpus.text import HEAD_BYTES, MAX_SMALL_BYTES, TextSource, open_source
from charlm.errors import DataError, InputOutputError, MissingInputError, UsageError


def read(names, encoding="utf-8", kind="char", **options):
    source = open_source([str(n) for n in names], decoding=Decoding(encoding, **options))
    codes = np.concatenate([c.astype(np.uint32) for c in source.codes(kind)])
    return codes.astype("<u4").tobytes().decode("utf-32-le") if kind == "char" else bytes(codes.astype(np.uint8))


TEXT = "one\r\ntwo\0 thrée\u2028\U0001f600 \n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_encodings_give_the_same_text(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT.encode(encoding))
    assert read([path], encoding) == TEXT


def test_byte_order_marks_are_dropped_only_at_the_start(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "a\ufeffb\n".encode())
    assert read([path]) == "a\ufeffb\n"
    path.write_bytes(b"\xff\xfe" + "hi".encode("utf-16-le"))
    assert read([path], "utf-16-le") == "hi"


def test_blocks_do_not_cut_characters(tmp_path):
    text = "é" * (BLOCK_BYTES // 2) + "x中" * 300_000
    path = tmp_path / "a.txt"
    path.write_bytes(b"z" + text.encode())
    assert read([path]) == "z" + text


def test_packed_texts_are_read_in_blocks(tmp_path):
    text = "naïve\n" * 400_000
    for number, pack in enumerate((gzip.compress, bz2.compress, lzma.compress)):
        path = tmp_path / str(number)
        path.write_bytes(pack(text.encode()))
        assert read([path]) == text
        assert max(map(len, open_source([str(path)]).codes("char"))) <= BLOCK_BYTES


def test_a_missing_line_feed_is_inserted_between_files(tmp_path):
    for name, content in (("1.txt", "one"), ("2.txt", "two\n"), ("3.txt", "three")):
        (tmp_path / name).write_text(content, newline="")
    paths = sorted(tmp_path.iterdir())
    assert read(paths) == "one\ntwo\nthree"
    assert read(paths, kind="byte") == b"onetwo\nthree"


def test_a_source_reads_the_same_twice(text_file):
    source = open_source([str(text_file)])
    first, second = ([c.tobytes() for c in source.codes("char")] for _ in range(2))
    assert first == second


def test_small_files_are_opened_once_and_read_the_same(tmp_path, monkeypatch):
    contents = ["plain\n", "naïve\n", "\ufeffmark", "nul\0\n", "", "long " * 2000, "x\x01\x02"]
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.txt").write_text(content, encoding="utf-8", newline="")
    paths = sorted(tmp_path.iterdir())
    source, plain = open_source([str(path) for path in paths]), TextSource(["a"], paths)

    def everything(source):
        return [b"".join(codes.astype(np.uint32).tobytes() for codes in file) for file in source.files("char")]

    assert everything(source) == everything(plain)
    assert source.sha256() == plain.sha256()
    opened = []

    def note(path, mode):
        opened.append(path)
        return Path.open(path, mode)

    monkeypatch.setattr("charlm.corpus.blocks.open", note, raising=False)
    everything(source)
    assert opened == [paths[5]]  # the large one


def test_the_content_of_small_files_takes_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("charlm.corpus.text.MAX_SMALL_BYTES", 2000)
    for number in range(10):
        (tmp_path / f"{number}.txt").write_text("x" * 500)
    source = open_source([str(tmp_path)])
    assert 0 < sum(map(len, source._small.values())) <= 2000
    assert sum(map(len, source.codes("char"))) == 5009
    assert MAX_SMALL_BYTES <= 1 << 25
    assert HEAD_BYTES <= 1 << 13


# ------------------------------------------------------------------------------------------------ control characters


def test_texts_with_many_control_characters_get_a_warning(tmp_path, caplog):
    (tmp_path / "a.txt").write_bytes(b"abcdefgh\0\1" * 10)
    (tmp_path / "b.txt").write_bytes("naïve\x90\x7f".encode() * 5000)
    (tmp_path / "coloured.log").write_bytes(b"\x1b[31merror\x1b[0m\tx\r\n\x0c" * 100)
    (tmp_path / "plain.txt").write_text("plain text\n" * 10)
    source = open_source([str(tmp_path / name) for name in ("a.txt", "b.txt", "coloured.log", "plain.txt")])
    for _ in range(2):  # it is said once
        list(source.codes("char"))
    (warning,) = caplog.messages
    assert warning.startswith("2 files have many NUL or control characters")
    assert "a.txt (20.0%)" in warning
    assert "b.txt (28.6%)" in warning
    assert "check" in warning


# ---------------------------------------------------------------------------------------------------- mistakes


def test_a_pipe_that_cannot_be_read_twice_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="stdin"):
        open_source([str(tmp_path / "pipe")])


def test_stdin_named_twice_is_refused(tmp_path):
    with pytest.raises(UsageError, match="only once"):
        open_source(["-", "-"], spool=tmp_path / "spool")


def test_an_empty_name_is_not_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    assert read(["."]) == "text"
    with pytest.raises(MissingInputError, match="variable"):
        open_source([""])


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(MissingInputError, match="does not exist"):
        open_source([str(tmp_path / "no.txt")])
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match="empty"):
        open_source([str(tmp_path / "empty.txt")])
    (tmp_path / "empty.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(DataError, match="empty"):
        open_source([str(tmp_path / "empty.gz")])
    (tmp_path / "folder").mkdir()
    with pytest.raises(MissingInputError, match="no text file"):
        open_source([str(tmp_path / "folder")])


def test_disk_errors_name_the_file(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x" * 10_000)
    source = open_source([str(tmp_path / "a.txt")])

    def fail(path, mode):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("charlm.corpus.blocks.open", fail, raising=False)
    with pytest.raises(InputOutputError, match=r"a\.txt could not be read \(Input/output error\)"):
        list(source.codes("char"))


@pytest.mark.parametrize("name", ["nonsense", "hex", "rot13", "\0", "", "undefined"])
def test_encodings_that_do_not_exist(name):
    with pytest.raises(UsageError, match="--encoding"):
        check_encoding(name)
