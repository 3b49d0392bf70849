"""Conditions on the command line: train --given, generate --given, eval by value, and texts without a condition."""

import csv
import json
from types import SimpleNamespace

import pytest
from commands import QUICK, charlm, one_line

from charlm.cli.tables import TableForm, decoding_for, open_for_models
from charlm.corpus.tables import TableOptions
from charlm.corpus.trained_table import TrainedTable
from charlm.errors import UsageError


def done(result):
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode()


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["the name"] and row["region"]]


def test_training_tells_the_condition_and_the_next_command(table_file, tmp_path):
    words = ["train", table_file, "--column", "the name", "--given", "region", "--out", "run", *QUICK, "--steps", "10"]
    stderr = charlm(*words, cwd=tmp_path).stderr.decode()
    assert "people: 12 rows without the name and 4 rows without region are left out" in stderr
    assert "documents (rows, column the name given region): 1,066 training" in stderr
    assert "--given north --samples" in stderr
    assert "\n    north: " in stderr  # a sample
    assert "--column 'the name' --given region" in (tmp_path / "run" / "README.md").read_text()
    done(charlm("train", "--resume", "--out", "run", "--steps", "12", cwd=tmp_path))
    shown = done(charlm("info", "-c", "run", cwd=tmp_path))
    assert "column the name given region" in shown
    assert "region, 3 values; known: north (" in shown
    exported = charlm("export", "run", "small", cwd=tmp_path)
    assert "generate --checkpoint small --given north --prompt" in exported.stderr.decode()
    assert "charlm generate --checkpoint . --given north\n" in (tmp_path / "small" / "README.md").read_text()
    done(charlm("generate", "-c", "small", "--given", "far east", cwd=tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--given", "region"], "--given is the condition of a column; name that, too: --column NAME"),
        (["--column", "the name", "--given", "the name"], "'the name' cannot be text and condition"),
        (["--column", "the name", "--given", "regoin"], "has no column 'regoin'; did you mean 'region'?"),
    ],
)
def test_conditions_that_cannot_be_learnt(table_file, tmp_path, options, message):
    result = charlm("train", table_file, *options, *QUICK, cwd=tmp_path)
    assert result.returncode == 2
    assert message in one_line(result)


def test_a_column_with_many_values_is_no_condition(tmp_path):
    (tmp_path / "table.csv").write_text("name,id\n" + "".join(f"abc{n},{n}\n" for n in range(2000)))
    result = charlm("train", "table.csv", "--column", "name", "--given", "id", *QUICK, cwd=tmp_path)
    assert result.returncode == 65
    assert "the condition has more than 1,000 distinct values" in one_line(result)


def test_generate_writes_texts_of_a_value(table_run):
    options = ["generate", "-c", table_run, "--seed", "1"]
    five = done(charlm(*options, "--given", "far east", "--samples", "5")).splitlines()
    assert len(five) == 5
    assert done(charlm(*options, "--given", "far east")).splitlines() == five[:1]
    assert done(charlm(*options, "--given", "north", "--samples", "5")).splitlines() != five
    assert done(charlm(*options, "--given", "north", "--prompt", "Sve")).startswith("Sve")
    novel = charlm(*options, "--given", "north", "--samples", "5", "--unique", "--novel")
    assert len(set(done(novel).splitlines())) == 5
    unnamed, wrong = charlm(*options), charlm(*options, "--given", "North")
    assert unnamed.returncode == wrong.returncode == 2
    assert "this model writes the name given region: add --given VALUE; known: north (" in one_line(unnamed)
    assert "'North' is not a known region; did you mean 'north'?" in one_line(wrong)


def test_eval_reports_overall_and_by_value(table_run, table_file):
    shown = done(charlm("eval", "-c", table_run))
    table = shown.partition("by region\n")[2].splitlines()
    assert [line.split()[0] for line in table[1:]] == ["north", "far", "south"] or len(table) == 4
    facts = json.loads(done(charlm("eval", "-c", table_run, table_file, "--json")))
    rows = rows_of(table_file)
    assert facts["documents"] == len(rows)
    assert facts["characters"] == sum(len(row["the name"]) + 1 for row in rows)
    assert facts["given"] == "region"
    counts = {value: part["documents"] for value, part in facts["by_value"].items()}
    assert counts == {value: sum(row["region"] == value for row in rows) for value in ("north", "far east", "south")}
    nats = sum(part["nats_per_char"] * part["characters"] for part in facts["by_value"].values())
    assert nats / facts["characters"] == pytest.approx(facts["nats_per_char"], rel=1e-9)
    dynamic = json.loads(done(charlm("eval", "-c", table_run, "--dynamic", "--json")))
    assert dynamic["characters"] == json.loads(done(charlm("eval", "-c", table_run, "--json")))["characters"]


def test_only_ten_values_are_shown(tmp_path):
    lines = [f"text{n % 7},value{n % 12:02}\n" * (30 - n % 12) for n in range(24)]
    (tmp_path / "table.csv").write_text("name,kind\n" + "".join(lines))
    words = ["train", "table.csv", "--column", "name", "--given", "kind", "--out", "run", *QUICK, "--steps", "2"]
    done(charlm(*words, cwd=tmp_path))
    shown = done(charlm("eval", "table.csv", "-c", "run", cwd=tmp_path)).partition("by kind")[2]
    assert shown.startswith(", the 10 most frequent of 12\n")
    assert [line.split()[0] for line in shown.splitlines()[2:]] == [f"value{n:02}" for n in range(10)]
    (tmp_path / "odd.csv").write_text("name,sort\ntext1,value00\ntext2,none\ntext3,nothing\n")
    odd = done(charlm("eval", "odd.csv", "--given-column", "sort", "-c", "run", cwd=tmp_path)).splitlines()
    assert [line.split()[-1] for line in odd[-2:]] == ["1", "2"]
    assert "(other values)" in odd[-1]
    scored = charlm("score", "odd.csv", "--given-column", "sort", "-c", "run", cwd=tmp_path)
    assert len(done(scored).splitlines()) == 3
    assert "2 rows have a kind that the training text does not have" in scored.stderr.decode()


