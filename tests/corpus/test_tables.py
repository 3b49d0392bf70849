"""Tables: every cell is read as it was written, whatever the form of the file and wherever a block ends."""

import csv
import gzip
import io
import json
import logging
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.corpus import table_readers
from charlm.corpus.encodings import Decoding
from charlm.corpus.table_readers import TextFile
from charlm.corpus.tables import TableOptions, is_table, open_table, open_texts
from charlm.errors import DataError, MissingInputError, UsageError

NUL_IS_READ = sys.version_info >= (3, 11)
"""Python 3.10's csv module refuses NUL."""
CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="" if NUL_IS_READ else "\0"), max_size=12)
AWKWARD = st.sampled_from(
    ['"', '""', "\r", "\n", "\r\n", ",", ";", "\t", "|", "'", "\\", "\ufeff", "\u2028", "\x85", " "]
)
ROWS = st.lists(st.lists(CELLS | AWKWARD, max_size=3).map("".join), min_size=1, max_size=12)


def texts(path, column="name", kind="char", keep_empty=False, **options):
    """The documents of a table, as texts."""
    decoding = Decoding(options.pop("encoding", "utf-8"))
    source = open_table([str(path)], TableOptions(column, **options), decoding)
    found = []
    for block in source.blocks(kind, keep_empty=keep_empty):
        codes, ends, _ = block.piece
        assert len(block.numbers) == len(ends)
        assert len(codes) == (ends[-1] if len(ends) else 0)
        for document in np.split(codes, ends[:-1]) if len(ends) else []:
            data = document.astype(np.uint8 if kind == "byte" else "<u4").tobytes()
            found.append(data.decode("utf-8" if kind == "byte" else "utf-32-le"))
    return found


def write_csv(path, rows, encoding="utf-8", **dialect):
    with open(path, "w", newline="", encoding=encoding) as file:
        csv.writer(file, **dialect).writerows(rows)


def as_text_file(path):
    return TextFile(path, Decoding(), str(path))


def in_small_blocks(monkeypatch, size):
    """Read files in blocks of ``size`` bytes."""

    def small(path, name, *, offers_bytes):
        with open(path, "rb") as file:
            while data := file.read(size):
                yield data

    monkeypatch.setattr(table_readers, "read_blocks", small)


# ---------------------------------------------------------------------------------------------------- delimited text


@settings(max_examples=150)
@given(
    rows=ROWS,
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    block=st.integers(1, 40),
    position=st.integers(0, 2),
    kind=st.sampled_from(["char", "byte"]),
)
def test_what_csv_writes_is_read_back(tmp_path_factory, rows, delimiter, quoting, block, position, kind):
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    others = ["id", "note"]
    header = [*others[:position], "name", *others[position:]]
    lines = [[*[str(n), "x"][:position], row, *[str(n), "x"][position:]] for n, row in enumerate(rows)]
    write_csv(path, [header, *lines], delimiter=delimiter, quoting=quoting)
    with pytest.MonkeyPatch.context() as patch:
        in_small_blocks(patch, block)
        assert texts(path, kind=kind, keep_empty=True) == rows
        assert texts(path, kind=kind) == [row for row in rows if row]


@settings(max_examples=50)
@given(rows=ROWS, block=st.integers(1, 40))
def test_a_table_of_one_column_is_read_back(tmp_path_factory, rows, block):
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    write_csv(path, [["name"], *([row] for row in rows)])
    with pytest.MonkeyPatch.context() as patch:
        in_small_blocks(patch, block)
        assert texts(path, keep_empty=True) == rows


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_ends_a_row(tmp_path, end):
    path = tmp_path / "table.csv"
    path.write_bytes(end.join(["id,name", "1,ab", "", '2,"c"', "3,d"]).encode())
    assert texts(path) == ["ab", "c", "d"]


