"""What people bring to the command line: packed, odd and wrong files, other encodings, prompts from a pipe."""

import gzip
import json
import subprocess
import time
import unicodedata

import pytest
from commands import CHARLM, QUICK, charlm, one_line

import charlm as library

LATIN = "café au lait\n" * 50


def said(result):
    assert result.returncode == 0, result.stderr.decode()
    return result.stderr.decode()


def rows(result):
    assert result.returncode == 0, result.stderr.decode()
    return [json.loads(line) for line in result.stdout.decode().splitlines()]


# ------------------------------------------------------------------------------------------------ files


def test_a_packed_text_is_the_text(text, trained_run, tmp_path):
    text, text_file = text[:3000], tmp_path / "plain.txt"
    text_file.write_text(text, encoding="utf-8", newline="")
    (tmp_path / "packed").write_bytes(gzip.compress(text[:900].encode()) + gzip.compress(text[900:].encode()))
    plain = json.loads(charlm("eval", text_file, "-c", trained_run, "--json", "--threads", 1).stdout)
    packed = json.loads(charlm("eval", tmp_path / "packed", "-c", trained_run, "--json", "--threads", 1).stdout)
    assert packed["nats_per_char"] == plain["nats_per_char"]
    small = gzip.compress(text.encode())
    expected = charlm("score", "-c", trained_run, "--json", "--threads", 1, stdin=text.encode())
    assert rows(charlm("score", "-c", trained_run, "--json", "--threads", 1, stdin=small)) == rows(expected)
    trained = charlm("train", "-", "--steps", 2, *QUICK, "--json", cwd=tmp_path, stdin=small)
    assert "salad" not in said(trained)
    description = json.loads((tmp_path / "checkpoints/stdin/corpus/corpus.json").read_text())
    assert sum(split["characters"] for split in description["splits"].values()) == 3000


@pytest.mark.parametrize("command", ["train", "score", "eval"])
def test_what_is_not_text_is_refused_with_the_options_of_the_command(trained_run, tmp_path, command):
    (tmp_path / "paper.txt").write_bytes(b"%PDF-1.7 " + b"x" * 1000)
    model = [] if command == "train" else ["-c", trained_run]
    result = charlm(command, tmp_path / "paper.txt", *model, cwd=tmp_path)
    assert result.returncode == 65
    message = one_line(result)
    assert "PDF document" in message
    assert ("--tokenizer byte" in message) == (command == "train")
    if command == "train":
        quick = ["--tokenizer", "byte", "--steps", 2, *QUICK]
        said(charlm(command, tmp_path / "paper.txt", *quick, cwd=tmp_path))


def test_empty_names_are_missing_files(text_file, trained_run, tmp_path):
    (tmp_path / "a.txt").write_text("some text\n" * 100)
    for arguments in (
        ["train", ""], ["train", text_file, "--valid", ""], ["eval", "", "-c", trained_run],
        ["score", "", "-c", trained_run], ["generate", "--adapt", "", "-c", trained_run],
    ):  # fmt: skip
        result = charlm(*arguments, cwd=tmp_path)
        assert (result.returncode, "variable" in one_line(result)) == (66, True), arguments


def test_stdin_is_named_once(trained_run, tmp_path):
    for arguments in (["train", "-", "-"], ["eval", "-", "-", "-c", trained_run]):
        result = charlm(*arguments, cwd=tmp_path, stdin=b"text")
        assert (result.returncode, "only once" in one_line(result)) == (2, True)


# ------------------------------------------------------------------------------------------------ encodings


def test_advice_names_only_options_of_the_command(trained_run, tmp_path):
    (tmp_path / "latin.txt").write_bytes(LATIN.encode("latin-1"))
    for command, errors in (("train", True), ("score", True), ("eval", False), ("generate", False)):
        arguments = ["--adapt", tmp_path / "latin.txt"] if command == "generate" else [tmp_path / "latin.txt"]
        model = [] if command == "train" else ["-c", trained_run]
        result = charlm(command, *arguments, *model, cwd=tmp_path)
        assert result.returncode == 65
        message = one_line(result)
        assert 'byte 0xE9 at position 3, line 1; if it is cp1252 ("café au lait"), add --encoding cp1252' in message
        assert ("--errors" in message) == errors
        assert "--tokenizer" not in message


