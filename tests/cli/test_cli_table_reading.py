"""Tables on the command line that are packed, in another encoding, with invalid bytes or in another normal form."""

import csv
import gzip
import json
import re
import unicodedata

import pytest
from commands import QUICK, charlm, one_line

NAMES = ["Zoë", "Léa", "Bjørn", "Anaïs", "Mara", "Gulrik"]
KINDS = ["café", "hut"]


def done(result):
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode()


def csv_text():
    rows = [f"{NAMES[n % 6]}{NAMES[n % 5].lower()},{KINDS[n % 2]},{n}" for n in range(400)]
    return "name,kind,id\n" + "\n".join(rows) + "\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a decomposed table in a packed file, normalized to NFC, with a condition."""
    folder = tmp_path_factory.mktemp("table")
    table = folder / "names.csv.gz"
    table.write_bytes(gzip.compress(unicodedata.normalize("NFD", csv_text()).encode()))
    words = ["--column", "name", "--given", "kind", "--normalize", "nfc", "--out", folder / "run"]
    trained = charlm("train", table, *words, *QUICK, "--steps", "40", "--split", "80/10/10")
    assert trained.returncode == 0, trained.stderr.decode()
    assert "documents (rows, column name given kind): 320 training" in trained.stderr.decode()
    assert "normalized (NFC): " in trained.stderr.decode()
    described = json.loads((folder / "run" / "corpus" / "corpus.json").read_text())
    assert set(described["table"]["values"]) == set(KINDS)
    return folder / "run"


def test_the_same_table_has_the_same_scores_however_it_is_written(run, tmp_path):
    scored = {}
    for name, data, options in (
        ("nfc.csv", csv_text().encode(), []),
        ("nfd.csv", unicodedata.normalize("NFD", csv_text()).encode(), []),
        ("packed", gzip.compress(csv_text().encode()), ["--column", "name"]),
        ("cp1252.csv", csv_text().encode("cp1252"), ["--encoding", "cp1252"]),
    ):
        (tmp_path / name).write_bytes(data)
        result = charlm("score", name, "-c", run, *options, cwd=tmp_path)
        lines = [line.split("\t") for line in done(result).splitlines()]
        assert [line[2] for line in lines] == [f"{name}:{row + 2}" for row in range(400)]
        scored[name] = [(*line[:2], line[3]) for line in lines]
        changed = b"characters changed to NFC, as in the training text: " in result.stderr
        assert changed == (name == "nfd.csv")
    assert all(rows == scored["nfc.csv"] for rows in scored.values())
    evaluated = [
        done(charlm("eval", *words, "-c", run, "--json", cwd=tmp_path))
        for words in (["nfd.csv"], ["cp1252.csv", "--encoding", "cp1252"])
    ]
    losses = [json.loads(each)["nats_per_document"] for each in evaluated]
    assert losses[0] == pytest.approx(losses[1], abs=1e-9)


def test_a_condition_is_in_the_normal_form_of_the_model(run, tmp_path):
    composed, decomposed = "café", unicodedata.normalize("NFD", "café")
    (tmp_path / "list.txt").write_text("Zoë\nMara\n", encoding="utf-8")
    for words in (["generate", "--seed", "3", "-n", "20"], ["score", "list.txt"], ["eval", "list.txt"]):
        outputs = [done(charlm(*words, "-c", run, "--given", given, cwd=tmp_path)) for given in (composed, decomposed)]
        assert outputs[0] == outputs[1], words
    (tmp_path / "nfd.csv").write_text(unicodedata.normalize("NFD", csv_text()), encoding="utf-8")
    rows = csv.DictReader(done(charlm("classify", "nfd.csv", "-c", run, "--csv", cwd=tmp_path)).splitlines())
    assert {row["true_value"] for row in rows} == set(KINDS)


