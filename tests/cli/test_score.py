"""``charlm score``: where a document is, which are chosen, how unusual they are, and texts with invalid bytes."""

import csv
import io
import json
import subprocess

import pytest
from commands import CHARLM, QUICK, charlm, one_line
from serving_process import GOLDEN

import charlm as library


def rows(result):
    assert result.returncode == 0, result.stderr.decode()
    return [line.split("\t") for line in result.stdout.decode().splitlines()]


def objects(result):
    assert result.returncode == 0, result.stderr.decode()
    return [json.loads(line) for line in result.stdout.decode().splitlines()]


def test_each_document_has_its_file_and_line(document_run, tmp_path):
    (tmp_path / "a.log").write_text("the cat\n\non a mat\n")
    (tmp_path / "b.log").write_text("dogs\r\nsaw\n")
    files = [tmp_path / "a.log", tmp_path / "b.log"]
    places = [f"{files[0]}:1", f"{files[0]}:2", f"{files[0]}:3", f"{files[1]}:1", f"{files[1]}:2"]
    assert [row[2] for row in rows(charlm("score", *files, "-c", document_run))] == places
    found = objects(charlm("score", *files, "-c", document_run, "--json"))
    assert [f"{row['file']}:{row['line']}" for row in found] == places
    assert [row["number"] for row in found] == [1, 2, 3, 4, 5]
    table = charlm("score", *files, "-c", document_run, "--csv").stdout.decode()
    assert [f"{row['file']}:{row['line']}" for row in csv.DictReader(io.StringIO(table, newline=""))] == places
    top = rows(charlm("score", *files, "-c", document_run, "--bottom", 2))
    assert {(row[2], row[3]) for row in top} <= set(
        zip(places, ["the cat", "", "on a mat", "dogs", "saw"], strict=True)
    )


def test_lines_of_paragraphs_files_and_stdin(document_run, tmp_path):
    text = "\n\nthe cat\nsat\n\n \non a mat\n"
    (tmp_path / "a.txt").write_text(text)
    paragraphs = rows(charlm("score", tmp_path / "a.txt", "-c", document_run, "--documents", "blank-lines"))
    assert [row[2] for row in paragraphs] == [f"{tmp_path / 'a.txt'}:3", f"{tmp_path / 'a.txt'}:7"]
    piped = rows(charlm("score", "-c", document_run, "--documents", "blank-lines", stdin=text.encode()))
    assert [row[2] for row in piped] == ["-:3", "-:7"]
    (whole,) = objects(charlm("score", tmp_path / "a.txt", "-c", document_run, "--documents", "files", "--json"))
    assert (whole["file"], whole["line"], whole["document"]) == (str(tmp_path / "a.txt"), None, str(tmp_path / "a.txt"))


def test_an_empty_document_of_running_text_scores_zero(trained_run):
    found = rows(charlm("score", "-c", trained_run, "--documents", "lines", stdin=b"\nthe cat\n"))
    assert found[0] == ["0.0000", "0.0000", "-:1", ""]


def test_short_documents_can_be_left_out(document_run):
    stdin = b"a\nthe cat\n\non\nsaw dogs\n"
    assert [row[3] for row in rows(charlm("score", "-c", document_run, "--min-length", 3, stdin=stdin))] == [
        "the cat",
        "saw dogs",
    ]
    found = objects(charlm("score", "-c", document_run, "--min-length", 3, "--top", 1, "--json", stdin=stdin))
    assert found[0]["number"] in (2, 5)
    shown = charlm("score", "-c", document_run, "--min-length", 3, "--highlight", stdin=stdin)
    assert shown.stdout == b"the cat\nsaw dogs\n"


# ------------------------------------------------------------------------------------------------ percentiles


