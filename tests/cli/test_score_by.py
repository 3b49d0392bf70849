"""``charlm score --by``: a row for each character or word, with its place, in every form of output."""

import csv
import io
import json

import pytest
from commands import charlm, one_line

import charlm as library

TEXT = "the cat  sat\non a naïve mat"


def objects(result):
    assert result.returncode == 0, result.stderr.decode()
    return [json.loads(line) for line in result.stdout.decode().splitlines()]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_characters_have_their_place_bits_entropy_and_rank(trained_run, file):
    found = objects(charlm("score", file, "-c", trained_run, "--by", "character", "--json"))
    expected = library.load(trained_run).score_characters(TEXT)
    assert [row["character"] for row in found] == [*TEXT] == expected.characters
    assert [row["bits"] for row in found] == pytest.approx(expected.bits, rel=1e-4)
    assert [row["entropy"] for row in found] == pytest.approx(expected.entropy, rel=1e-4)
    assert [row["rank"] for row in found] == expected.rank.tolist()
    assert [row["position"] for row in found] == [*range(1, len(TEXT) + 1)]
    lines = TEXT.split("\n")
    assert all((lines[row["line"] - 1] + "\n")[row["column"] - 1] == row["character"] for row in found)
    assert {(row["number"], row["file"]) for row in found} == {(1, str(file))}


def test_words_have_the_sum_of_the_bits_of_their_characters(trained_run, file):
    found = objects(charlm("score", file, "-c", trained_run, "--by", "word", "--json"))
    bits = library.load(trained_run).score_characters(TEXT).bits
    assert [row["word"] for row in found] == TEXT.split()
    for row in found:
        first, after = row["position"] - 1, row["position"] - 1 + row["characters"]
        assert TEXT[first:after] == row["word"]
        assert row["bits"] == pytest.approx(bits[first:after].sum(), rel=1e-4)
        assert row["bits_after"] == (pytest.approx(bits[after], rel=1e-3) if after < len(bits) else None)
    assert [(row["line"], row["column"]) for row in found] == [(1, 1), (1, 5), (1, 10), (2, 1), (2, 4), (2, 6), (2, 12)]


@pytest.mark.parametrize("unit", ["character", "word"])
def test_all_forms_have_the_same_rows(document_run, unit):
    stdin, options = b"the cat\n\n=on\ta mat\n", ["-c", document_run, "--by", unit]
    rows = objects(charlm("score", *options, "--json", stdin=stdin))
    tables = {}
    for form in ("--csv", "--raw-csv"):
        table = charlm("score", *options, form, stdin=stdin).stdout.decode()
        tables[form] = list(csv.DictReader(io.StringIO(table, newline="")))
        assert list(tables[form][0]) == list(rows[0])
    assert [float(row["bits"]) for row in tables["--csv"]] == [row["bits"] for row in rows]
    assert [row[unit] for row in tables["--raw-csv"]] == [row[unit] for row in rows]
    assert any(row[unit].startswith("'=") for row in tables["--csv"])
    lines = charlm("score", *options, stdin=stdin).stdout.decode().splitlines()
    assert [line.split("\t")[0] for line in lines] == [f"{row['bits']:.4f}" for row in rows]
    places = [f"\t-:{row['line']}:{row['column']}\t" for row in rows]
    assert all(place in line for place, line in zip(places, lines, strict=True))
    if unit == "character":
        assert [row["number"] for row in rows if row["character"] == ""] == [1, 2, 3]  # end markers
    else:
        assert [row["word"] for row in rows] == ["the", "cat", "=on", "a", "mat"]
        assert all(row["bits_after"] is not None for row in rows)


def test_the_most_and_the_least_surprising_words(trained_run, file):
    every = objects(charlm("score", file, "-c", trained_run, "--by", "word", "--json"))
    for option, reverse in (("--top", True), ("--bottom", False)):
        found = objects(charlm("score", file, "-c", trained_run, "--by", "word", option, 3, "--json"))
        assert found == sorted(every, key=lambda row: row["bits"], reverse=reverse)[:3]


def test_documents_are_chosen_as_without_by(document_run):
    stdin = b"the cat sat\nzzzz qq 12\non a mat\n"
    options = ["-c", document_run, "--by", "word", "--json"]
    above = objects(charlm("score", *options, "--above", "99%", stdin=stdin))
    assert [row["word"] for row in above] == ["zzzz", "qq", "12"]
    long = objects(charlm("score", *options, "--min-length", 9, stdin=stdin))
    assert {row["number"] for row in long} == {1, 2}


def test_rows_of_a_table_keep_their_columns_and_conditions(table_run, tmp_path):
    (tmp_path / "t.csv").write_text("id,the name,region\n7,Bjor Sven,north\n8,Marco,south\n")
    words = objects(charlm("score", tmp_path / "t.csv", "-c", table_run, "--by", "word", "--keep", "id", "--json"))
    assert [(row["word"], row["id"], row["line"], row["column"]) for row in words] == [
        ("Bjor", "7", 2, None), ("Sven", "7", 2, None), ("Marco", "8", 3, None),
    ]  # fmt: skip
    expected = library.load(table_run).score_words("Marco", given="south")
    assert words[2]["bits"] == pytest.approx(expected[0].bits, rel=1e-4)
    shown = charlm("score", tmp_path / "t.csv", "-c", table_run, "--by", "word", "--keep", "id").stdout.decode()
    assert [line.split("\t")[1:] for line in shown.splitlines()] == [
        [f"{tmp_path / 't.csv'}:2:1", "7", "Bjor"], [f"{tmp_path / 't.csv'}:2:6", "7", "Sven"],
        [f"{tmp_path / 't.csv'}:3:1", "8", "Marco"],
    ]  # fmt: skip


def test_by_document_is_the_default(document_run):
    stdin = b"the cat\n"
    plain = charlm("score", "-c", document_run, stdin=stdin).stdout
    assert charlm("score", "-c", document_run, "--by", "document", stdin=stdin).stdout == plain


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--by", "sentence"], "character, word or document, not 'sentence'"),
        (["--by", "word", "--highlight"], "leave out --highlight"),
        (["--by", "word", "--html", "page.html"], "leave out --highlight, --html"),
        (["--by", "character", "--percentile"], "--percentile"),
    ],
)
def test_mistakes(document_run, tmp_path, options, hint):
    result = charlm("score", "-c", document_run, *options, stdin=b"the cat\n", cwd=tmp_path)
    assert (result.returncode, hint in one_line(result)) == (2, True)