def test_every_text_can_have_another_encoding(trained_run, tmp_path):
    text = "the cat sat on a mat naïve " * 100
    (tmp_path / "utf8.txt").write_text(text)
    (tmp_path / "latin.txt").write_bytes(text.encode("latin-1"))
    options = ["-c", trained_run, "-n", 20, "--seed", 1, "-p", "the"]
    adapted = [
        charlm("generate", "--adapt", tmp_path / name, *options, "--encoding", encoding)
        for name, encoding in (("utf8.txt", "utf-8"), ("latin.txt", "latin-1"))
    ]
    assert said(adapted[0]) == said(adapted[1]) == ""
    assert adapted[0].stdout == adapted[1].stdout
    prompt = "naïve cat".encode("latin-1")
    written = charlm("generate", *options[:-2], "--encoding", "latin-1", stdin=prompt)
    assert written.stdout.decode().startswith("naïve cat")
    result = charlm("generate", *options[:-2], stdin=prompt)
    assert (result.returncode, "add --encoding cp1252" in one_line(result)) == (65, True)
    assert charlm("generate", *options, "--encoding", "klingon").returncode == 2


def test_invalid_bytes_in_training(tmp_path):
    lines = [b"line %d of many" % number for number in range(200)]
    lines[3] = b"bad \xff"
    (tmp_path / "text.txt").write_bytes(b"\n".join(lines))
    quick = ["--steps", 2, *QUICK, "--out", "run"]
    documents = ["--documents", "lines"]
    refused = charlm("train", "text.txt", *documents, *quick, cwd=tmp_path)
    assert refused.returncode == 65
    assert "line 4" in refused.stderr.decode()
    skipped = charlm("train", "text.txt", *documents, "--errors", "skip-document", *quick, cwd=tmp_path)
    assert "documents skipped for invalid bytes: 1" in said(skipped)
    assert "199" not in said(skipped)  # 179 training, 10 validation, 10 test
    replaced = charlm("train", "text.txt", "--errors", "replace", *quick[:-1], "other", cwd=tmp_path)
    assert "invalid bytes replaced by U+FFFD: 1" in said(replaced)
    trained = library.train(
        tmp_path / "text.txt", out=tmp_path / "api", errors="replace", normalize="nfkc", steps=2, size="tiny",
        threads=1,
    )  # fmt: skip
    assert library.load(trained.run).tokenizer.normalization == "nfkc"


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--errors", "skip-document"], "--documents"),
        (["--errors", "ignore"], "strict, replace, skip-document"),
        (["--errors", "replace", "--tokenizer", "byte"], "--tokenizer byte"),
        (["--normalize", "nfc", "--tokenizer", "byte"], "--tokenizer byte"),
        (["--normalize", "nfd"], "none, nfc, nfkc"),
        (["--document-start", "^a", "--documents", "lines"], "leave out --documents"),
        (["--document-start", "("], "regular expression"),
        (["--document-start", ""], "regular expression"),
    ],
)
def test_options_that_contradict_each_other(text_file, tmp_path, options, hint):
    result = charlm("train", text_file, *options, cwd=tmp_path)
    assert (result.returncode, hint in one_line(result)) == (2, True)


# ------------------------------------------------------------------------------------------------ normal forms

COMPOSED = "café, naïve, fiancée and résumé\n" * 40


@pytest.fixture(scope="module")
def normalized_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("normal")
    (folder / "text.txt").write_text(unicodedata.normalize("NFD", COMPOSED), encoding="utf-8")
    options = ["--normalize", "nfc", "--steps", 20, *QUICK, "--out", "run"]
    result = charlm("train", "text.txt", *options, cwd=folder)
    assert "normalized (NFC): 400 characters changed" in said(result)
    return folder / "run"


