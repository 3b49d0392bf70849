"""Small texts and small models for all tests; nothing is downloaded."""

import csv
import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from commands import CAN_FORK, prefork_server
from prefork import ADDRESS
from scratch import use_memory
from serving_process import serving
from stress.helpers import restore_signal_handlers

from charlm import native
from charlm.config import ModelConfig, TrainingConfig
from charlm.corpus.preparation import prepare
from charlm.corpus.prepared import open_corpus
from charlm.corpus.splitting import DocumentOptions
from charlm.corpus.tables import TableOptions, open_table
from charlm.corpus.text import open_source
from charlm.errors import UsageError
from charlm.training.trainer import Trainer

torch.set_num_threads(1)
restore_signal_handlers()


def pytest_configure(config):
    """Choose where to write, and start the process that runs commands for all workers of pytest-xdist."""
    use_memory()
    if CAN_FORK and config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        os.environ[ADDRESS] = prefork_server().address


@contextmanager
def environment(**variables):
    """Set environment variables temporarily; None removes a variable."""
    before = {name: os.environ.get(name) for name in variables}
    _set_variables(variables)
    try:
        yield
    finally:
        _set_variables(before)


def _set_variables(variables):
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


_RUN_AND_PRINT_PEAK = """
import sys
from charlm.cli.app import main
try:
    main()
except SystemExit:
    pass
status = open("/proc/self/status").read()
print(next(l.split()[1] for l in status.splitlines() if l.startswith("VmHWM")), file=sys.stderr)
"""


def peak_kilobytes(*arguments, stdin=None):
    """The peak resident memory of a charlm command, in kB."""
    command = [sys.executable, "-c", _RUN_AND_PRINT_PEAK, *arguments]
    result = subprocess.run(command, stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
    return int(result.stderr.split()[-1])


def library(instruction_set=""):
    """The native library with an instruction set; None if it cannot run on this machine."""
    with environment(CHARLM_ISA=instruction_set, CHARLM_ENGINE=None):
        try:
            return native.find_library()
        except UsageError:
            return None


INSTRUCTION_SETS = [name for name in native.INSTRUCTION_SETS if library(name)]
needs_native = pytest.mark.skipif(not INSTRUCTION_SETS, reason="the native engine was not built: no C++ compiler")

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "naïve", "dogs", "run;", "who,", "why?", "42", "times!",
         "\tindeed\n"]  # fmt: skip


@pytest.fixture(scope="session")
def text() -> str:
    """20,000 characters of random words, with a few accents and both kinds of line end."""
    draw = random.Random(7)
    return " ".join(draw.choice(WORDS) for _ in range(4600))[:20000] + "\r\n"


