"""Models of documents on the command line: generation of whole documents, a score for each document."""

import csv
import io
import json
import os
import pty
import shutil
import subprocess
import threading
import time

import pytest
from commands import CHARLM, QUICK, charlm, one_line
from conftest import peak_kilobytes

import charlm as library


def lines(result):
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode().splitlines()


def test_the_everyday_commands(lines_file, tmp_path):
    trained = charlm(
        "train", lines_file, "--documents", "lines", "--split", "80/10/10", "--out", "run", *QUICK, "--steps", "20",
        cwd=tmp_path,
    )  # fmt: skip
    stderr = trained.stderr.decode()
    assert trained.returncode == 0, stderr
    assert "documents (lines): 320 training, 40 validation, 40 test" in stderr
    assert "of the 40 test documents also occur in the training split" in stderr
    assert "up to 64 characters per step" in stderr
    assert stderr.endswith("charlm generate --checkpoint run --samples 10\n")

    evaluated = json.loads(charlm("eval", "--json", "--checkpoint", "run", cwd=tmp_path).stdout)
    assert evaluated["documents"] == 40
    assert evaluated["protocol"] == "each document exactly"
    assert evaluated["nats_per_document"] == pytest.approx(
        evaluated["nats_per_char"] * evaluated["characters"] / 40, rel=1e-9
    )
    shown = charlm("eval", "--checkpoint", "run", cwd=tmp_path).stdout.decode()
    for row in ("nats per document", "bits per document", "nats without end markers", "40 end markers included"):
        assert row in shown
    assert "documents" in charlm("info", "--checkpoint", "run", cwd=tmp_path).stdout.decode()

    resumed = charlm("train", "--resume", "--out", "run", "--steps", "22", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr.decode()


def test_whole_documents_one_a_line(document_run):
    written = lines(charlm("generate", "-c", document_run, "--samples", "50", "--seed", "1"))
    assert len(written) == 50
    assert written[:5] == lines(charlm("generate", "-c", document_run, "--samples", "5", "--seed", "1"))
    (one,) = lines(charlm("generate", "-c", document_run, "--prompt", "the c", "--seed", "2"))
    assert one.startswith("the c")
    (piped,) = lines(charlm("generate", "-c", document_run, "--seed", "2", stdin=b"the c\n"))
    assert piped == one
    as_json = [json.loads(line) for line in lines(charlm("generate", "-c", document_run, "--samples", "3", "--json"))]
    assert [sorted(object_) for object_ in as_json] == [["prompt", "sample", "text"]] * 3


def test_unique_and_novel(document_run, lines_file):
    free = lines(charlm("generate", "-c", document_run, "--samples", "400", "--seed", "1", "--temperature", "1.0"))
    known = set(lines_file.read_text().splitlines())
    assert len(set(free)) < 400  # the plain command repeats itself
    assert known & set(free)
    options = ["generate", "-c", document_run, "--samples", "300", "--seed", "1", "--temperature", "1.0"]
    result = charlm(*options, "--unique", "--novel")
    written = lines(result)
    assert len(written) == len(set(written)) == 300
    trained_on = {line for line in known if library.load(document_run).fingerprint(line) in _fingerprints(document_run)}
    assert len(trained_on) > 100
    assert not trained_on & set(written)
    stderr = result.stderr.decode()
    drawn = int(stderr.split(" of ")[1].split()[0].replace(",", ""))
    assert drawn > 300
    assert "are in the training text" in stderr
    assert "are duplicates" in stderr
    # The same documents in the same order, without the duplicates and those of the training text.
    chosen = list(dict.fromkeys(document for document in free if document not in trained_on))
    assert written[: len(chosen)] == chosen[:300]


def test_the_count_of_duplicates_has_a_line_of_its_own(document_run):
    command = [*CHARLM, "generate", "-c", str(document_run), "--samples", "3", "--seed", "1", "--unique", "--novel"]
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True
    )
    *written, count = result.stdout.decode().splitlines()
    assert (len(written), count.startswith("3 of ")) == (3, True)


def _fingerprints(run):
    from charlm.corpus.prepared import open_corpus

    return set(open_corpus(run / "corpus").fingerprints().tolist())


def test_generation_of_unique_documents_stops_if_there_are_no_more(document_run):
    result = charlm("generate", "-c", document_run, "--samples", "5", "--unique", "--temperature", "0")
    assert len(lines(result)) == 1
    assert "4 fewer than asked for" in result.stderr.decode()


SCORED = b"the cat sat\nzzzz qq\n\non a mat\r\nesc\x1b[31mred\n"