def test_prompts_and_texts_are_normalized_as_in_training(normalized_run, tmp_path):
    texts = {form: unicodedata.normalize(form, COMPOSED) for form in ("NFC", "NFD")}
    found = {}
    for form, text in texts.items():
        (tmp_path / form).write_text(text, encoding="utf-8")
        evaluated = json.loads(charlm("eval", tmp_path / form, "-c", normalized_run, "--json").stdout)
        scored = charlm("score", tmp_path / form, "-c", normalized_run, "--documents", "lines", "--json")
        piped = charlm("score", "-c", normalized_run, "--documents", "lines", "--json", stdin=text[:400].encode())
        written = [
            charlm("generate", "-c", normalized_run, "-n", 20, "--seed", 1, *prompt, stdin=stdin)
            for prompt, stdin in ((["-p", text[:12]], None), ([], text[:12].encode()))
        ]
        assert [said(result) for result in written] == ["", ""]
        assert written[0].stdout == written[1].stdout
        found[form] = evaluated["nats_per_char"], rows(scored)[0]["document"], rows(piped)[0]["log_probability"]
        changed = "characters changed to NFC, as in the training text: "
        assert (changed in said(scored), changed in said(piped)) == ((form == "NFD",) * 2)
        assert form != "NFD" or said(scored) == f"{changed}400\n"
    assert found["NFC"] == found["NFD"]
    model = library.load(normalized_run)
    assert model.evaluate(texts["NFC"]).nats == model.evaluate(texts["NFD"]).nats
    assert (
        model.score(texts["NFD"][:50]).tolist()
        == model.score(texts["NFC"][: len(model.score(texts["NFD"][:50]))]).tolist()
    )
    assert model.generate("cafe\u0301", 20, seed=1) == model.generate("café", 20, seed=1)
    assert model.generate("c", 200, seed=1, stop="e\u0301") == model.generate("c", 200, seed=1, stop="é")
    assert model.fingerprint("e\u0301") == model.fingerprint("é")


def test_a_normal_form_is_described(normalized_run):
    assert "normalized to NFC" in charlm("info", "-c", normalized_run).stdout.decode()
    assert "--normalize nfc" in (normalized_run / "README.md").read_text()
    resumed = charlm("train", "--resume", "--out", normalized_run, "--steps", 22)
    assert resumed.returncode == 0, resumed.stderr


# ------------------------------------------------------------------------------------------------ prompts


def test_unknown_characters_of_a_prompt_are_named_in_one_line(trained_run, document_run):
    for prompt, stdin in (
        (["-p", "the \u2603 c\u00e7t\u200b\u2603"], None),
        ([], "the \u2603 c\u00e7t\u200b\u2603\n".encode()),
    ):
        result = charlm("generate", "-c", trained_run, "-n", 5, "--seed", 1, *prompt, stdin=stdin)
        named = "the training text does not have these characters of the prompt: ç \\u200b \u2603; "
        assert said(result) == f"{named}the model can only guess\n"
        assert result.stdout.decode().startswith("the \u2603")
    assert "this character of the prompt: Z;" in said(charlm("generate", "-c", document_run, "-p", "ZZ", "-n", 5))
    many = said(charlm("generate", "-c", trained_run, "-p", "ABCDEFGHIJKLMN", "-n", 0))
    assert many.count("\n") == 1
    assert "A B C D E F G H I J and 4 more;" in many
    assert said(charlm("generate", "-c", trained_run, "-p", "the cat", "-n", 5)) == ""


@pytest.mark.parametrize(
    ("stdin", "prompt"), [(b"the\n", "the"), (b"the\r\n", "the"), (b"the\n\n", "the\n"), (b"\n", ""), (b"the", "the")]
)
def test_a_prompt_from_a_pipe_loses_one_line_end(trained_run, stdin, prompt):
    options = ["-c", trained_run, "-n", 20, "--seed", 1]
    expected = library.load(trained_run).generate(prompt, 20, seed=1)
    assert charlm("generate", *options, stdin=stdin).stdout.decode().removesuffix(
        "\n"
    ) == prompt + expected.removesuffix("\n")
    argument = charlm("generate", *options, "-p", "the\n")
    assert argument.stdout.startswith(b"the\n")  # an argument is taken as it is


def test_waiting_for_stdin_is_said_after_a_second(trained_run, tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    commands = [[*CHARLM, *arguments, "-c", trained_run] for arguments in (["generate"], ["score"], ["eval", "-"])]
    started = [subprocess.Popen(command, **pipes) for command in commands]  # they wait at the same time
    for process in started:
        with process:
            line = process.stderr.readline()  # before anything is written
            assert line.startswith(b"waiting for a ")
            assert line.endswith(b" on stdin\n")
            _, stderr = process.communicate(b"the cat sat on a mat\n", timeout=60)
            assert (process.returncode, stderr) == (0, b"")


def test_text_that_arrives_soon_is_not_waited_for(trained_run):
    started = time.monotonic()
    result = charlm("generate", "-c", trained_run, "-n", 5, stdin=b"the")
    assert "waiting" not in said(result)
    assert started < time.monotonic()
