import gzip
import os

import numpy as np
import pytest

from charlm.corpus.text import BLOCK_BYTES, check_encoding, open_source
from charlm.errors import DataError, MissingInputError, UsageError


def read(names, encoding="utf-8", kind="char"):
    source = open_source([str(n) for n in names], encoding)
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


def test_gzip_is_unpacked(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(TEXT.encode()))
    assert read([path]) == TEXT


def test_blocks_do_not_cut_characters(tmp_path):
    text = "é" * (BLOCK_BYTES // 2) + "x中" * 300_000
    path = tmp_path / "a.txt"
    path.write_bytes(b"z" + text.encode())
    assert read([path]) == "z" + text


def test_a_missing_line_feed_is_inserted_between_files(tmp_path):
    for name, content in (("1.txt", "one"), ("2.txt", "two\n"), ("3.txt", "three")):
        (tmp_path / name).write_text(content, newline="")
    paths = sorted(tmp_path.iterdir())
    assert read(paths) == "one\ntwo\nthree"
    assert read(paths, kind="byte") == b"onetwo\nthree"


def test_folders_are_read_in_order_without_hidden_and_binary_files(tmp_path, caplog):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.py").write_text("b\n")
    (tmp_path / "a.txt").write_text("a\n")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("no")
    (tmp_path / "c.png").write_bytes(b"\x89PNG\0\0")
    assert read([tmp_path]) == "a\nb\n"
    assert "c.png" in caplog.text


def test_a_source_reads_the_same_twice(text_file):
    source = open_source([str(text_file)])
    first, second = ([c.tobytes() for c in source.codes("char")] for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ("café".encode("latin-1"), "--encoding cp1252"),
        ("hello there".encode("utf-16"), "--encoding utf-16"),
        (b"abc\xe4\xb8", "position 3"),
    ],
)
def test_wrong_encodings_say_what_to_do(tmp_path, content, hint):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=hint) as error:
        read([path])
    assert "\n" not in str(error.value)


def test_the_position_of_a_wrong_byte_is_counted_from_the_beginning(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a" * (BLOCK_BYTES - 1) + b"\xc3\xa9" + b"b" * 10 + b"\xff")
    with pytest.raises(DataError, match=f"0xFF at position {BLOCK_BYTES + 11}"):
        read([path])


@pytest.mark.parametrize(("encoding", "hint"), [("utf-16-le", "utf-16-le"), ("utf-16-be", "utf-16-be")])
def test_utf16_without_a_byte_order_mark_is_refused(tmp_path, encoding, hint):
    path = tmp_path / "a.txt"
    path.write_bytes("hello there, ä".encode(encoding))
    with pytest.raises(DataError, match=hint):
        read([path])
    assert read([path], encoding) == "hello there, ä"


def test_utf32_is_not_taken_for_utf16(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("hello".encode("utf-32"))
    with pytest.raises(DataError, match="UTF-32"):
        read([path])


def test_runs_in_a_folder_are_not_read(tmp_path):
    (tmp_path / "a.txt").write_text("a\n")
    run = tmp_path / "checkpoints" / "a"
    (run / "corpus").mkdir(parents=True)
    (run / "corpus" / "corpus.json").write_text("{}")
    (run / ".lock").touch()
    assert read([tmp_path]) == "a\n"


def test_the_byte_tokenizer_reads_any_file_of_a_folder(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\0\1\2")
    source = open_source([str(tmp_path)], any_file=True)
    assert b"".join(bytes(codes) for codes in source.codes("byte")) == b"\0\1\2"


def test_a_pipe_that_cannot_be_read_twice_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="stdin"):
        open_source([str(tmp_path / "pipe")])


def test_missing_empty_and_damaged_files(tmp_path):
    with pytest.raises(MissingInputError, match="does not exist"):
        open_source([str(tmp_path / "no.txt")])
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match="empty"):
        open_source([str(tmp_path / "empty.txt")])
    (tmp_path / "folder").mkdir()
    with pytest.raises(MissingInputError, match="no text file"):
        open_source([str(tmp_path / "folder")])
    for content in (b"not gzip", gzip.compress(b"x" * 1000)[:-9]):
        (tmp_path / "bad.gz").write_bytes(content)
        with pytest.raises(DataError, match="gzip"):
            read([tmp_path / "bad.gz"])


@pytest.mark.parametrize("name", ["nonsense", "hex", "rot13", "\0", "", "undefined"])
def test_encodings_that_do_not_exist(name):
    with pytest.raises(UsageError, match="--encoding"):
        check_encoding(name)