def test_bidirectional_controls_are_escaped(document_run):
    row = lines(charlm("score", "-c", document_run, stdin="the \u202ecat\u2067\u200f sat\n".encode()))[0]
    assert row.split("\t")[3] == "the \\u202ecat\\u2067\\u200f sat"


def test_scores_as_text_json_and_csv(document_run):
    rows = [line.split("\t") for line in lines(charlm("score", "-c", document_run, stdin=SCORED))]
    assert [row[3] for row in rows] == ["the cat sat", "zzzz qq", "", "on a mat", "esc\\x1b[31mred"]
    model = library.load(document_run, device="cpu")
    expected = list(model.score_documents(["the cat sat", "zzzz qq", "", "on a mat", "esc\x1b[31mred"]))
    assert [float(row[0]) for row in rows] == pytest.approx([-s.nats for s in expected], abs=1e-3)
    assert [float(row[1]) for row in rows] == pytest.approx([s.bits_per_char for s in expected], abs=1e-3)
    objects = [json.loads(line) for line in lines(charlm("score", "-c", document_run, "--json", stdin=SCORED))]
    assert [o["document"] for o in objects] == [s.text for s in expected]
    assert [o["number"] for o in objects] == [1, 2, 3, 4, 5]
    assert [o["unknown_characters"] for o in objects] == [0, 6, 0, 0, 4]
    result = charlm("score", "-c", document_run, "--csv", stdin=SCORED + b'"quoted", it was\n')
    table = list(csv.DictReader(io.StringIO(result.stdout.decode(), newline="")))
    assert [row["document"] for row in table][-1] == '"quoted", it was'
    assert [float(row["log_probability"]) for row in table[:5]] == pytest.approx([-s.nats for s in expected], rel=1e-5)


def test_the_least_likely_documents_first(document_run, lines_file, tmp_path):
    path = tmp_path / "with unlikely lines.txt"
    known = lines_file.read_text().splitlines()
    path.write_text("\n".join([*known[:200], "xkcd qzv!", *known[200:], "0x7f3a#"]))
    top = [line.split("\t")[3] for line in lines(charlm("score", path, "-c", document_run, "--top", "2"))]
    assert set(top) == {"xkcd qzv!", "0x7f3a#"}
    everything = [line.split("\t") for line in lines(charlm("score", path, "-c", document_run))]
    bits = [float(row[1]) for row in everything]
    assert len(everything) == 402
    ranked = [float(line.split("\t")[1]) for line in lines(charlm("score", path, "-c", document_run, "--bottom", "5"))]
    assert ranked == sorted(bits)[:5]


def test_lines_are_scored_as_they_arrive(document_run):
    command = [*CHARLM, "score", "-c", str(document_run)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **pipes) as process:
        for text in (b"the cat", b"sat on"):
            process.stdin.write(text + b"\n")
            process.stdin.flush()
            assert process.stdout.readline().endswith(text + b"\n")  # before more is written
        process.stdin.close()
        assert process.stdout.read() == b""
    assert process.returncode == 0


def test_millions_of_characters_from_stdin_stay_out_of_memory(document_run, tmp_path):
    """More lines must not cost more memory."""
    peaks = []
    for repeats in (100_000, 250_000):
        (tmp_path / "lines.txt").write_bytes(b"the cat sat on\n" * repeats)
        # A file, because how much of a pipe comes in one read, and so what a batch takes, is chance.
        with open(tmp_path / "lines.txt", "rb") as stdin:
            peaks.append(peak_kilobytes("score", "-c", str(document_run), stdin=stdin))
    # In kilobytes: the rest of a first batch takes up to 20,000, and 150,000 more lines, if kept, 25,000 on top of it.
    assert peaks[1] < peaks[0] + 25_000, peaks


def test_paragraphs_and_files(document_run, tmp_path):
    (tmp_path / "poem.txt").write_text("the cat\nsat\n\non a mat\n")
    (tmp_path / "two.txt").write_text("dogs\n")
    rows = lines(charlm("score", tmp_path / "poem.txt", "-c", document_run, "--documents", "blank-lines"))
    assert [row.split("\t")[3] for row in rows] == ["the cat\\nsat", "on a mat"]
    rows = lines(charlm("score", tmp_path, "-c", document_run, "--documents", "files"))
    assert [row.split("\t")[2] for row in rows] == [str(tmp_path / "poem.txt"), str(tmp_path / "two.txt")]


