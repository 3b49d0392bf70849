"""Conditions in pieces: values and texts in, values and texts out, wherever a text is cut; counts and limits."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.corpus import conditions
from charlm.corpus.conditions import ConditionCounts, prefix_codes, values_of, with_value, with_values, without_prefixes
from charlm.corpus.documents import split_documents
from charlm.corpus.pieces import Piece
from charlm.corpus.tables import TableOptions, make_piece, open_table
from charlm.corpus.trained_table import ModelConditions, TrainedTable
from charlm.errors import DataError, UsageError
from charlm.tokenizer.bytes import ByteTokenizer
from charlm.tokenizer.documents import DocumentTokenizer
from charlm.tokenizer.protocol import code_points

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), min_size=1, max_size=6)
KIND = st.sampled_from(["char", "byte"])


def texts_of(piece, kind):
    parts = np.split(piece.codes, piece.ends)[:-1]
    if kind == "byte":
        return [part.astype(np.uint8).tobytes().decode() for part in parts]
    return [part.astype("<u4").tobytes().decode("utf-32-le") for part in parts]


@given(texts=TEXTS, data=st.data(), kind=KIND)
def test_values_and_texts_come_back(texts, data, kind):
    values = data.draw(st.lists(st.text("abé\n\0", max_size=3), min_size=len(texts), max_size=len(texts)))
    piece = with_values(make_piece(values, kind), make_piece(texts, kind))
    assert values_of(piece, kind) == values
    assert texts_of(without_prefixes(piece), kind) == texts
    assert prefix_codes(piece).sum() == len(make_piece(values, kind).codes) + len(texts)


@given(st.text("ab\n", max_size=20), st.lists(st.integers(0, 20), max_size=5), st.booleans())
def test_one_value_for_all_documents_wherever_the_text_is_cut(text, cuts, keep_empty):
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    blocks = [code_points(text[start:stop]) for start, stop in itertools.pairwise(bounds) if start < stop]
    pieces = list(with_value(split_documents([blocks], "lines", keep_empty), "vé", "char"))
    plain = list(split_documents([blocks], "lines", keep_empty))
    assert [len(piece.ends) for piece in pieces] == [len(piece.ends) for piece in plain]
    joined = Piece(np.concatenate([np.zeros(0, np.uint32), *(piece.codes for piece in pieces)]), _ends(pieces))
    documents = texts_of(
        Piece(np.concatenate([np.zeros(0, np.uint8), *(p.codes for p in plain)]), _ends(plain)), "char"
    )
    assert len(joined.codes) == (joined.ends[-1] if len(joined.ends) else 0)  # no value without a document
    assert values_of(joined, "char") == ["vé"] * len(documents)
    assert texts_of(without_prefixes(joined), "char") == documents


def _ends(pieces):
    """The ends of all pieces in their concatenation."""
    offsets = np.cumsum([0, *(len(piece.codes) for piece in pieces)])
    return np.concatenate([np.zeros(0, np.int64), *(p.ends + o for p, o in zip(pieces, offsets, strict=False))]).astype(
        np.int64
    )


def test_counts_of_values_and_their_characters():
    counts = ConditionCounts()
    counts.add(["ab", "b", "ab"])
    assert counts.values == Counter({"ab": 2, "b": 1})
    assert counts.characters() == {ord("a"): 2, ord("b"): 3}


def test_too_many_values_are_refused(monkeypatch):
    monkeypatch.setattr(conditions, "MAX_VALUES", 3)
    counts = ConditionCounts()
    counts.add(["a", "b", "c"])
    with pytest.raises(DataError, match=r"more than 3 distinct values \(a, b, c, \.\.\.\); choose a column with a few"):
        counts.add(["d"])


def documents(path, **options):
    source = open_table([str(path)], TableOptions("name", given="kind", **options))
    return [
        (number, value, text)
        for block in source.blocks("char", keep_empty=False)
        for number, value, text in zip(
            block.numbers, values_of(block.piece, "char"), texts_of(without_prefixes(block.piece), "char"), strict=True
        )
    ]


def test_rows_without_a_text_or_a_condition_are_left_out_and_counted(tmp_path, caplog):
    path = tmp_path / "table.csv"
    path.write_text("name,kind\na, x \nb,\nc,   \n,y\n,\nd,y\n")
    with caplog.at_level("WARNING", logger="charlm"):
        assert documents(path) == [(1, "x", "a"), (6, "y", "d")]
    assert [record.getMessage() for record in caplog.records] == [
        "table: 2 rows without name and 2 rows without kind are left out"
    ]


def test_a_long_value_is_not_a_condition(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(f"name,kind\na,{'x' * 81}\n")
    with pytest.raises(DataError, match=r"the kind 'xxxx.*more than 80 characters; a condition is one of a few short"):
        documents(path)
    with pytest.raises(UsageError, match="'name' cannot be text and condition"):
        TableOptions("name", given="name")
    path.write_text("name,kind\n")
    with pytest.raises(UsageError, match="no column 'kid'; did you mean 'kind'"):
        open_table([str(path)], TableOptions("name", given="kid"))


TABLE = {"column": "name", "given": "kind", "values": {"y": 2, "x": 2, "Z a": 7}}


def test_what_a_model_keeps_of_its_table():
    table = TrainedTable.of({"table": TABLE}, "config.json")
    assert table.as_dict() == TABLE
    assert table.frequent() == [("Z a", 7), ("x", 2), ("y", 2)]
    table.check_value("x")
    with pytest.raises(UsageError, match=r"'z A' is not a known kind; did you mean 'Z a'\? known: Z a \(7\), x \(2\)"):
        table.check_value("z A")
    assert TrainedTable.of({}, "config.json") is None
    assert TrainedTable.of({"table": {"column": "name"}}, "config.json").as_dict() == {"column": "name"}


def test_a_table_and_a_tokenizer_that_do_not_fit_together():
    with_condition, without = (TrainedTable.of({"table": t}, "") for t in (TABLE, {"column": "name"}))
    plain, separated = (DocumentTokenizer(ByteTokenizer(), "rows", has_separator) for has_separator in (False, True))
    ModelConditions(with_condition, separated)
    for table, tokenizer in ((with_condition, plain), (without, separated), (None, separated)):
        with pytest.raises(DataError, match="the table and the tokenizer do not fit together"):
            ModelConditions(table, tokenizer)


@pytest.mark.parametrize(
    "damaged",
    [
        [], "name", {}, {"column": 3}, {"column": None}, {**TABLE, "given": 1}, {**TABLE, "given": None},
        {**TABLE, "values": {}}, {**TABLE, "values": [["x", 1]]}, {**TABLE, "values": {"x": -1}},
        {**TABLE, "values": {"x": True}}, {**TABLE, "values": {"x": 1.5}}, {**TABLE, "values": {"x": 2**60}},
    ],
)  # fmt: skip
def test_a_damaged_table_is_refused(damaged):
    with pytest.raises(DataError, match=r"config.json: table is damaged .*; restore it from a backup"):
        TrainedTable.of({"table": damaged}, "config.json")