def test_percentiles_tell_how_unusual_a_document_is(document_run):
    stdin = b"the cat sat\nzzzz qq 12\n"
    usual, unusual = rows(charlm("score", "-c", document_run, "--percentile", stdin=stdin))
    model = library.load(document_run)
    scored = list(model.score_documents(["the cat sat", "zzzz qq 12"]))
    expected = [model.percentiles().of(each.bits_per_char, each.characters) for each in scored]
    assert [float(row[2].removesuffix("%")) for row in (usual, unusual)] == pytest.approx(expected, abs=0.02)
    assert unusual[2] == "100.00%"
    found = objects(charlm("score", "-c", document_run, "--percentile", "--json", stdin=stdin))
    assert [row["percentile"] for row in found] == pytest.approx(expected, abs=0.02)
    assert "percentile" not in objects(charlm("score", "-c", document_run, "--json", stdin=stdin))[0]
    table = charlm("score", "-c", document_run, "--percentile", "--csv", stdin=stdin).stdout.decode()
    assert table.splitlines()[0].split(",")[3] == '"percentile"'


def test_only_documents_above_a_percentile(document_run, lines_file):
    every = rows(charlm("score", lines_file, "-c", document_run, "--percentile"))
    for limit in ("90%", "50"):
        above = rows(charlm("score", lines_file, "-c", document_run, "--above", limit))
        wanted = float(limit.removesuffix("%"))
        assert [row[3] for row in above] == [row[3] for row in every if float(row[2].removesuffix("%")) > wanted]
        assert 0 < len(above) < len(every)
    top = rows(charlm("score", lines_file, "-c", document_run, "--percentile", "--top", 5))
    found = [float(row[2].removesuffix("%")) for row in top]
    assert found == sorted((float(row[2].removesuffix("%")) for row in every), reverse=True)[:5]


def test_an_alarm_comes_with_its_line(document_run):
    """As with ``tail -F log | charlm score --above 99%``: the alarm is there before the next line is."""
    command = [*CHARLM, "score", "-c", str(document_run), "--above", "99%"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **pipes) as process:
        for number, usual in enumerate((b"the cat sat on\n", b"a mat\nthe dogs\n")):
            process.stdin.write(usual)
            process.stdin.flush()
            process.stdin.write(b"zzzz qq %d\n" % number)
            process.stdin.flush()
            assert process.stdout.readline().endswith(b"zzzz qq %d\n" % number)
        process.stdin.close()
        assert process.stdout.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("options", "code", "hint"),
    [
        (["--above", "high"], 2, "99%, not 'high'"),
        (["--above", "100%"], 2, "below 100%"),
        (["--above", "-1"], 2, "--above"),
        (["--percentile", "--highlight"], 2, "leave out --percentile"),
        (["--above", "99%", "--html", "page.html"], 2, "--above"),
        (["--min-length", "-1"], 2, "min-length"),
        (["--errors", "ignore"], 2, "strict, replace, skip-document"),
        (["--document-start", "["], 2, "regular expression"),
        (["--document-start", "^a", "--documents", "lines"], 2, "leave out --documents"),
        (["--percentile", "-c", str(GOLDEN / "format1-text")], 66, "neither percentiles"),
    ],
)
def test_mistakes(document_run, tmp_path, options, code, hint):
    model = [] if "-c" in options else ["-c", document_run]
    result = charlm("score", *model, *options, stdin=b"the cat\n", cwd=tmp_path)
    assert (result.returncode, hint in one_line(result)) == (code, True)


# ------------------------------------------------------------------------------------------------ invalid bytes

NAMES = b"emma\nolivia\nbad\xff\nzoe\n"


@pytest.mark.parametrize("piped", [False, True])
def test_what_comes_before_a_bad_byte_is_scored(document_run, tmp_path, piped):
    (tmp_path / "names.txt").write_bytes(NAMES)
    source, options = ([], {"stdin": NAMES}) if piped else ([tmp_path / "names.txt"], {})
    result = charlm("score", *source, "-c", document_run, **options)
    assert result.returncode == 65
    assert [line.split("\t")[3] for line in result.stdout.decode().splitlines()] == ["emma", "olivia"]
    message = result.stderr.decode()
    assert message.count("\n") == 1
    assert "byte 0xFF at position 15, line 3" in message
    assert "--errors replace" in message
    first = charlm("score", *source, "-c", document_run, "--top", 1, **options)
    assert (first.returncode, first.stdout) == (65, b"")  # the rank of a part would mislead


