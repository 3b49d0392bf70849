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
        (["--column", "the name", "--as-text"], "--as-text is not a column of a table"),
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