def test_invalid_bytes_of_rows(run, tmp_path):
    lines = csv_text().encode().split(b"\n")
    lines[3], lines[5], lines[7] = b"b\xffd,hut,2", b"ok,\xff,4", b"fine,hut,\xff"
    (tmp_path / "bad.csv").write_bytes(b"\n".join(lines))
    strict = charlm("score", "bad.csv", "-c", run, cwd=tmp_path)
    assert strict.returncode == 65
    assert [line.split("\t")[2] for line in strict.stdout.decode().splitlines()] == ["bad.csv:2", "bad.csv:3"]
    assert re.fullmatch(
        r"charlm: bad\.csv is not utf-8: byte 0xFF at position \d+, line 4; name its encoding with --encoding, or "
        r"--errors replace\n",
        strict.stderr.decode(),
    )
    skipped = charlm("score", "bad.csv", "-c", run, "--errors", "skip-document", "--json", "--keep", "id", cwd=tmp_path)
    rows = [json.loads(line) for line in done(skipped).splitlines()]
    assert [(row["number"], row["line"]) for row in rows[:5]] == [(1, 2), (2, 3), (4, 5), (6, 7), (7, 8)]
    assert rows[4]["id"] == "\ufffd"
    assert len(rows) == 398
    assert b"documents skipped for invalid bytes: 2" in skipped.stderr
    replaced = charlm("score", "bad.csv", "-c", run, "--errors", "replace", "--json", cwd=tmp_path)
    assert json.loads(done(replaced).splitlines()[2])["document"] == "b\ufffdd"
    assert b"invalid bytes replaced by U+FFFD: 3" in replaced.stderr
    trained = charlm(
        "train", "bad.csv", "--column", "name", "--errors", "skip-document", "--out", "skip", *QUICK, "--steps", "2",
        cwd=tmp_path,
    )  # fmt: skip
    assert trained.returncode == 0
    assert b"documents skipped for invalid bytes: 1" in trained.stderr


def test_percentiles_of_rows_are_those_of_held_out_rows(run, tmp_path):
    (tmp_path / "t.csv").write_text(csv_text() + "xqjzkwv,hut,1\n", encoding="utf-8")
    rows = [
        json.loads(line)
        for line in done(charlm("score", "t.csv", "-c", run, "--percentile", "--json", cwd=tmp_path)).splitlines()
    ]
    percentiles = sorted(row["percentile"] for row in rows[:400])
    assert 30 < percentiles[200] < 70
    assert rows[400]["percentile"] == 100
    above = done(charlm("score", "t.csv", "-c", run, "--above", "99.9%", "--keep", "id", cwd=tmp_path)).splitlines()
    assert above[-1].split("\t")[2:] == ["100.00%", "t.csv:402", "1", "xqjzkwv"]
    long = done(charlm("score", "t.csv", "-c", run, "--min-length", "8", "--csv", cwd=tmp_path))
    assert all(len(row["document"]) >= 8 for row in csv.DictReader(long.splitlines()))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "t.csv", "--column", "name", "--document-start", "^Z"], "each row is a document; leave out --doc"),
        (["score", "t.csv", "--document-start", "^Z"], "each row of a table is a document; leave out --document-start"),
        (["score", "t.csv", "--documents", "lines"], "each row of a table is a document; leave out --documents"),
    ],
)
def test_rows_are_documents_whatever_else_is_said(run, tmp_path, words, message):
    (tmp_path / "t.csv").write_text(csv_text(), encoding="utf-8")
    checkpoint = ["-c", run] if words[0] == "score" else []
    result = charlm(*words, *checkpoint, cwd=tmp_path)
    assert result.returncode == 2
    assert message in one_line(result)


def test_a_byte_model_is_not_sent_to_options_that_it_refuses(tmp_path):
    (tmp_path / "bad.csv").write_bytes(b"name\nab\nc\xff\n")
    words = ["train", "bad.csv", "--column", "name", "--tokenizer", "byte", *QUICK]
    result = charlm(*words, cwd=tmp_path)
    assert result.returncode == 65
    assert "--errors" not in one_line(result)
    assert "--tokenizer" not in one_line(result)