@pytest.mark.parametrize("piped", [False, True])
def test_bad_bytes_are_replaced_or_their_documents_skipped(document_run, tmp_path, piped):
    (tmp_path / "names.txt").write_bytes(NAMES)
    source, options = ([], {"stdin": NAMES}) if piped else ([tmp_path / "names.txt"], {})
    replaced = charlm("score", *source, "-c", document_run, "--errors", "replace", **options)
    assert [row[3] for row in rows(replaced)] == ["emma", "olivia", "bad\ufffd", "zoe"]
    assert replaced.stderr == b"invalid bytes replaced by U+FFFD: 1\n"
    skipped = charlm("score", *source, "-c", document_run, "--errors", "skip-document", "--json", **options)
    assert [(row["number"], row["line"], row["document"]) for row in objects(skipped)] == [
        (1, 1, "emma"), (2, 2, "olivia"), (4, 4, "zoe"),
    ]  # fmt: skip
    assert skipped.stderr == b"documents skipped for invalid bytes: 1\n"
    expected = charlm("score", "-c", document_run, "--json", stdin=b"emma\nolivia\n\nzoe\n")
    wanted = [row["log_probability"] for row in objects(expected) if row["document"]]
    assert [row["log_probability"] for row in objects(skipped)] == pytest.approx(wanted, rel=1e-5)


# ------------------------------------------------------------------------------------------------ log entries


@pytest.fixture(scope="module")
def log_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    entries = [f"2024-01-{day:02} start {day % 7}\n  at one\n  at two\n" for day in range(1, 80)]
    (folder / "app.log").write_text("".join(entries))
    options = ["--document-start", "^[0-9]{4}-", "--split", "60/40", "--steps", 20, *QUICK, "--out", "run"]
    result = charlm("train", "app.log", *options, cwd=folder)
    stderr = result.stderr.decode()
    assert result.returncode == 0, stderr
    assert "documents (each from a line with '^[0-9]{4}-' on): 47 training, 32 validation;" in stderr
    return folder / "run"


def test_entries_of_several_lines_are_documents(log_run):
    stdin = b"2024-02-01 start\n  at one\n2024-02-02 start\r\n2024-02-03\n  at two\n"
    found = rows(charlm("score", "-c", log_run, stdin=stdin))
    assert [(row[2], row[3]) for row in found] == [
        ("-:1", "2024-02-01 start\\n  at one"), ("-:3", "2024-02-02 start"), ("-:4", "2024-02-03\\n  at two"),
    ]  # fmt: skip
    assert len(rows(charlm("score", "-c", log_run, "--documents", "lines", stdin=stdin))) == 5
    assert len(rows(charlm("score", "-c", log_run, "--document-start", "at", stdin=stdin))) == 5 - 1 - 1
    model = library.load(log_run)
    assert model.evaluate(stdin.decode()).documents == 3
    evaluated = json.loads(charlm("eval", "-", "-c", log_run, "--json", stdin=stdin).stdout)
    assert evaluated["documents"] == 3


def test_the_expression_is_shown_and_kept(log_run, tmp_path):
    assert "^[0-9]{4}-" in charlm("info", "-c", log_run).stdout.decode()
    assert "--document-start '^[0-9]{4}-'" in (log_run / "README.md").read_text()
    generated = charlm("generate", "-c", log_run, "--samples", 2, "--seed", 1)
    assert generated.returncode == 0
    resumed = charlm("train", "--resume", "--out", log_run, "--steps", 22)
    assert resumed.returncode == 0, resumed.stderr
