"""The model card is correct, keeps what the user adds, and escapes every name."""

import os
import shlex
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

import charlm
from charlm import runs
from charlm.checkpoint import model_card
from charlm.checkpoint.model_card import BEGIN, CARD, END, generate_part, replace_part, update_card
from charlm.checkpoint.model_parts import read_model_parts
from charlm.checkpoint.run_folder import CURVE, RunFolder
from charlm.checkpoint.step import ALL_FILES, CONFIG, MODEL, open_checkpoint
from charlm.config import dump_json
from charlm.errors import DataError
from charlm.export import export

BRIEF = {"hidden": 16, "layers": 1, "batch": 4, "bptt": 16, "eval_every": 5, "threads": 1, "device": "cpu",
         "precision": "fp32"}  # fmt: skip
HOSTILE = ["a|b", "`rm -rf`", "<script>alert(1)</script>", f"x {END} y", BEGIN, "a\n# b", "[l](http://e.com)",
           "www.evil.com", "\udcff\x1b[31m\u202e", "![i](x)", "**b** _i_ ~~s~~", "&lt;", "\\|", "$x$", ""]  # fmt: skip


def brief(text_file, out, steps=6, **options):
    return charlm.train(text_file, out=out, steps=steps, **{**BRIEF, **options})


@pytest.fixture(scope="module")
def run(text_file, tmp_path_factory):
    return brief(text_file, tmp_path_factory.mktemp("runs") / "salad", 12).run


@pytest.fixture
def own_run(run, tmp_path):
    """A copy that a test may change."""
    return Path(shutil.copytree(run, tmp_path / "own"))


def text_of(run):
    return (run / CARD).read_text("utf-8")


def part_for(run, **changes):
    config = dict(open_checkpoint(run).config)
    return generate_part({**config, **changes}, (1.0, 5))


def test_the_card_describes_the_run(run, tmp_path):
    card, opened = text_of(run), open_checkpoint(run)
    config, corpus = charlm.load(run, device="cpu").config, opened.config["corpus"]
    nats = opened.validation
    for fact in (
        "# salad", "1 x 16", f"{config.parameter_count():,}", f"{config.vocabulary_size:,} ids", corpus["sha256"],
        f"{corpus['splits']['train']['characters']:,} training", "| seed | 1 |", "12 steps",
        f"{nats:.4f} nats ({nats / np.log(2):.3f} bits) per character, at step {opened.step}",
        f"charlm {charlm.__version__}, torch ", "own licence", "charlm generate --checkpoint . ",
    ):  # fmt: skip
        assert fact in card, fact
    assert card.startswith(BEGIN)
    assert card.endswith(END + "\n")
    for private in (tmp_path.parent, Path.home(), Path.cwd()):
        assert str(private) not in card


def command_of(card):
    """The options after ``charlm train FILE`` in the card."""
    (command,) = [line.strip() for line in card.splitlines() if line.startswith("    charlm train")]
    return shlex.split(command)[3:]


@pytest.mark.parametrize(
    "options",
    [
        {"save_every": "45s", "split": "87.5/12.5/0"},
        {"documents": "lines", "split": "80/10/10", "distinct": True},
        {"clip": float("inf")},
        {"column": "the name", "split": "80/10/10"},
    ],
)
def test_the_command_repeats_the_run(text_file, lines_file, table_file, tmp_path, options):
    text = lines_file if "documents" in options else table_file if "column" in options else text_file
    first = brief(text, tmp_path / "first", 7, dropout_input=0.0, ar=0.5, **{"save_every": "3", **options})
    from charlm.cli.app import app  # the command line, so that its types are tested, too

    where = ["--out", str(tmp_path / "second"), "--threads", "1", "--quiet"]
    app(["train", str(text), *command_of(text_of(first.run)), *where], standalone_mode=False)
    ends = [open_checkpoint(tmp_path / name, "latest") for name in ("first", "second")]
    assert ends[0].config["training"] == ends[1].config["training"]
    assert ends[0].config["corpus"] == ends[1].config["corpus"]
    assert ends[0].files[MODEL] == ends[1].files[MODEL]


def test_text_of_the_user_is_kept(own_run):
    before = text_of(own_run)
    edited = "# My poet\n\nA | note.\n" + before + "\nThanks: \u2764\r\nthe end"
    (own_run / CARD).write_bytes(edited.encode() + b"\xff")
    runs.resume(own_run, steps=20)
    after = (own_run / CARD).read_bytes()
    assert after.startswith(b"# My poet\n\nA | note.\n" + BEGIN.encode())
    assert after.endswith(END.encode() + "\n\nThanks: \u2764\r\nthe end".encode() + b"\xff")
    assert b"| trained | 20 steps" in after
    assert "| trained | 20 steps" not in before


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_a_table_cannot_change_the_card(run, name):
    table = {"column": name, "given": name + "2", "values": {name: 1}}
    part = part_for(run, table=table, tokenizer={"kind": "char", "documents": "rows"})
    assert (part.count(BEGIN), part.count(END)) == (1, 1)
    (command,) = [line for line in part.splitlines() if line.startswith("    charlm train")]
    words = shlex.split(command)
    if name.isprintable() and "<!--" not in name:
        assert words[words.index("--column") + 1] == name
        assert words[words.index("--given") + 1] == name + "2"


