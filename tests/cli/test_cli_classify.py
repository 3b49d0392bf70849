"""``charlm classify``: a value for each row, with its probability, and how often it is the true one."""

import csv
import json

import pytest
from commands import QUICK, charlm, one_line

import charlm as library


def done(result):
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode()


@pytest.fixture(scope="module")
def few(table_file, tmp_path_factory):
    """The first rows of the table, some without a region, and one with an unknown region."""
    path = tmp_path_factory.mktemp("few") / "few.csv"
    with open(table_file, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:160]
    rows[0]["region"] = "atlantis"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_rows_are_classified_as_in_python(table_run, few):
    result = charlm("classify", few, "-c", table_run, "--csv", "--keep", "id", "--top", "2")
    rows = list(csv.DictReader(done(result).splitlines()))
    assert list(rows[0]) == [
        "number", "value", "probability", "value_2", "probability_2", "true_value", "document", "id",
    ]  # fmt: skip
    with open(few, encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["number"], row["document"], row["id"], row["true_value"]) for row in rows] == [
        (str(number), row["the name"], row["id"], row["region"]) for number, row in enumerate(table, start=1)
    ]
    expected = list(library.load(table_run, device="cpu").classify(row["the name"] for row in table))
    for row, each in zip(rows, expected, strict=True):
        assert (row["value"], row["value_2"]) == tuple(each.probabilities)[:2]
        assert float(row["probability"]) == pytest.approx(each.probability, rel=1e-4)
    pairs = [(row["true_value"], row["value"]) for row in rows if row["true_value"] not in ("", "atlantis")]
    right = sum(true == found for true, found in pairs)
    north = sum(true == "north" for true, _ in pairs)
    stderr = result.stderr.decode()
    assert "1 documents have a region that the training text does not have" in stderr
    assert f"accuracy {right / len(pairs):.4f} ± " in stderr
    assert f"({right} of {len(pairs)}); always north: {north / len(pairs):.4f}" in stderr
    assert right / len(pairs) > 0.85
    matrix = [line.split() for line in stderr.partition("the most probable one\n")[2].splitlines()[1:4]]
    assert sum(int(cell) for row in matrix for cell in row[-3:]) == len(pairs)
    assert "of these texts are in the training text, which makes it easier; see --split test" in stderr


def test_forms_of_output(table_run, few, tmp_path):
    objects = [json.loads(line) for line in done(charlm("classify", few, "-c", table_run, "--json")).splitlines()]
    assert len(objects) == 160
    assert objects[0]["true_value"] == "atlantis"
    assert objects[149]["true_value"] is None
    assert all(len(each["probabilities"]) == 3 for each in objects)
    lines = done(charlm("classify", few, "-c", table_run, "--keep", "id")).splitlines()
    assert [line.split("\t") for line in lines] == [
        [each["value"], f"{each['probability']:.4f}", str(number), each["document"]]
        for number, each in enumerate(objects, start=1)
    ]
    (tmp_path / "names.txt").write_text("".join(f"{each['document']}\n" for each in objects))
    text = charlm("classify", tmp_path / "names.txt", "-c", table_run)
    assert [line.split("\t")[0] for line in done(text).splitlines()] == [each["value"] for each in objects]
    assert b"accuracy" not in text.stderr
    piped = charlm("classify", "-c", table_run, "--top", "9", stdin=b"Svenrik\nMara\x1b[31m\n")
    assert [line.split("\t")[-1] for line in done(piped).splitlines()] == ["Svenrik", "Mara\\x1b[31m"]
    assert len(done(piped).splitlines()[0].split("\t")) == 7
    table = charlm("classify", "-c", table_run, "--column", "x", stdin=b"x,region\nSvenrik,north\n")
    assert done(table).startswith("north\t")
    assert b"accuracy 1.0000" in table.stderr


def test_the_test_split_is_classified(table_run):
    result = charlm("classify", "--split", "test", "-c", table_run, "--csv")
    rows = list(csv.DictReader(done(result).splitlines()))
    facts = json.loads(done(charlm("eval", "-c", table_run, "--json")))
    assert len(rows) == facts["documents"]
    counts = {value: part["documents"] for value, part in facts["by_value"].items()}
    assert counts == {value: sum(row["true_value"] == value for row in rows) for value in counts}
    assert sum(len(row["document"]) + 1 for row in rows) == facts["characters"]
    assert "see --split test" not in result.stderr.decode()
    right = sum(row["true_value"] == row["value"] for row in rows)
    assert f"accuracy {right / len(rows):.4f} ± 0.0" in result.stderr.decode()


def test_of_many_values_the_most_frequent_confusions_are_told(tmp_path):
    (tmp_path / "table.csv").write_text("name,kind\n" + "".join(f"text{n % 5},value{n % 12:02}\n" for n in range(480)))
    words = ["train", "table.csv", "--column", "name", "--given", "kind", "--out", "run", *QUICK, "--steps", "2"]
    done(charlm(*words, cwd=tmp_path))
    stderr = charlm("classify", "table.csv", "-c", "run", cwd=tmp_path).stderr.decode()
    assert "rows: the true kind" not in stderr
    assert stderr.count(" were taken for ") == 5
    assert stderr.count(" of 40 value") == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["TABLE", "--given-column", "regoin"], "has no column 'regoin'; did you mean 'region'?"),
        (["TABLE", "--csv", "--json"], "give one of --json, --csv and --raw-csv"),
        (["TABLE", "--split", "test"], "leave out FILE and the options for tables"),
        (["--split", "tset"], "--split must be one of train, valid, test, not 'tset'"),
        (["TEXT", "--keep", "id"], "--keep is for a table; leave it out"),
        (["TEXT", "--given-column", "id"], "--given-column is for a table; leave it out"),
    ],
)
def test_contradictions(table_run, table_file, lines_file, words, message):
    files = {"TEXT": lines_file, "TABLE": table_file}
    result = charlm("classify", *[files.get(word, word) for word in words], "-c", table_run)
    assert result.returncode == 2
    assert message in one_line(result)


def test_a_model_without_a_condition_cannot_classify(document_run, lines_file):
    result = charlm("classify", lines_file, "-c", document_run)
    assert result.returncode == 2
    assert "trained without a condition; train one with charlm train --column --given" in one_line(result)
