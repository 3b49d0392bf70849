"""Tables together with packed files, encodings, invalid bytes, normal forms and the places of rows."""

import bz2
import gzip
import json
import lzma
import unicodedata
import zipfile

import numpy as np
import pytest

from charlm.corpus.encodings import Decoding
from charlm.corpus.preparation import log_warnings, prepare
from charlm.corpus.splitting import DocumentOptions
from charlm.corpus.tables import TableOptions, open_table, open_texts
from charlm.errors import DataError, UsageError
from charlm.tokenizer.protocol import SEPARATOR_CODE

ROWS = [("Zoë", "café", 1), ("Bo\nris", "hut", 2), ("naïve; x", "café", 3)]


def csv_text(rows=ROWS):
    return "name,kind,id\n" + "".join(f'"{name}",{kind},{number}\n' for name, kind, number in rows)


def documents(source, **options):
    """The documents of a table as texts, with their numbers, lines and files."""
    found = []
    for block in source.blocks("char", with_lines=True, **options):
        parts = np.split(block.piece.codes, block.piece.ends)[:-1]
        texts = [part.astype("<u4").tobytes().decode("utf-32-le") for part in parts]
        found += zip(texts, block.numbers, block.lines, [block.file] * len(texts), strict=True)
    return found


def texts(source, **options):
    return [text for text, *_ in documents(source, **options)]


def numbers_until_error(source):
    """The numbers of the rows before the error, and its message."""
    found = []
    try:
        for block in source.blocks("char"):
            found += block.numbers
    except DataError as error:
        return found, str(error)
    raise AssertionError("an error was expected")


def zipped(name):
    def pack(data, path):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, data)

    return pack


def with_zstd(data, path):
    zstd = pytest.importorskip("backports.zstd")
    path.write_bytes(zstd.compress(data))


PACKINGS = [
    ("t.csv.gz", lambda data, path: path.write_bytes(gzip.compress(data[:20]) + gzip.compress(data[20:]))),
    ("t.csv", lambda data, path: path.write_bytes(gzip.compress(data))),  # by its first bytes, not its name
    ("t.csv.bz2", lambda data, path: path.write_bytes(bz2.compress(data))),
    ("t.tsv.xz", lambda data, path: path.write_bytes(lzma.compress(data.replace(b",", b"\t")))),
    ("t.csv.zst", with_zstd),
    ("t.csv.zip", zipped("other.csv")),
    ("t.zip", zipped("folder/t.csv")),
]


@pytest.mark.parametrize(("name", "pack"), PACKINGS, ids=[name for name, _ in PACKINGS])
def test_a_packed_table_is_the_same_table(tmp_path, name, pack):
    path = tmp_path / name
    pack(csv_text().encode(), path)
    with pytest.raises(UsageError, match=r"is a table with the columns name, kind, id; choose one with --column"):
        open_texts([str(path)])
    assert texts(open_table([str(path)], TableOptions("name"))) == [row[0] for row in ROWS]


def test_a_packed_text_of_another_name_and_an_archive_of_several_tables_are_not_a_table(tmp_path):
    zipped("readme.txt")(b"name,kind\nab,c\n", tmp_path / "t.zip")
    assert open_texts([str(tmp_path / "t.zip")]).paths == [tmp_path / "t.zip"]
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.csv", "name\na\n")
        archive.writestr("b.csv", "name\nb\n")
    with pytest.raises(DataError, match="is a zip archive of 2 files, not text; unpack it with unzip"):
        open_table([str(tmp_path / "two.zip")], TableOptions("name"))


