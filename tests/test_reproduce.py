"""The protocols of docs/how-to/reproduce.md, on stand-ins for Penn Treebank, enwik8 and text8."""

import json
import random
import re
import subprocess
from pathlib import Path

import pytest
from commands import QUICK, charlm

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "reproduce.md"
PARTS = {"train": 60, "valid": 8, "test": 9}
"""Lines of the stand-in for Penn Treebank."""


@pytest.fixture(scope="module")
def penn(tmp_path_factory):
    """A folder with texts of symbols separated by spaces, and what the page's commands make of them."""
    folder, generator = tmp_path_factory.mktemp("penn"), random.Random(1)
    data = folder / "simple-examples" / "data"
    data.mkdir(parents=True)
    for part, lines in PARTS.items():
        words = [[_word(generator) for _ in range(generator.randrange(3, 9))] for _ in range(lines)]
        text = "".join(" ".join("_".join(line)) + " \n" for line in words)
        (data / f"ptb.char.{part}.txt").write_text(text, "utf-8")
    block = re.findall(r"```sh\n(mkdir penn.*?)```", PAGE.read_text("utf-8"), re.DOTALL)[0]
    subprocess.run(["bash", "-ec", block], cwd=folder, check=True)
    return folder


def _word(generator):
    return generator.choice(["<unk>", "N", "mr.", *("".join(generator.choices("aehilnost", k=5)) for _ in range(9))])


def test_penn_symbols_and_line_ends_are_predicted_once(penn):
    parts = [option for part in ("valid", "test") for option in (f"--{part}", f"penn/{part}.txt")]
    trained = charlm("train", "penn/train.txt", *parts, *QUICK, "--steps", "2", "--out", "run", cwd=penn)
    assert trained.returncode == 0, trained.stderr
    for part, lines in PARTS.items():
        symbols = (penn / "simple-examples" / "data" / f"ptb.char.{part}.txt").read_text("utf-8").split()
        evaluation = _evaluation(penn, "--split", part)
        assert evaluation["predictions"] == evaluation["characters"] == len(symbols) + lines
        assert evaluation["unknown_characters"] == 0
        text = (penn / "penn" / f"{part}.txt").read_text("utf-8")
        assert text.replace("\n", "") == "".join(symbols).replace("_", " ")


@pytest.mark.parametrize("name", ["enwik8", "text8"])
def test_the_last_twentieth_is_the_test_part(tmp_path, name):
    text = _stand_in(name)
    (tmp_path / name).write_bytes(text)
    (tmp_path / "last").write_bytes(text[-len(text) // 20 :])
    tokenizer = ["--tokenizer", "byte"] if name == "enwik8" else []
    words = [name, *tokenizer, "--split", "90/5/5", *QUICK, "--steps", "2", "--out", "run"]
    trained = charlm("train", *words, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    sizes = [_evaluation(tmp_path, "--split", part)["characters"] for part in ("train", "valid", "test")]
    assert sizes == [18 * len(text) // 20, len(text) // 20, len(text) // 20]
    # (In the training part of text8 charlm itself replaces a few letters by bytes, so that it learns them.)
    whole, last = _evaluation(tmp_path, "--split", "test"), _evaluation(tmp_path, "last")
    assert whole["predictions"] == len(text) // 20
    assert whole["nats_per_char"] == last["nats_per_char"]
    assert whole["bits_per_byte"] == pytest.approx(whole["bits_per_char"], rel=1e-12)


def _stand_in(name):
    """20,000 bytes of markup with characters of several bytes, also across the borders, or of letters and spaces."""
    generator = random.Random(2)
    if name == "text8":
        return bytes(generator.choices(b"abcdefghijklmnopqrstuvwxyz ", k=20_000))
    pieces = ["<page>\n", "[[Zürich]] ", "日本語", "&lt;br&gt; ", "\r\n", "1999 ", "été "]
    return "".join(generator.choices(pieces, k=5_000)).encode()[1:20_001]


def _evaluation(folder, *words):
    result = charlm("eval", *words, "--checkpoint", "run", "--json", "--device", "cpu", cwd=folder)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
