"""Tables on the command line: one column is the text, and every command reads the same cells."""

import csv
import gzip
import json

import pytest
from commands import QUICK, charlm, one_line


def done(result):
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode()


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def run(table_file, tmp_path_factory):
    """A run on the names, without their regions."""
    out = tmp_path_factory.mktemp("runs") / "people"
    trained = charlm("train", table_file, "--column", "the name", "--out", out, *QUICK, "--steps", "40")
    assert trained.returncode == 0, trained.stderr.decode()
    stderr = trained.stderr.decode()
    assert "people: 12 rows without the name are left out" in stderr
    assert "documents (rows, column the name): 1,069 training, 60 validation, 59 test" in stderr
    return out


def test_a_table_is_not_learnt_as_it_stands_in_silence(table_file, tmp_path):
    result = charlm("train", table_file, *QUICK, cwd=tmp_path)
    assert result.returncode == 2
    assert one_line(result).endswith(
        "is a table with the columns id, the name, region, note; choose one with --column NAME, or read it as it "
        "stands with --as-text\n"
    )
    assert not list(tmp_path.iterdir())
    as_text = charlm("train", table_file, "--as-text", "--out", "raw", *QUICK, "--steps", "2", cwd=tmp_path)
    assert as_text.returncode == 0
    assert "documents" not in as_text.stderr.decode()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--column", "the nmae"], "has no column 'the nmae'; did you mean 'the name'? its columns are id, the name"),
        (["--column", "the name", "--documents", "lines"], "with --column each row is a document"),
        (["--column", "the name", "--as-text"], "--as-text reads all of a table"),
        (["--delimiter", ";"], "--delimiter is for a column of a table; add --column NAME"),
        (["--column", "the name", "--delimiter", ";;"], "--delimiter must be one character, such as ';' or tab"),
        (["--column", "the name", "--state-reset", "0.1"], "--state-reset has no effect on documents"),
    ],
)
def test_contradictions_and_wrong_names_are_refused(table_file, tmp_path, options, message):
    result = charlm("train", table_file, *options, *QUICK, cwd=tmp_path)
    assert result.returncode == 2
    assert message in one_line(result)
    assert not list(tmp_path.iterdir())