def test_a_model_of_running_text_scores_files_and_lines(trained_run, text_file):
    (row,) = lines(charlm("score", text_file, "-c", trained_run))
    evaluated = json.loads(charlm("eval", text_file, "-c", trained_run, "--json").stdout)
    assert float(row.split("\t")[1]) == pytest.approx(evaluated["bits_per_char"], rel=1e-3)
    assert row.endswith(str(text_file))
    rows = lines(charlm("score", "-c", trained_run, "--documents", "lines", stdin=b"the cat\nzzzz\n"))
    assert float(rows[0].split("\t")[1]) < float(rows[1].split("\t")[1])


def in_terminal(command, stdin, **environment):
    """Run a command in a new terminal. Returns its output."""
    ours, theirs = pty.openpty()
    variables = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=theirs, stderr=subprocess.DEVNULL, env={**variables, **environment}
    )
    os.close(theirs)
    found = []

    def read():
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # the other end is closed
                return
            if not data:
                return
            found.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    process.communicate(stdin, timeout=60)
    time.sleep(0.1)
    reader.join(timeout=10)
    os.close(ours)
    return b"".join(found).decode()


def test_colours_in_a_terminal_only(document_run):
    command = [*CHARLM, "score", "-c", str(document_run), "--highlight"]
    assert "\x1b[" in in_terminal(command, b"the cat\nzzqq\n")
    assert "\x1b[" not in in_terminal(command, b"the cat\nzzqq\n", NO_COLOR="1")
    piped = charlm("score", "-c", document_run, "--highlight", stdin=b"the cat\nzzqq\n")
    assert piped.stdout == b"the cat\nzzqq\n"
    assert "--html" in piped.stderr.decode()


def test_a_page(document_run, tmp_path):
    result = charlm("score", "-c", document_run, "--html", tmp_path / "page.html", stdin=b"the <b>cat\nzz & q\n")
    assert result.returncode == 0, result.stderr.decode()
    page = (tmp_path / "page.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "<b>" not in page
    written = charlm("score", "-c", document_run, "--html", "-", stdin=b"x\n")
    assert (written.returncode, written.stdout[:2], written.stderr) == (0, b"<!", b"")
    stderr = one_line(charlm("score", "-c", document_run, "--html", tmp_path / "no" / "page.html", stdin=b"x\n"))
    assert "cannot be written" in stderr


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["train", "LINES", "--documents", "words"], 2, "lines, blank-lines, files"),
        (["train", "LINES", "--distinct"], 2, "--documents"),
        (["train", "LINES", "--documents", "lines", "--state-reset", "0.1"], 2, "--state-reset"),
        (["train", "EMPTY", "--documents", "blank-lines"], 65, "no character"),
        (["generate", "-c", "STREAM", "--novel"], 2, "--documents"),
        (["generate", "-c", "DOCUMENTS", "--prompt", "two\nlines"], 2, "one line"),
        (["generate", "-c", "BARE", "--novel", "--samples", "2"], 66, "--novel"),
        (["eval", "-c", "DOCUMENTS", "--protocol", "crops"], 2, "crops"),
        (["score", "-c", "DOCUMENTS", "--top", "2", "--bottom", "2", "LINES"], 2, "not both"),
        (["score", "-c", "DOCUMENTS", "--json", "--csv", "LINES"], 2, "one of"),
        (["score", "-c", "DOCUMENTS", "--documents", "pages", "LINES"], 2, "blank-lines"),
        (["score", "-c", "DOCUMENTS", "nowhere.txt"], 66, "does not exist"),
        (["score", "-c", "DOCUMENTS", "LINES", "-"], 2, "by itself"),
        (["score", "-c", "DOCUMENTS", "--encoding", "nope", "LINES"], 2, "encoding"),
    ],
)
def test_mistakes(lines_file, document_run, trained_run, tmp_path, arguments, code, hint):
    (tmp_path / "empty.txt").write_text("\n \n\t\n")
    shutil.copytree(next(document_run.glob("step-*")), tmp_path / "bare")
    names = {"LINES": lines_file, "EMPTY": tmp_path / "empty.txt", "STREAM": trained_run, "DOCUMENTS": document_run,
             "BARE": tmp_path / "bare"}  # fmt: skip
    result = charlm(*(names.get(argument, argument) for argument in arguments), cwd=tmp_path)
    stderr = result.stderr.decode()
    assert result.returncode == code, stderr
    assert hint in stderr
    assert "Traceback" not in stderr
    assert not list(tmp_path.glob("checkpoints/*"))


def test_the_error_for_invalid_utf8_has_its_position(document_run):
    result = charlm("score", "-c", document_run, stdin=b"good line\nb\xffd\n")
    assert result.returncode == 65
    assert "0xFF at position 11" in result.stderr.decode()
    assert "Traceback" not in result.stderr.decode()