@pytest.mark.parametrize("own", ["", "mine alone\n", BEGIN + "only a beginning", END + BEGIN, 2 * (BEGIN + END)])
def test_a_page_without_one_pair_of_markers_is_not_changed(own_run, own):
    (own_run / CARD).write_text(own)
    runs.resume(own_run, steps=20)
    assert text_of(own_run) == own


def test_links_folders_and_pipes_are_not_changed(own_run, tmp_path, caplog):
    path, other = own_run / CARD, tmp_path / "other.md"
    path.replace(other)
    for make in (lambda: path.symlink_to(other), path.mkdir, lambda: os.mkfifo(path)):
        make()
        before = other.read_bytes()
        update_card(own_run, open_checkpoint(own_run).files[CONFIG], (0.5, 3))
        assert other.read_bytes() == before
        assert path.is_symlink() or path.is_dir() or path.is_fifo()
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    assert not caplog.records


def test_a_deleted_card_is_written_again(own_run):
    (own_run / CARD).unlink()
    runs.resume(own_run, steps=14)
    assert text_of(own_run).startswith(BEGIN)


def test_training_continues_if_the_card_cannot_be_written(text_file, tmp_path, monkeypatch, caplog):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_card, "write_synced", full)
    trained = brief(text_file, tmp_path / "run", 6)
    assert trained.step == 6
    assert open_checkpoint(trained.run, "latest", ALL_FILES).step == 6
    assert not (trained.run / CARD).exists()
    assert "No space left" in caplog.text


def test_the_card_is_written_after_the_step_is_saved(text_file, tmp_path, monkeypatch):
    saved = []

    def note(path, data):
        saved.append(RunFolder(path.parent).step_numbers())

    monkeypatch.setattr(model_card, "write_synced", note)
    brief(text_file, tmp_path / "run", 6)
    assert saved
    assert all(saved)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_escaped(run, name):
    corpus = open_checkpoint(run).config["corpus"]
    plain = part_for(run)
    part = part_for(run, corpus={**corpus, "name": name, "sha256": name}, charlm=name, torch=name)
    part.encode()
    assert part.count("\n") == plain.count("\n")
    assert part.count(BEGIN) == part.count(END) == 1
    for line, other in zip(part.splitlines(), plain.splitlines(), strict=True):
        unescaped = "".join(c for before, c in zip(" " + line, line, strict=False) if before != "\\" and c != "\\")
        unescaped_other = "".join(c for c in other if c != "\\")
        for mark in "|`<>[]*_~&$!#":
            assert unescaped.count(mark) == unescaped_other.count(mark), (mark, line)
    assert replace_part(part + "\n", plain) == plain + "\n"


@pytest.mark.parametrize(
    "changes", [{"corpus": None}, {"corpus": {}}, {"tokenizer": 3}, {"step": "x"}, {"model": {}}, {"seconds": None},
                {"charlm": None, "corpus": {"name": 1, "sha256": 2, "splits": 3}}]
)  # fmt: skip
def test_a_damaged_config_is_refused_in_one_line(run, changes):
    with pytest.raises(DataError) as error:
        part_for(run, **changes)
    assert "\n" not in str(error.value)


def test_editing_the_card_does_not_damage_the_run(own_run):
    weights = read_model_parts(open_checkpoint(own_run)).weights
    (own_run / CARD).write_bytes(os.urandom(500))
    again = read_model_parts(open_checkpoint(own_run)).weights
    assert all(np.array_equal(weights[name], again[name]) for name in weights)
    assert dump_json(dict(open_checkpoint(own_run).config))


def test_the_card_shows_the_curve_of_the_training(text_file, tmp_path):
    trained = brief(text_file, tmp_path / "run", 40, eval_every=10)
    text = text_of(trained.run)
    assert "## Its losses in training\n\n    nats per character\n" in text
    assert f"* best {trained.best_nats_per_char:.4f} at step " in text
    assert "curve.svg" not in text
    (trained.run / CURVE).touch()
    runs.resume(trained.run, steps=50)
    assert "](curve.svg)" in text_of(trained.run)


def test_the_card_of_an_export_shows_its_picture(text_file, tmp_path, monkeypatch, caplog):
    trained = brief(text_file, tmp_path / "run", 10)
    export(trained.run, tmp_path / "exported")
    assert "](curve.svg)" in text_of(tmp_path / "exported")
    ET.parse(tmp_path / "exported" / CURVE)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    export(trained.run, tmp_path / "without-matplotlib")
    monkeypatch.setattr("charlm.export.run_picture", lambda run: 1 // 0)
    export(trained.run, tmp_path / "failing")
    for name in ("without-matplotlib", "failing"):
        assert not (tmp_path / name / CURVE).exists()
        assert "curve.svg" not in text_of(tmp_path / name)
        assert "* best " in text_of(tmp_path / name)
    (warned,) = caplog.messages  # a missing library is not worth a warning
    assert "by zero" in warned


def test_without_measurements_the_card_has_no_curve(run):
    assert "losses in training" not in part_for(run)
