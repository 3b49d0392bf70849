"""``charlm train --teacher``: what it writes, what it refuses and how it is resumed."""

import json

import pytest
from commands import QUICK, charlm, one_line

import charlm as library


def test_a_smaller_model_learns_from_two_teachers(text_file, trained_run, rival_run, tmp_path):
    out = tmp_path / "taught"
    teachers = ["--teacher", trained_run, "--teacher", rival_run]
    result = charlm("train", text_file, "--out", out, "--steps", 20, *QUICK, *teachers)
    assert result.returncode == 0, result.stderr
    assert f"learns from {trained_run / 'step-'}"[:-1] in result.stderr.decode()
    described = json.loads((out / "soft-targets/soft-targets.json").read_text())
    assert [name.rpartition("/step-")[0] for name in described["teachers"]] == [str(trained_run), str(rival_run)]
    config = json.loads((out / "step-20/config.json").read_text())
    assert config["soft_targets"]["teachers"] == described["teachers"]
    assert config["training"]["soft_weight"] > 0
    # The teachers are no longer needed.
    result = charlm("train", "--resume", "--out", out, "--steps", 25)
    assert result.returncode == 0, result.stderr
    (out / "soft-targets/ids").unlink()
    result = charlm("train", "--resume", "--out", out, "--steps", 30)
    assert result.returncode == 66
    assert "soft-targets/ids" in one_line(result)
    assert charlm("eval", "-c", out).returncode == 0  # a trained model does not need them


def test_python_takes_teachers(text_file, trained_run, tmp_path):
    options = {"steps": 3, "size": "tiny", "batch": 4, "bptt": 16, "threads": 1, "device": "cpu"}
    plain = library.train(text_file, out=tmp_path / "plain", **options)
    taught = library.train(text_file, out=tmp_path / "taught", teacher=trained_run, **options)
    weights = [(run.run / "step-3/model.safetensors").read_bytes() for run in (plain, taught)]
    assert weights[0] != weights[1]


@pytest.mark.parametrize("what", ["missing", "other text", "documents", "resume"])
def test_what_cannot_be_a_teacher_is_one_line(what, text_file, trained_run, document_run, tmp_path):
    out = tmp_path / "out"
    other = tmp_path / "other.txt"
    other.write_text("0123456789 " * 100, encoding="utf-8")
    arguments, code, words = {
        "missing": ([text_file, "--teacher", tmp_path / "none"], 66, "none does not exist"),
        "other text": ([other, "--teacher", trained_run], 2, "train the teacher on the same text"),
        "documents": ([text_file, "--teacher", document_run], 2, "running text"),
        "resume": (["--resume", "--out", trained_run, "--teacher", trained_run], 2, "--teacher cannot change"),
    }[what]
    result = charlm("train", *arguments, *([] if what == "resume" else ["--out", out, "--steps", 3, *QUICK]))
    assert result.returncode == code
    assert words in one_line(result)
    assert not out.exists()


def test_a_teacher_that_may_know_the_validation_text_is_told(text_file, tmp_path):
    """Bytes have the same vocabulary in every split."""
    words = ["train", text_file, "--tokenizer", "byte", "--steps", 3, *QUICK]
    assert charlm(*words, "--out", tmp_path / "teacher").returncode == 0
    for split in ("90/5/5", "80/10/10"):
        out = tmp_path / split.replace("/", "-")
        result = charlm(*words, "--out", out, "--teacher", tmp_path / "teacher", "--split", split)
        assert result.returncode == 0, result.stderr
        assert ("was trained with another --split" in result.stderr.decode()) == (split == "80/10/10")
