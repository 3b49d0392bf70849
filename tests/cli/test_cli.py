"""The command line: what goes to stdout and stderr, exit codes, one clear line for each mistake."""

import fcntl
import json
import os
import pickle
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

import pytest
from commands import CHARLM, QUICK, charlm, one_line, pipe, start


def test_help_is_quick_to_load_and_free_of_torch():
    code = """
import sys
sys.argv = ["charlm", "--help"]
from charlm.cli.app import main
try:
    main()
except SystemExit:
    pass
sys.exit(sum(name in sys.modules for name in ("torch", "numpy", "sentencepiece")))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert result.returncode == 0
    for command in ("train", "generate", "eval", "compare", "score", "info"):
        assert command in result.stdout.decode()
        assert charlm(command, "-h").returncode == 0


def test_version():
    import charlm as package

    assert charlm("--version").stdout.decode() == f"charlm {package.__version__}\n"


def test_the_everyday_commands(text_file, tmp_path):
    trained = charlm("train", text_file, "--steps", 20, *QUICK, "--json", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    result = json.loads(trained.stdout)
    assert result["run"] == "checkpoints/salad"
    assert result["step"] == 20
    assert result["model"]["hidden"] == 128
    assert result["training"]["steps"] == 20
    assert result["training"]["optimizer"] == "muon"
    stderr = trained.stderr.decode()
    for words in ("parameters", "tying", "baselines", "first loss", "validation", "charlm generate"):
        assert words in stderr
    assert "%|" not in stderr  # no progress bar, because stderr is not a terminal
    written = charlm("generate", "--prompt", "the cat", "--length", 30, "--seed", 1, cwd=tmp_path)
    assert written.stdout.decode().startswith("the cat")
    assert len(written.stdout.decode().removesuffix("\n")) in (36, 37)
    assert written.stderr.decode() == "using checkpoints/salad\n"
    measured = charlm("eval", "--json", cwd=tmp_path)
    assert set(json.loads(measured.stdout)) >= {
        "characters", "predictions", "nats_per_char", "bits_per_char", "bits_per_byte", "perplexity",
        "standard_error", "unknown_characters", "checkpoint", "corpus",
    }  # fmt: skip
    assert "perplexity" in charlm("eval", text_file, cwd=tmp_path).stdout.decode()
    info = charlm("info", "--json", cwd=tmp_path)
    assert json.loads(info.stdout)["step"] in (10, 20)
    assert "tokenizer" in charlm("info", cwd=tmp_path).stdout.decode()
    again = charlm("train", "--resume", cwd=tmp_path)
    assert again.returncode == 0
    assert "already finished" in again.stderr.decode()
    lines = (tmp_path / "checkpoints" / "salad" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["valid", "valid"]


def test_generate_reads_its_prompt_from_a_pipe(trained_run):
    for options in ([], ["--prompt", "-"]):
        piped = charlm("generate", "-c", trained_run, "-n", 5, "--seed", 1, *options, stdin="naïve cat".encode())
        assert piped.stdout.decode().startswith("naïve cat")
    empty = charlm("generate", "-c", trained_run, "-n", 5)
    assert empty.returncode == 0
    assert len(empty.stdout) >= 5


def test_same_seed_same_text_and_samples(trained_run):
    runs = [charlm("generate", "-c", trained_run, "-n", 40, "--seed", 5, "-p", "the").stdout for _ in range(2)]
    assert runs[0] == runs[1]
    many = charlm("generate", "-c", trained_run, "-n", 40, "--seed", 5, "-p", "the", "--samples", 3).stdout
    assert many.count(b"---\n") == 2
    assert many.split(b"---\n")[0] == runs[0]
    lines = charlm("generate", "-c", trained_run, "-n", 40, "--samples", 3, "--json").stdout.splitlines()
    assert [json.loads(line)["sample"] for line in lines] == [0, 1, 2]


def test_the_locale_does_not_matter(trained_run):
    plain = charlm("generate", "-c", trained_run, "-n", 30, "--seed", 1, "-p", "naïve")
    odd = charlm("generate", "-c", trained_run, "-n", 30, "--seed", 1, "-p", "naïve", env={"LC_ALL": "C", "LANG": "C"})
    assert plain.stdout == odd.stdout


def test_a_closed_pipe_ends_it_quietly(trained_run):
    command = " ".join([*CHARLM, "generate", "-c", str(trained_run), "-n", "20000", "-p", "t"])
    piped = f"set -o pipefail; {command} < /dev/null | head -c 10"
    result = subprocess.run(["bash", "-c", piped], capture_output=True, check=False)
    assert (len(result.stdout), result.stderr, result.returncode) == (10, b"", 0)


@pytest.mark.parametrize("command", ["", "--help", "train --help"])
def test_help_into_a_closed_pipe_ends_quietly(command):
    piped = f"set -o pipefail; {' '.join(CHARLM)} {command} | true"
    result = subprocess.run(["bash", "-c", piped], capture_output=True, check=False)
    assert (result.stderr, result.returncode) == (b"", 0)


def test_the_checkpoint_may_come_from_the_environment(trained_run, tmp_path):
    result = charlm("generate", "-n", 3, cwd=tmp_path, env={"CHARLM_CHECKPOINT": str(trained_run)})
    assert (result.returncode, result.stderr) == (0, b"")


def test_crops(trained_run, text_file):
    result = charlm("eval", text_file, "-c", trained_run, "--protocol", "crops", "--window", 64, "--json")
    assert json.loads(result.stdout)["protocol"] == "crops of 64"


def _bad_texts(folder):
    (folder / "empty.txt").touch()
    (folder / "latin.txt").write_bytes("café crème ".encode("latin-1") * 200)
    (folder / "utf16.txt").write_bytes(("the cat sat " * 200).encode("utf-16"))
    (folder / "short.txt").write_text("hello")
    (folder / "same.txt").write_text("a" * 1000)
    (folder / "bad.gz").write_bytes(b"\x1f\x8bno gzip")
    (folder / "folder").mkdir()


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["train", "missing.txt"], 66, "does not exist"),
        (["train", "empty.txt"], 65, "empty"),
        (["train", "latin.txt"], 65, "--encoding cp1252"),
        (["train", "utf16.txt"], 65, "--encoding utf-16"),
        (["train", "good.txt", "--encoding", "utf-16"], 65, "use utf-16-le (Windows) or utf-16-be"),
        (["train", "short.txt"], 65, "at least 100"),
        (["train", "same.txt"], 65, "one distinct character"),
        (["train", "bad.gz"], 65, "gzip"),
        (["train", "folder"], 66, "no text file"),
        (["train"], 2, "--demo"),
        (["train", "good.txt", "--demo"], 2, "exactly one of"),
        (["train", "good.txt", "--batch", "90000", "--bptt", "2"], 65, "--batch"),
        (["train", "good.txt", "--layers", "1", "--hidden", "8", "--embedding", "4"], 2, "--layers 2"),
        (["train", "good.txt", "--lr", "nan"], 2, "--lr"),
        (["train", "good.txt", "--lr", "fast"], 2, "--lr"),
        (["train", "good.txt", "--time", "soon"], 2, "90s, 10m, 2h or 1h30m"),
        (["train", "good.txt", "--steps", "5", "--time", "5s"], 2, "only one"),
        (["train", "good.txt", "--encoding", "klingon"], 2, "--encoding"),
        (["train", "good.txt", "--split", "50/50/50"], 2, "90/5/5"),
        (["train", "good.txt", "--device", "cuda:7"], 2, "--device cpu"),
        (["train", "good.txt", "--out", "good.txt"], 73, "--out"),
        (["train", "good.txt", "--out", "/proc/nowhere"], 73, "--out"),
        (["train", "good.txt", "--wrong"], 2, "--help"),
        (["train", "good.txt", "--valid", ""], 66, "'' is not the name of a file"),
        (["train", "--resume"], 66, "charlm train"),
        (["train", "--resume", "--out", "nowhere"], 66, "does not exist"),
        (["train", "good.txt", "--resume"], 2, "--resume --out RUN"),
        (["generate"], 66, "charlm train"),
        (["generate", "-c", "missing"], 66, "does not exist"),
        (["generate", "-c", "long" * 1000], 66, "too long for a file name"),
        (["generate", "-c", "model.pt"], 65, "is a file"),
        (["generate", "-c", "pickles/step-1"], 65, "restore"),
        (["generate", "-c", "good.txt", "--temperature", "-1"], 2, "--temperature"),
        (["eval"], 66, "charlm train"),
        (["eval", "good.txt", "--protocol", "magic"], 2, "exact or crops"),
        (["info"], 66, "charlm train"),
        (["fly"], 2, "--help"),
    ],
)
def test_mistakes(tmp_path, text, arguments, code, hint):
    _bad_texts(tmp_path)
    (tmp_path / "good.txt").write_text(text)
    (tmp_path / "model.pt").write_bytes(pickle.dumps({"weights": [1.0]}))
    (tmp_path / "pickles" / "step-1").mkdir(parents=True)
    for name in ("manifest.json", "config.json", "model.safetensors"):
        (tmp_path / "pickles" / "step-1" / name).write_bytes(pickle.dumps({"weights": [1.0]}))
    before = sorted(tmp_path.rglob("*"))
    result = charlm(*arguments, cwd=tmp_path)
    assert hint in one_line(result)
    assert result.returncode == code
    (tmp_path / "checkpoints").rmdir() if (tmp_path / "checkpoints").exists() else None
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "options", [["--precision", "banana"], ["--stop", ""], ["--seed", str(2**64)], ["--threads", "9999"],
                ["--temperature", "nan"], ["--length", "-3"]]
)  # fmt: skip
def test_generate_refuses_invalid_values(trained_run, options):
    result = charlm("generate", "-c", trained_run, "-p", "x", *options)
    assert (result.returncode, options[0].strip("-") in one_line(result)) == (2, True)


def test_dynamic_evaluation_lowers_the_loss_and_is_named(trained_run, tmp_path):
    (tmp_path / "new.txt").write_text("mad dogs hate moths; " * 60)
    plain, dynamic = (
        json.loads(charlm("eval", tmp_path / "new.txt", "-c", trained_run, "--json", *option).stdout)
        for option in ([], ["--dynamic"])
    )
    assert dynamic["nats_per_char"] < 0.9 * plain["nats_per_char"]
    assert (plain["protocol"], dynamic["protocol"]) == ("exact", "exact, dynamic")
    assert dynamic["characters"] == plain["characters"]


@pytest.mark.parametrize(
    "options", [["--protocol", "crops"], ["--precision", "int8"], ["--device", "cuda"], ["-c", "another"]]
)
def test_dynamic_evaluation_refuses_other_options(trained_run, options):
    result = charlm("eval", "-c", trained_run, "--dynamic", *options)
    assert (result.returncode, "--dynamic" in one_line(result)) == (2, True)


def test_generated_text_resembles_the_text_of_adapt(trained_run, tmp_path):
    (tmp_path / "new.txt").write_text("mad dogs hate moths; " * 120)
    written = charlm(
        "generate", "-c", trained_run, "--adapt", tmp_path / "new.txt", "-p", "mad ", "-n", 200, "--seed", 1
    )
    assert b"moths" in written.stdout
    missing = charlm("generate", "-c", trained_run, "--adapt", tmp_path / "missing.txt")
    assert (missing.returncode, "missing.txt" in one_line(missing)) == (66, True)


def test_length_zero_prints_only_the_prompt(trained_run):
    assert charlm("generate", "-c", trained_run, "-p", "the", "-n", 0).stdout == b"the\n"


def test_eval_reports_invalid_texts_with_either_protocol(trained_run, tmp_path):
    (tmp_path / "latin.txt").write_bytes("café ".encode("latin-1") * 100)
    for protocol in ("exact", "crops"):
        result = charlm("eval", tmp_path / "latin.txt", "-c", trained_run, "--protocol", protocol)
        assert (result.returncode, "not utf-8" in one_line(result)) == (65, True)
    (tmp_path / "short.txt").write_text("short")
    result = charlm("eval", tmp_path / "short.txt", "-c", trained_run, "--protocol", "crops")
    assert "smaller window" in one_line(result)


def test_resume_refuses_options_that_it_would_ignore(trained_run):
    for options in (["--precision", "bf16"], ["--lr", "1"], ["--tokenizer", "byte"], ["--split", "90/10"]):
        result = charlm("train", "--resume", "--out", trained_run, *options)
        assert (result.returncode, options[0] in one_line(result)) == (2, True)


def test_closed_streams_do_no_harm(trained_run):
    command = " ".join([*CHARLM, "generate", "-c", str(trained_run), "-n", "5", "-p", "t"])
    for closed in ("<&-", ">&-", "2>&-"):
        result = subprocess.run(f"{command} {closed}", shell=True, capture_output=True, check=False)
        assert (result.returncode, result.stderr) == (0, b"")


def test_a_full_stderr_does_not_stop_a_training(text_file, tmp_path):
    with open("/dev/full", "wb") as full:
        process = start("train", text_file, "--out", tmp_path / "run", "--steps", 20, *QUICK, stderr=full)
        assert process.wait(60) == 0
    assert (tmp_path / "run" / "step-20").is_dir()


def test_without_a_command_it_shows_its_help():
    result = charlm()
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"generate" in result.stdout


def test_a_truncated_checkpoint(trained_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    for step in run.glob("step-*"):
        model = step / "model.safetensors"
        model.write_bytes(model.read_bytes()[:-100])
    result = charlm("generate", "-c", next(run.glob("step-*")))
    assert (result.returncode, "damaged" in one_line(result)) == (65, True)
    assert charlm("generate", "-c", run).returncode == 65


def test_invalid_utf8_in_the_prompt(trained_run):
    result = charlm("generate", "-c", trained_run, "-p", b"ab\xff".decode("utf-8", "surrogateescape"))
    assert (result.returncode, "U+DCFF" in one_line(result)) == (65, True)


def test_a_run_in_use(text_file, tmp_path):
    from charlm.checkpoint.run_folder import RunFolder

    charlm("train", text_file, "--out", tmp_path / "run", "--steps", 2, *QUICK)
    with RunFolder(tmp_path / "run").lock():
        result = charlm("train", "--resume", "--out", tmp_path / "run", "--steps", 9)
    assert (result.returncode, "another process" in one_line(result)) == (73, True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_save_and_tell_how_to_resume(text_file, tmp_path, number, code):
    words = ["train", text_file, "--steps", 1000000, "--out", tmp_path / "run", *QUICK]
    with pipe(*words) as (process, stderr):
        line = b""
        while b"first loss" not in line:
            line = stderr.readline()
            assert process.poll() is None, line
        time.sleep(0.2)
        process.send_signal(number)
        assert process.wait(30) == code
        rest = stderr.read()
    assert b"charlm train --resume --out" in rest.splitlines()[-1]
    assert b"Traceback" not in rest
    result = charlm("train", "--resume", "--out", tmp_path / "run", "--steps", 1)
    assert result.returncode == 0, result.stderr


def test_a_terminal_shows_that_ctrl_c_was_noticed(text_file, tmp_path):
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    words = ["train", text_file, "--steps", 1000000, "--out", tmp_path / "run", *QUICK]
    process = start(*words, stdout=inside, stderr=inside)
    os.close(inside)
    shown = b""
    try:
        while b" left" not in shown and process.poll() is None:
            shown += os.read(terminal, 65536)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # how a terminal ends whose other side is closed
            while piece := os.read(terminal, 65536):
                shown += piece
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    text = shown.decode()
    assert 0 < text.find("stopping after this step and saving") < text.find("stopped and saved at step")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_while_stdin_is_read_leave_no_files(tmp_path, number, code):
    path = tmp_path / "stderr"
    streams = {"name": "stdin", "cwd": tmp_path}
    with open(path, "wb") as stderr, pipe("train", "-", *QUICK, stderr=stderr, **streams) as (process, _):
        while not list(tmp_path.glob("checkpoints/stdin/corpus/text")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(30) == code
    said = path.read_bytes().splitlines()
    assert said[-1].startswith(b"charlm: ")
    assert said[:-1] in ([], [b"waiting for a text on stdin"])
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_stdout_is_named(trained_run):
    with open("/dev/full", "wb") as full:
        command = [*CHARLM, "info", "--checkpoint", str(trained_run)]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert result.returncode == 74
    assert b"stdout could not be written (No space left on device)" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "--top-k", "-1"], "--top-k must be 0 (off) or more"),
        (["generate", "--top-p", "2"], "--top-p must be above 0"),
        (["generate", "--precision", "x"], "--precision must be auto, fp32, bf16 or int8, not 'x'"),
        (["generate", "--device", "cuda:99"], "--device cuda:99"),
        (["generate", "--length", "foo"], "--length 'foo' is not valid"),
        (["train", "TEXT", "--lr=foo"], "--lr 'foo' is not valid"),
        (["train", "TEXT", "--epochs", "-1"], "--epochs must be above 0, not -1"),
        (["score", "TEXT", "--html", ""], "--html '' is not the name of a page"),
        (["score", "TEXT", "--csv", "--raw-csv", "--json"], "give one of"),
    ],
)
def test_a_message_names_the_option_and_repeats_the_value(trained_run, text_file, tmp_path, words, message):
    named = [str(text_file) if word == "TEXT" else word for word in words]
    checkpoint = [] if words[0] == "train" else ["--checkpoint", trained_run]
    result = charlm(*named, *checkpoint, cwd=tmp_path)
    assert result.returncode == 2
    assert message in one_line(result)