def test_delimiters_are_guessed_from_the_agreement_of_rows(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("name;price,net\na,b;1\nc;2,50\nd, e, f;3\n")
    assert texts(path) == ["a,b", "c", "d, e, f"]
    assert texts(path, "name;price", delimiter=",") == ["a", "c;2", "d"]
    (tmp_path / "table.tsv").write_text("name\tone,two,three\na\tb,c,d\n")
    assert texts(tmp_path / "table.tsv") == ["a"]
    assert texts(tmp_path / "table.tsv", "two", delimiter=",") == ["c"]
    for wrong in ("", ";;", '"', "\n"):
        with pytest.raises(UsageError, match="--delimiter must be one character"):
            TableOptions("name", wrong)
    assert TableOptions("name", "tab").delimiter == "tab"


@pytest.mark.parametrize(("encoding", "given"), [("utf-8-sig", "utf-8"), ("utf-16", "utf-16"), ("cp1252", "cp1252")])
def test_encodings_and_byte_order_marks(tmp_path, encoding, given):
    path = tmp_path / "table.csv"
    write_csv(path, [["name", "id"], ["naïve", "1"]], encoding=encoding)
    assert texts(path, encoding=given) == ["naïve"]


def test_a_wrong_encoding_is_named_with_options_that_help(tmp_path):
    path = tmp_path / "table.csv"
    write_csv(path, [["name", "id"], ["naïve", "1"]], encoding="cp1252")
    with pytest.raises(DataError, match=r"is not utf-8: byte 0xEF at position 11.*--encoding cp1252") as raised:
        texts(path)
    assert "--tokenizer" not in str(raised.value)


def test_columns_are_chosen_by_name_or_number(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("id, name ,name2,id\n1,ab,x,3\n2,cd,y,4\n")
    assert texts(path, "name") == texts(path, "2") == ["ab", "cd"]
    assert texts(path, "4") == ["3", "4"]
    with pytest.raises(DataError, match="has 2 columns named 'id'; choose one by its number: 1, 4"):
        texts(path, "id")
    with pytest.raises(
        UsageError, match=r"no column 'nmae'; did you mean 'name'\? its columns are id, name, name2, id"
    ):
        texts(path, "nmae")
    with pytest.raises(UsageError, match="did you mean 'name'"):
        texts(path, "NAME")
    with pytest.raises(UsageError, match=r"no column '5'; its columns"):
        texts(path, "5")


def test_many_columns_are_listed_in_one_short_line(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(",".join(f"column{number}" for number in range(500)) + "\n")
    with pytest.raises(UsageError, match=r"\.\.\. \(500\)") as raised:
        texts(path, "absent")
    assert len(str(raised.value)) < 400


def test_rows_with_too_few_or_too_many_cells_are_told(tmp_path, caplog):
    path = tmp_path / "table.csv"
    path.write_text("id,name,price\n1,a,2\n2\n3,c\n4,d,5,6\n5,e,6\n")
    source = open_table([str(path)], TableOptions("name"))
    with caplog.at_level(logging.WARNING, logger="charlm"):
        numbers = [number for block in source.blocks("char") for number in block.numbers]
        list(source.blocks("char"))
    assert numbers == [1, 3, 4, 5]
    ragged, missing = (record.getMessage() for record in caplog.records)  # each only once
    assert "3 rows have fewer or more cells than the header, the first of them row 2" in ragged
    assert "1 rows without name are left out" in missing


@pytest.fixture
def limit_cells(monkeypatch):
    """A function that sets the process's limit of the csv module, whatever charlm asks for."""
    before = csv.field_size_limit()
    real = csv.field_size_limit
    yield lambda limit: monkeypatch.setattr(csv, "field_size_limit", lambda wanted=None: real(limit))
    real(before)


def test_long_cells_and_quotes_that_are_never_closed(tmp_path, monkeypatch, limit_cells):
    path = tmp_path / "table.csv"
    long = "ab\n" * 100_000
    write_csv(path, [["id", "name"], ["1", long], ["2", "b"]])
    assert texts(path) == [long, "b"]
    monkeypatch.setattr(table_readers, "MAX_CELL", 200_000)
    limit_cells(200_000)
    with pytest.raises(DataError, match=r"table.csv, line \d+: field larger than field limit.*quote not closed"):
        texts(path)
    path.write_text("id,name\n1," + "a" * 300_000)
    in_small_blocks(monkeypatch, 50_000)
    with pytest.raises(DataError, match="a line or row of more than 200,000 characters"):
        texts(path)


@pytest.mark.parametrize("block", [1, 2, 7, 1000])
def test_an_error_has_the_number_of_its_line(tmp_path, monkeypatch, limit_cells, block):
    path = tmp_path / "table.csv"
    write_csv(path, [["id", "name"], *(["1", "ab"] for _ in range(3)), ["1", "x" * 200], ["1", "ab"]])
    in_small_blocks(monkeypatch, block)
    limit_cells(100)
    source = open_table([str(path)], TableOptions("1"))  # the header is read without the limit
    with pytest.raises(DataError, match=r"table.csv, line 5: field larger"):
        list(source.blocks("char"))


# ---------------------------------------------------------------------------------------------------- JSON


@settings(max_examples=100)
@given(
    rows=ROWS,
    block=st.integers(1, 40),
    suffix=st.sampled_from([".jsonl", ".ndjson", ".json"]),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 0, 3]),
)
def test_what_json_writes_is_read_back(tmp_path_factory, rows, block, suffix, ascii_only, indent):
    path = tmp_path_factory.mktemp("json") / f"table{suffix}"
    objects = [{"id": number, "name": row, "more": [1, {"a": "]"}]} for number, row in enumerate(rows)]
    if suffix == ".json":
        written = json.dumps(objects, ensure_ascii=ascii_only, indent=indent)
    else:
        written = "".join(json.dumps(each, ensure_ascii=ascii_only) + "\n" for each in objects).removesuffix("\n")
    path.write_bytes(written.encode())
    with pytest.MonkeyPatch.context() as patch:
        in_small_blocks(patch, block)
        assert is_table(as_text_file(path))
        assert texts(path, keep_empty=True) == rows
        assert texts(path, "id") == [str(number) for number in range(len(rows))]


VALUES = (
    '[{"v": 1.50}, {"v": 12345678901234567890}, {"v": null}, {"w": 1}, {"v": NaN}, {"v": true}, {"v": ""}, {"v": -0}]'
)


def test_numbers_keep_their_digits_and_null_is_missing(tmp_path):
    (tmp_path / "table.json").write_text(VALUES)
    assert texts(tmp_path / "table.json", "v") == ["1.50", "12345678901234567890", "true", "-0"]
    assert texts(tmp_path / "table.json", "v", keep_empty=True).count("") == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", '{"name": "a"}\n{"name": "b"\n', "t.jsonl, line 2 is not valid JSON"),
        ("t.jsonl", '{"name": "a"}\n\n{"name": "b"} x\n', "t.jsonl, line 3 is not valid JSON"),
        ("t.jsonl", '{"name": "a"}\n["b"]\n', "t.jsonl, row 2 is not an object"),
        ("t.jsonl", '{"name": "a"}\n{"name": ["b"]}\n', "t.jsonl, row 2: name holds a list, not a text"),
        ("t.jsonl", '{"name": "a"}\n' + "[" * 100_000, "t.jsonl, line 2 is not valid JSON"),
        ("t.json", '[{"name": "a"} {"name": "b"}]', "t.json, row 2 is not valid JSON"),
        ("t.json", '[{"name": "a"}, {"name": "b"}', "t.json, row 3 is not valid JSON"),
        ("t.json", '[{"name": "a"}, {"name": "b]', "t.json, row 2 is not valid JSON"),
        ("t.json", '[{"name": "a"}] x', "t.json, row 2 is not valid JSON"),
        ("t.json", '[{"name": "a"}, 3]', "t.json, row 2 is not an object"),
        ("t.json", '[{"name": "a"},]', "t.json, row 2 is not valid JSON"),
        ("t.json", '[{"name": "a"}, {"name": "b\\ud800"}]', r"the cell 'b\\ud800' has half of a character"),
    ],
)
def test_damaged_json_is_refused_with_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    for kind in ("char", "byte"):
        with pytest.raises(DataError, match=message):
            texts(tmp_path / name, kind=kind)