def test_a_file_that_is_not_text_is_refused_whatever_its_name(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"%PDF-1.4\n")
    with pytest.raises(DataError, match=r"t\.csv is a PDF document, not text") as raised:
        open_table([str(path)], TableOptions("name"))
    assert "--tokenizer" not in str(raised.value)  # a table is always characters


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json"])
def test_the_encoding_is_that_of_the_table(tmp_path, name):
    path = tmp_path / name
    content = csv_text()
    if name != "t.csv":
        rows = [json.dumps({"name": name, "kind": kind}, ensure_ascii=False) for name, kind, _ in ROWS]
        content = "\n".join(rows) if name == "t.jsonl" else f"[{','.join(rows)}]"
    path.write_text(content, encoding="cp1252")
    options = TableOptions("name", given="kind")
    assert texts(open_table([str(path)], TableOptions("name"), Decoding("cp1252"))) == [row[0] for row in ROWS]
    with pytest.raises(DataError, match=r"is not utf-8: byte 0xEB at position \d+, line \d+; if it is cp1252 \(.*Zoë"):
        texts(open_table([str(path)], options))


BAD = b"name,kind,id\nab,x,1\nb\xffc,x,2\ncd,\xff,3\nde,y,\xff\nef,y,5\n"


def test_invalid_bytes_are_replaced_and_counted(tmp_path):
    (tmp_path / "t.csv").write_bytes(BAD)
    source = open_table([str(tmp_path / "t.csv")], TableOptions("name"), Decoding(errors="replace"))
    assert texts(source) == ["ab", "b\ufffdc", "cd", "de", "ef"]
    assert (source.changes.replaced, source.changes.skipped) == (3, 0)
    assert texts(source) == ["ab", "b\ufffdc", "cd", "de", "ef"]
    assert source.changes.replaced == 3  # of one pass


def test_rows_with_invalid_bytes_in_their_text_or_condition_are_left_out(tmp_path):
    (tmp_path / "t.csv").write_bytes(BAD)
    skip = Decoding(errors="skip-document")
    source = open_table([str(tmp_path / "t.csv")], TableOptions("name"), skip)
    assert documents(source) == [("ab", 1, 2, 0), ("cd", 3, 4, 0), ("de", 4, 5, 0), ("ef", 5, 6, 0)]
    assert source.changes.skipped == 1
    (block,) = source.blocks("char", keep=["id", "kind"])
    assert block.kept == [["1", "3", "\ufffd", "5"], ["x", "\ufffd", "y", "y"]]
    given = open_table([str(tmp_path / "t.csv")], TableOptions("name", given="kind"), skip)
    (block,) = given.blocks("char")
    assert block.numbers == [1, 4, 5]
    assert given.changes.skipped == 2


@pytest.mark.parametrize("errors", ["replace", "skip-document"])
def test_a_corpus_of_a_table_counts_what_was_invalid(tmp_path, caplog, errors):
    rows = b"".join(b"name%d,x,1\n" % number for number in range(40))
    (tmp_path / "t.csv").write_bytes(BAD + rows)
    source = open_table([str(tmp_path / "t.csv")], TableOptions("name", given="kind"), Decoding(errors=errors))
    corpus = prepare(tmp_path / "corpus", source, documents=DocumentOptions("rows", conditional=True))
    log_warnings(corpus)
    total = sum(size.documents for size in corpus.sizes.values())
    if errors == "replace":
        assert (total, corpus.description["replaced"]) == (45, 3)
        assert "invalid bytes replaced by U+FFFD: 3" in caplog.text
    else:
        assert (total, corpus.description["skipped_documents"]) == (43, 2)
        assert "documents skipped for invalid bytes: 2" in caplog.text


@pytest.mark.parametrize("form", ["csv", "jsonl", "json"])
def test_the_rows_before_an_error_are_read(tmp_path, form):
    path = tmp_path / f"t.{form}"
    good = {"csv": b"name\nab\ncd\n", "jsonl": b'{"name": "ab"}\n{"name": "cd"}\n', "json": b'[{"name": "ab"},'}[form]
    bad = {"csv": b"e\xff\n", "jsonl": b'{"name": "e\xff"}\n', "json": b'{"name": "cd"}, x]'}[form]
    path.write_bytes(good + (b"\n" * 70_000 if form == "json" else b"") + bad)
    found, message = numbers_until_error(open_table([str(path)], TableOptions("name")))
    assert found == [1, 2]
    assert " is not " in message