@pytest.fixture(scope="session")
def text_file(text, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "salad.txt"
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.fixture(scope="session")
def corpus(text_file, tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("corpus"), open_source([str(text_file)]))


TINY = {"layers": 2, "hidden": 24, "embedding": 16}
DROPOUTS = {
    "dropout_embedding": 0.1, "dropout_input": 0.1, "dropout_hidden": 0.2, "dropout_output": 0.2, "weight_drop": 0.2,
}  # fmt: skip
BRIEF = {"lr": 5e-3, "warmup": 3, "batch": 4, "bptt": 20, "eval_every": 7, "save_every": 1e9, "seed": 3, "threads": 1,
         "average": "ema", "average_decay": 0.9, "bptt_jitter": 0.2, "ar": 1.0, "tar": 1.0}  # fmt: skip


@pytest.fixture
def make_trainer(corpus, tmp_path):
    """A function that makes a trainer in a run folder with a copy of the small corpus."""

    def make(name="run", model=None, of=corpus, clock=time.monotonic, **training) -> Trainer:
        run = tmp_path / name
        if not (run / "corpus").exists():
            shutil.copytree(of.folder, run / "corpus")
        model_config = ModelConfig(of.tokenizer.vocabulary_size, **{**TINY, **DROPOUTS, **(model or {})})
        own = open_corpus(run / "corpus")
        return Trainer(run, own, model_config, TrainingConfig(**{**BRIEF, **training}), clock)

    return make


@pytest.fixture(scope="session")
def trained_run(text_file, tmp_path_factory) -> Path:
    """A run of a small model that was trained for 300 steps on random words."""
    import charlm

    out = tmp_path_factory.mktemp("runs") / "salad"
    charlm.train(
        text_file, out=out, hidden=48, layers=1, steps=300, bptt=32, batch=8, eval_every=100, lr=1e-2, threads=1,
        device="cpu", precision="fp32",
    )  # fmt: skip
    return out


@pytest.fixture(scope="session")
def lines_file(tmp_path_factory) -> Path:
    """400 lines of random words: most short, some of one word, a few very long."""
    draw = random.Random(11)
    lengths = [draw.choice([1, 2, 3, 4, 5, 30]) if number % 40 else 60 for number in range(400)]
    lines = [" ".join(draw.choice(WORDS[:11]) for _ in range(length)) for length in lengths]
    path = tmp_path_factory.mktemp("text") / "lines.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


REGIONS = {
    "north": ["bjor", "sven", "gul", "rik", "mund", "stein"],
    "south": ["mar", "co", "lu", "ci", "na", "bel"],
    "far east": ["mi", "ka", "ha", "ru", "to", "shi"],
}
"""Syllables of made-up names."""


@pytest.fixture(scope="session")
def table_file(tmp_path_factory) -> Path:
    """A table of 1,200 rows: made-up names by region, some of either missing, and notes with quotes and line ends."""
    draw = random.Random(5)
    path = tmp_path_factory.mktemp("table") / "people.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "the name", "region", "note"])
        for number in range(1, 1201):
            (region,) = draw.choices(list(REGIONS), [6, 3, 3])
            name = "".join(draw.choices(REGIONS[region], k=draw.randint(2, 4))).capitalize()
            name, region = name if number % 100 else "", region if number % 150 else ""
            rows.writerow([number, name, region, f'says "{name}",\nthen goes' if number % 7 else ""])
    return path


@pytest.fixture(scope="session")
def table_corpus(table_file, tmp_path_factory):
    """The names of the table given their regions."""
    choices = DocumentOptions("rows", seed=3, conditional=True)
    source = open_table([str(table_file)], TableOptions("the name", given="region"))
    return prepare(tmp_path_factory.mktemp("corpus"), source, split=(0.8, 0.1, 0.1), documents=choices)


@pytest.fixture(scope="session")
def table_run(table_file, tmp_path_factory) -> Path:
    """A run of a small model that was trained for 400 steps on the names of a table given their regions."""
    import charlm

    out = tmp_path_factory.mktemp("runs") / "people"
    charlm.train(
        table_file, out=out, column="the name", given="region", split="80/10/10", hidden=64, layers=1, steps=400,
        bptt=16, batch=8, eval_every=100, lr=2e-2, threads=1, device="cpu", precision="fp32",
    )  # fmt: skip
    return out


@pytest.fixture(scope="session")
def document_corpus(lines_file, tmp_path_factory):
    choices = DocumentOptions("lines", seed=3)
    return prepare(tmp_path_factory.mktemp("corpus"), open_source([str(lines_file)]), documents=choices)


@pytest.fixture(scope="session")
def document_run(lines_file, tmp_path_factory) -> Path:
    """A run of a small model that was trained for 250 steps on lines as documents."""
    import charlm

    out = tmp_path_factory.mktemp("runs") / "lines"
    charlm.train(
        lines_file, out=out, documents="lines", split="80/10/10", hidden=48, layers=1, steps=250, bptt=64, batch=8,
        eval_every=100, lr=1e-2, threads=1, device="cpu", precision="fp32",
    )  # fmt: skip
    return out


def _rival(file, out, **options) -> Path:
    import charlm

    charlm.train(
        file, out=out, hidden=20, layers=1, steps=60, bptt=32, batch=8, eval_every=30, lr=1e-2, threads=1,
        device="cpu", precision="fp32", **options,
    )  # fmt: skip
    return out


@pytest.fixture(scope="session")
def rival_run(text_file, tmp_path_factory) -> Path:
    """A smaller model than ``trained_run``'s, on the same text."""
    return _rival(text_file, tmp_path_factory.mktemp("runs") / "rival", seed=2)


@pytest.fixture(scope="session")
def rival_document_run(lines_file, tmp_path_factory) -> Path:
    """A smaller model than ``document_run``'s, on the same lines in the same parts."""
    return _rival(lines_file, tmp_path_factory.mktemp("runs") / "rival", documents="lines", split="80/10/10")


@pytest.fixture(scope="session")
def server(trained_run, document_run, table_run):
    """A server with a model of running text, which answers by default, one of lines and one with conditions."""
    pytest.importorskip("starlette", reason="the extra [serve] is not installed")
    with serving("-c", trained_run, "-c", document_run, "-c", table_run, "--max-tokens", 2000) as server:
        yield server
        log = [line for line in server.log if "serving" not in line]
        assert log == [], "the server has nothing to complain of"
        assert server.end() == 0