def test_a_key_that_appears_late_is_found(tmp_path):
    path = tmp_path / "table.jsonl"
    path.write_text('{"id": 1}\n' * 5000 + '{"name": "late"}\n')
    assert texts(path) == ["late"]
    with pytest.raises(UsageError, match="no column 'nmae'; its columns are id"):
        texts(path, "nmae")


# ---------------------------------------------------------------------------------------------------- other forms


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    cells = ["a\nb", None, "", 'é"', "z"]
    columns = {"name": cells, "price": [1.5, None, float("nan"), 2.0, 3.0], "tags": [["a"]] * 5}
    path = tmp_path / "table.parquet"
    parquet.write_table(arrow.table(columns), path)
    assert texts(path) == ["a\nb", 'é"', "z"]
    assert texts(path, keep_empty=True) == ["a\nb", "", "", 'é"', "z"]
    assert texts(path, "price") == ["1.5", "2.0", "3.0"]
    with pytest.raises(DataError, match="row 1: tags holds a list"):
        texts(path, "tags")
    with pytest.raises(UsageError, match="did you mean 'name'"):
        texts(path, "nam")
    path.rename(tmp_path / "unnamed")
    assert texts(tmp_path / "unnamed") == ["a\nb", 'é"', "z"]
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="not a Parquet file"):
        texts(path)