def test_cells_and_conditions_are_normalized_and_delimiters_are_not(tmp_path):
    # NFKC makes a comma, a quote and a line end of these characters.
    name, kind = "Zoe\u0308\uff0c\uff02\u00a0x", "cafe\u0301"
    (tmp_path / "t.csv").write_text(f"name,kind,id\n{name},{kind},e\u0301\n", encoding="utf-8")
    options = TableOptions("name", given="kind")
    for form in ("nfc", "nfkc"):
        source = open_table([str(tmp_path / "t.csv")], options, Decoding(normalization=form))
        (block,) = source.blocks("char", keep=["id"])
        codes = [ord(c) for c in unicodedata.normalize(form.upper(), kind)] + [SEPARATOR_CODE]
        codes += [ord(c) for c in unicodedata.normalize(form.upper(), name)]
        assert block.piece.codes.tolist() == codes
        assert block.kept == [["e\u0301"]]
        assert source.changes.normalized == {"nfc": 4, "nfkc": 7}[form]


def test_a_row_has_the_line_on_which_it_begins(tmp_path):
    (tmp_path / "a.csv").write_text('name,id\n\nab,1\n"c\nd",2\n\n\nef,3\n')
    (tmp_path / "b.jsonl").write_text('\n{"name": "gh"}\n\n{"name": "ij"}\n')
    (tmp_path / "c.json").write_text('[{"name": "kl"},\n{"name": "mn"}]')
    source = open_table([str(tmp_path / name) for name in ("a.csv", "b.jsonl", "c.json")], TableOptions("name"))
    assert documents(source) == [
        ("ab", 1, 3, 0), ("c\nd", 2, 4, 0), ("ef", 3, 8, 0), ("gh", 1, 2, 1), ("ij", 2, 4, 1),
        ("kl", 1, None, 2), ("mn", 2, None, 2),
    ]  # fmt: skip


def test_lines_of_many_rows_in_small_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("charlm.corpus.blocks.BLOCK_BYTES", 1000)
    (tmp_path / "t.csv").write_text("name\n" + "".join(f'"n{number}\nx"\n' for number in range(1000)))
    source = open_table([str(tmp_path / "t.csv")], TableOptions("name"))
    expected = [(f"n{number}\nx", number + 1, 2 * number + 2, 0) for number in range(1000)]
    assert documents(source) == expected


def test_the_cells_before_an_error_are_as_many_in_each_column(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"name": "ab", "kind": "x"}\n{"name": "cd", "kind": [1]}\n')
    found, message = numbers_until_error(open_table([str(tmp_path / "t.jsonl")], TableOptions("name", given="kind")))
    assert found == [1]
    assert "row 2: kind holds a list" in message


def test_parquet_is_a_table_and_among_texts_it_is_left_out(tmp_path, caplog):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    texts_folder, tables = tmp_path / "texts", tmp_path / "tables"
    for folder in (texts_folder, tables):
        folder.mkdir()
        parquet.write_table(pyarrow.table({"name": ["ab", "cd"]}), folder / "t.parquet")
    (texts_folder / "a.txt").write_text("a text")
    source = open_texts([str(texts_folder)])
    assert source.paths == [texts_folder / "a.txt"]
    assert "skipped 1 file that is not text" in caplog.text
    for name in (tables, tables / "t.parquet"):
        with pytest.raises(UsageError, match="with the columns name"):
            open_texts([str(name)])
    assert documents(open_table([str(tables)], TableOptions("name"))) == [("ab", 1, None, 0), ("cd", 2, None, 0)]
    with pytest.raises(DataError, match="is a Parquet table, not text"):
        open_texts([str(tables / "t.parquet")], as_text=True)
    packed = tmp_path / "t.parquet.gz"
    packed.write_bytes(gzip.compress((tables / "t.parquet").read_bytes()))
    with pytest.raises(DataError, match="is a Parquet table, packed with gzip, not text; unpack it first"):
        open_table([str(packed)], TableOptions("name"))


def test_a_parquet_file_is_not_read_as_text_because_of_its_form(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes(b"PAR1\x15\x04 and more")
    source = open_texts([str(path)])  # it may be a table for a command that names a column
    with pytest.raises(DataError, match="is a Parquet table, not text"):
        list(source.codes("char"))