def test_the_same_table_in_other_forms_gives_the_same_model(table_file, run, tmp_path):
    rows = rows_of(table_file)
    (tmp_path / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with open(tmp_path / "people.tsv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "people.csv.gz").write_bytes(gzip.compress(table_file.read_bytes()))
    weights = set()
    for name in ("people.jsonl", "people.tsv", "people.csv.gz"):
        out = tmp_path / f"run of {name}"
        done(charlm("train", tmp_path / name, "--column", "the name", "--out", out, *QUICK, "--steps", "40"))
        weights.add((out / "step-40" / "model.safetensors").read_bytes())
    assert weights == {(run / "step-40" / "model.safetensors").read_bytes()}


def test_a_run_on_a_table_is_resumed_unless_the_table_changed(table_file, tmp_path):
    path = tmp_path / "people.csv"
    path.write_bytes(table_file.read_bytes())
    done(charlm("train", path, "--column", "the name", "--out", "run", *QUICK, "--steps", "5", cwd=tmp_path))
    done(charlm("train", "--resume", "--out", "run", "--steps", "8", cwd=tmp_path))
    path.write_bytes(table_file.read_bytes() + b"9,Nobody,north,\n")
    result = charlm("train", "--resume", "--out", "run", "--steps", "9", cwd=tmp_path)
    assert result.returncode == 65
    assert "has changed since training began" in one_line(result)


def test_generated_rows_are_separated_as_their_cells_allow(table_file, run, tmp_path):
    options = ["--samples", "5", "--length", "20", "--seed", "1"]
    assert len(done(charlm("generate", "-c", run, *options)).splitlines()) == 5
    done(charlm("train", table_file, "--column", "note", "--out", "notes", *QUICK, "--steps", "5", cwd=tmp_path))
    written = done(charlm("generate", "-c", "notes", *options, cwd=tmp_path))
    assert written.count("\n---\n") == 4  # a note has line ends


def test_info_and_the_card_name_the_column(run):
    assert "column the name" in done(charlm("info", "-c", run))
    assert json.loads(done(charlm("info", "-c", run, "--json")))["table"] == {"column": "the name"}
    assert "--column 'the name'" in (run / "README.md").read_text()


# ---------------------------------------------------------------------------------------------------- other commands


def names_of(path):
    """(number of the row, name) of the rows that have a name."""
    return [(number, row["the name"]) for number, row in enumerate(rows_of(path), start=1) if row["the name"]]


@pytest.fixture(scope="module")
def lines(table_file, tmp_path_factory):
    """The names as lines of a text."""
    path = tmp_path_factory.mktemp("text") / "names.txt"
    path.write_text("".join(f"{name}\n" for _, name in names_of(table_file)))
    return path


def test_eval_reads_the_cells_of_a_table(table_file, run, lines, tmp_path):
    expected = json.loads(done(charlm("eval", lines, "-c", run, "--json")))
    assert expected["documents"] == 1188
    for words in ([table_file], [table_file, "--column", "the name"], [table_file, "--column", "2"]):
        found = json.loads(done(charlm("eval", *words, "-c", run, "--json")))
        assert {**found, "corpus": ""} == {**expected, "corpus": ""}
    (tmp_path / "few.csv").write_text("the name;id\nSven;1\n;2\nMara;3\n")
    piped = charlm("eval", "-", "--column", "the name", "-c", run, "--json", stdin=(tmp_path / "few.csv").read_bytes())
    assert json.loads(done(piped))["documents"] == 2
    assert "stdin: 1 rows without the name are left out" in piped.stderr.decode()


def test_score_numbers_rows_and_keeps_columns(table_file, run, tmp_path):
    result = done(charlm("score", table_file, "-c", run, "--csv", "--keep", "region", "--keep", "id"))
    scored = list(csv.DictReader(result.splitlines()))
    assert list(scored[0])[-3:] == ["document", "region", "id"]
    rows = rows_of(table_file)
    assert [(row["number"], row["document"]) for row in scored] == [
        (str(number), row["the name"]) for number, row in enumerate(rows, start=1)
    ]
    assert [(row["id"], row["region"]) for row in scored] == [(row["id"], row["region"]) for row in rows]
    alone = done(charlm("score", "-c", run, stdin=b"Gulrik\nMaraluci\n")).splitlines()
    (tmp_path / "two.jsonl").write_text('{"name": "Gulrik", "number": 7}\n{"name": "Maraluci", "number": null}\n')
    words = ["score", tmp_path / "two.jsonl", "--column", "name", "-c", run]
    place = f"{tmp_path / 'two.jsonl'}:"
    assert done(charlm(*words)).splitlines() == [line.replace("-:", place) for line in alone]
    kept = [json.loads(line) for line in done(charlm(*words, "--keep", "number", "--json")).splitlines()]
    assert [(row["number"], row["row.number"]) for row in kept] == [(1, "7"), (2, "")]
    shown = done(charlm(*words, "--keep", "number")).splitlines()
    assert [line.split("\t")[2:] for line in shown] == [[f"{place}1", "7", "Gulrik"], [f"{place}2", "", "Maraluci"]]


def test_the_least_likely_rows_keep_their_cells(run, tmp_path):
    path = tmp_path / "few.csv"
    path.write_text('id,the name\na,Sven\nb,"X\nqz"\nc,\nd,Mara\n')
    top = done(charlm("score", path, "-c", run, "--top", "1", "--keep", "id", "--csv"))
    (row,) = csv.DictReader(top.splitlines(keepends=True))
    assert (row["number"], row["document"], row["id"]) == ("2", "X\nqz", "b")
    assert "X\\nqz" in done(charlm("score", path, "-c", run, "--top", "1"))


def test_stdin_is_scored_as_a_table_where_a_column_is_named(run):
    table = b"id,name\n1,Sven\n2,Mara\n"
    rows = done(charlm("score", "-c", run, "--column", "name", "--csv", stdin=table))
    assert [row["document"] for row in csv.DictReader(rows.splitlines())] == ["Sven", "Mara"]
    assert len(done(charlm("score", "-c", run, stdin=table)).splitlines()) == 3  # a text


def test_a_model_of_text_refuses_a_table_without_a_column(trained_run, table_file):
    for command in ("eval", "score"):
        result = charlm(command, table_file, "-c", trained_run)
        assert result.returncode == 2
        assert "choose one with --column NAME, or read it as it stands with --as-text" in one_line(result)
    assert "--column" not in one_line(charlm("generate", "--adapt", table_file, "-c", trained_run))
    raw = json.loads(done(charlm("eval", table_file, "--as-text", "-c", trained_run, "--json")))
    assert raw["characters"] == len(table_file.read_bytes().decode())
    one_text = json.loads(done(charlm("eval", table_file, "--column", "the name", "-c", trained_run, "--json")))
    assert one_text["characters"] == sum(len(name) + 1 for _, name in names_of(table_file))


def test_models_are_compared_on_a_column(table_file, run, tmp_path):
    options = ["--column", "the name", "--out", "other", "--seed", "1", *QUICK, "--steps", "20"]
    done(charlm("train", table_file, *options, cwd=tmp_path))
    compared = json.loads(done(charlm("compare", run, "other", table_file, "--json", cwd=tmp_path)))
    assert compared["a"]["documents"] == 1188
    assert json.loads(done(charlm("compare", run, "other", "--json", cwd=tmp_path)))["a"]["documents"] == 59


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "--column", "the name"], "say how a text is read; name one: charlm eval FILE"),
        (["score", "FILE", "--documents", "lines"], "each row of a table is a document; leave out --documents"),
        (["score", "FILE", "--keep", "price"], "has no column 'price'; its columns are id, the name"),
        (["score", "FILE", "--as-text", "--keep", "id"], "--keep is for the rows of a table"),
        (["score", "FILE", "--html", "page.html", "--keep", "id"], "leave out --keep"),
        (["eval", "FILE", "--column", "id", "--as-text"], "--as-text reads all of a table"),
    ],
)
def test_contradictions_of_other_commands(table_file, run, words, message):
    result = charlm(*[table_file if word == "FILE" else word for word in words], "-c", run)
    assert result.returncode == 2
    assert message in one_line(result)