def test_parquet_without_its_library(tmp_path, monkeypatch):
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingInputError, match=r"pip install 'charlm-lstm\[tables\]'"):
        texts(tmp_path / "table.parquet")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data", "name,id\nab,1\n"),
        ("data.txt", "name|id\nab|1\n"),
        ("data", '{"name": "ab"}\n'),
        ("data", '\n [{"name": "ab"}]'),
        ("data.CSV", "name,id\nab,1\n"),
    ],
)
def test_a_named_column_makes_any_file_a_table(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert texts(tmp_path / name) == ["ab"]
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    assert texts(tmp_path / f"{name}.gz") == ["ab"]


def test_stdin_is_a_table_where_a_column_is_named(tmp_path, monkeypatch):
    class Stdin:
        buffer = io.BytesIO(b"name,id\nab,1\n")

    monkeypatch.setattr(sys, "stdin", Stdin())
    source = open_texts(["-"], spool=tmp_path / "spool", table=TableOptions("name"))
    assert [block.piece.codes.tobytes() for block in source.blocks("char")] == [b"ab"]


# ---------------------------------------------------------------------------------------------------- which files


def test_a_table_without_a_column_is_refused(tmp_path):
    for name, content in [("a.csv", "id,name\n1,b\n"), ("b.jsonl", '{"id": 1, "name": "b"}'),
                          ("c.json", '[{"id": 1, "name": "b"}]'), ("d.tsv", "id\tname\n")]:  # fmt: skip
        path = tmp_path / name
        path.write_text(content)
        with pytest.raises(UsageError, match=r"is a table with the columns id, name; .*--column NAME.*--as-text"):
            open_texts([str(path)])
        assert open_texts([str(path)], as_text=True).paths == [path]
    with pytest.raises(UsageError, match="is a folder of tables with the columns id, name"):
        open_texts([str(tmp_path)])


@pytest.mark.parametrize(
    "content",
    ['{"name": "package", "private": true}', '{\n  "name": "package"\n}\n', '["a", "b"]', "[]", "[[1, 2]]", "not JSON"],
)
def test_a_json_file_of_another_form_is_a_text(tmp_path, content):
    path = tmp_path / "settings.json"
    path.write_text(content)
    assert not is_table(as_text_file(path))
    assert open_texts([str(path)]).paths == [path]


def test_a_folder_is_read_by_its_tables_and_a_mixed_one_is_a_text(tmp_path):
    (tmp_path / "b.csv").write_text("name\nb\n")
    (tmp_path / "a.jsonl").write_text('{"name": "a"}\n')
    (tmp_path / "readme.txt").write_text("about the tables")
    assert texts(tmp_path) == ["a", "b"]
    assert len(open_texts([str(tmp_path)]).paths) == 3
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("no table")
    with pytest.raises(MissingInputError, match=r"no table in it \(\.csv"):
        texts(tmp_path / "empty")


def test_several_tables_may_have_their_columns_in_any_order(tmp_path):
    (tmp_path / "a.csv").write_text("id,name\n1,a\n")
    (tmp_path / "b.csv").write_text("name,id\n,7\nb,2\n")
    source = open_table([str(tmp_path / "a.csv"), str(tmp_path / "b.csv")], TableOptions("name"))
    blocks = list(source.blocks("char", keep=["id"]))
    assert [block.numbers for block in blocks] == [[1], [2]]
    assert [block.kept for block in blocks] == [[["1"]], [["2"]]]
    assert b"".join(codes.tobytes() for codes in source.codes("char")) == b"a\nb\n"


@pytest.mark.parametrize("form", ["csv", "jsonl", "json"])
def test_a_table_is_read_in_constant_memory(tmp_path, monkeypatch, form):
    path = tmp_path / f"table.{form}"
    rows, block = 12_000, 1 << 15
    with open(path, "w", encoding="utf-8", newline="") as file:
        if form == "csv":
            file.write("id,name\n" + f'1,"{"naïve " * 20}"\n' * rows)
        else:
            line = json.dumps({"id": 1, "name": "naïve " * 20})
            file.write(f"[{', '.join([line] * rows)}]" if form == "json" else f"{line}\n" * rows)
    assert path.stat().st_size > 48 * block
    in_small_blocks(monkeypatch, block)
    source = open_table([str(path)], TableOptions("name"))
    tracemalloc.start()
    count = sum(len(block.numbers) for block in source.blocks("char"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == rows
    assert peak < path.stat().st_size / 2