def test_rows_are_scored_given_their_values(table_run, table_file, tmp_path):
    rows = [row for row in rows_of(table_file) if row["region"] == "north"][:20]
    scored = csv.DictReader(done(charlm("score", table_file, "-c", table_run, "--csv", "--keep", "id")).splitlines())
    by_id = {row["id"]: row for row in scored}
    assert by_id.keys() >= {str(number) for number in range(1, 1201) if number % 150}
    assert not by_id.keys() & {str(number) for number in range(150, 1201, 150)}  # rows without a region
    (tmp_path / "names.txt").write_text("".join(f"{row['the name']}\n" for row in rows))
    lines = done(charlm("score", tmp_path / "names.txt", "--given", "north", "-c", table_run)).splitlines()
    assert [float(line.split("\t")[0]) for line in lines] == pytest.approx(
        [float(by_id[row["id"]]["log_probability"]) for row in rows], abs=2e-4
    )
    live = done(charlm("score", "--given", "north", "-c", table_run, stdin=(tmp_path / "names.txt").read_bytes()))
    assert live.splitlines() == [line.replace(f"{tmp_path / 'names.txt'}:", "-:") for line in lines]
    page = done(charlm("score", tmp_path / "names.txt", "--given", "north", "-c", table_run, "--html", "-"))
    assert "bits per character" in page
    one = done(charlm("score", table_file, "-c", table_run, "--top", "1", "--html", "-"))
    assert one.count("bits per character") == page.count("bits per character") - 19


def test_models_with_and_without_a_condition_are_compared_on_the_same_rows(table_run, table_file, tmp_path):
    words = ["--column", "the name", "--split", "80/10/10", "--out", "plain", *QUICK, "--steps", "60"]
    done(charlm("train", table_file, *words, cwd=tmp_path))
    compared = json.loads(done(charlm("compare", table_run, "plain", table_file, "--json", cwd=tmp_path)))
    assert compared["a"]["documents"] == compared["b"]["documents"] == len(rows_of(table_file))
    assert compared["a"]["characters"] == compared["b"]["characters"]
    assert compared["difference"]["better"] == "a"
    alone = json.loads(done(charlm("eval", "-c", table_run, table_file, "--json")))
    assert alone["nats_per_char"] == pytest.approx(compared["a"]["nats_per_char"], rel=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score", "TEXT"], "read a table with these columns, or name one region for all of it: --given VALUE"),
        (["eval", "TEXT"], "this model predicts the name given region; read a table"),
        (["eval", "TEXT", "--given", "nort"], "'nort' is not a known region; did you mean 'north'?"),
        (["eval", "TABLE", "--given", "north", "--given-column", "id"], "give one of them"),
        (["eval", "TABLE", "--given-column", "regoin"], "has no column 'regoin'; did you mean 'region'?"),
        (["score"], "this model predicts the name given region; read a table"),
        (["generate", "--adapt", "TEXT", "--given", "north"], "read a table with these columns; known: north"),
        (["eval", "--given", "north"], "say how a text is read; name one: charlm eval FILE"),
    ],
)
def test_texts_without_a_condition(table_run, table_file, lines_file, words, message):
    files = {"TEXT": lines_file, "TABLE": table_file}
    result = charlm(*[files.get(word, word) for word in words], "-c", table_run, stdin=b"Sven\n")
    assert result.returncode == 2
    assert message in one_line(result)


def test_models_without_a_condition_take_none(document_run, lines_file):
    for option in ("--given", "--given-column"):
        result = charlm("eval", lines_file, option, "north", "-c", document_run)
        assert result.returncode == 2
        assert f"trained without a condition (charlm train --given); leave out {option}" in one_line(result)
    assert charlm("generate", "--given", "north", "-c", document_run).returncode == 2


def test_adapting_to_rows(table_run, table_file):
    words = ["generate", "--adapt", table_file, "--given", "north", "-c", table_run, "--seed", "1"]
    assert done(charlm(*words)).strip()


def test_models_of_different_columns_do_not_read_one_table_in_silence(table_file):
    def model(column, given=None):
        counts = {} if given is None else {"x": 1}
        tokenizer = SimpleNamespace(kind="char", normalization="none")
        return SimpleNamespace(table=TrainedTable(column, given, counts), tokenizer=tokenizer)

    def opened(*models, **form):
        return open_for_models(models, [str(table_file)], decoding_for(models, "utf-8"), None, TableForm(**form))

    with pytest.raises(UsageError, match=r"read different columns \(region, the name\); name one with --column"):
        opened(model("the name"), model("region"))
    assert opened(model("the name"), model("region"), column="id").options == TableOptions("id")
    with pytest.raises(UsageError, match=r"different conditions \(note, region\); leave out FILE"):
        opened(model("the name", "region"), model("the name", "note"))
    assert opened(model("the name", "region"), model("the name")).options == TableOptions("the name", given="region")
