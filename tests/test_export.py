"""An export is the model of a run: it generates the same text, has the same losses up to rounding, and is checked."""

import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import charlm as charlm_command
from conftest import INSTRUCTION_SETS, library, needs_native

import charlm
from charlm import runs
from charlm.checkpoint.model_card import BEGIN, CARD
from charlm.checkpoint.model_parts import read_model_parts
from charlm.checkpoint.run_folder import CURVE, RunFolder
from charlm.checkpoint.step import CONFIG, MANIFEST, MODEL, TOKENIZER, open_checkpoint
from charlm.checkpoint.tensors import tensors_from_bytes
from charlm.checkpoint.weights import dequantize, quantize
from charlm.corpus.prepared import find_corpus
from charlm.engine.native import NativeEngine
from charlm.errors import CannotCreateError, DataError, InputOutputError, MissingInputError, UsageError
from charlm.export import EXPORT_FORMATS, export
from charlm.training.options import TrainingOptions

FILES = {CARD, CONFIG, CURVE, MANIFEST, MODEL, TOKENIZER}


@pytest.fixture(scope="module")
def exports(trained_run, tmp_path_factory):
    home = tmp_path_factory.mktemp("exports")
    return {weight_format: export(trained_run, home / weight_format, weight_format) for weight_format in EXPORT_FORMATS}


def parts(path):
    return read_model_parts(open_checkpoint(path))


def test_an_export_has_only_the_files_of_the_model(exports, trained_run):
    opened = open_checkpoint(trained_run)
    for weight_format, made in exports.items():
        assert {path.name for path in made.path.iterdir()} == FILES
        assert not [path for path in made.path.parent.iterdir() if path.name.startswith(".")]
        config = open_checkpoint(made.path).config
        assert config == {**opened.config, "weights": weight_format}
        assert config["precision_costs"] == opened.config["precision_costs"]
        assert made.step == opened.step
        assert (made.path / TOKENIZER).read_bytes() == opened.files[TOKENIZER]
        assert f"| weights | {weight_format} |" in (made.path / CARD).read_text()
    sizes = [exports[weight_format].bytes_after for weight_format in EXPORT_FORMATS]
    assert exports["f16"].bytes_before > 3 * sizes[0] > 3 * 1.5 * sizes[1]


def test_float16_weights_are_the_rounded_weights_of_the_run(exports, trained_run):
    for name, array in parts(exports["f16"].path).weights.items():
        assert np.array_equal(array, parts(trained_run).weights[name].astype(np.float16).astype(np.float32)), name


def test_int8_weights_are_within_half_a_scale(exports, trained_run):
    tensors = tensors_from_bytes((exports["int8"].path / MODEL).read_bytes(), "here")
    for name, array in parts(exports["int8"].path).weights.items():
        original = parts(trained_run).weights[name]
        if array.ndim == 1:
            assert np.array_equal(array, original)
        else:
            scale_R = tensors[f"{name}.scale"]
            assert tensors[name].dtype == np.int8
            assert np.array_equal(array, dequantize(tensors[name], scale_R))
            assert (np.abs(array - original) <= 0.5001 * scale_R[:, None]).all()
            assert (np.abs(tensors[name]).max(axis=1) == 127).all()


def test_it_generates_and_evaluates_like_the_run(exports, trained_run, text):
    run = charlm.load(trained_run, device="cpu", precision="fp32", threads=1)
    for weight_format, tolerance in (("f16", 2e-3), ("int8", 2e-2)):
        model = charlm.load(exports[weight_format].path, device="cpu", precision="fp32", threads=1)
        assert model.evaluate(text[:2000]).nats_per_char == pytest.approx(
            run.evaluate(text[:2000]).nats_per_char, abs=tolerance
        )
        assert np.abs(model.score("the cat sat") - run.score("the cat sat")).max() < 20 * tolerance
    small = charlm.load(exports["f16"].path, device="cpu", precision="fp32", threads=1)
    assert small.generate("the ", 40, seed=4) == run.generate("the ", 40, seed=4)


def test_the_reported_losses_are_those_of_the_models(exports, trained_run):
    for made in exports.values():
        assert made.nats_before == pytest.approx(open_checkpoint(trained_run).validation, abs=5e-3)
        assert made.nats_after == pytest.approx(made.nats_before, abs=2e-2)
        assert made.nats_after != made.nats_before
    assert exports["f16"].nats_before == exports["int8"].nats_before


@needs_native
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_the_native_int8_engine_adds_no_rounding(exports, instruction_set):
    model = parts(exports["int8"].path)
    config, weights = model.config, model.weights
    again = {name: dequantize(*quantize(array)) if array.ndim == 2 else array for name, array in weights.items()}
    tensors = tensors_from_bytes((exports["int8"].path / MODEL).read_bytes(), "here")
    by_hand = {
        name: (tensors[name] * tensors[f"{name}.scale"].astype(np.float64)[:, None]).astype(np.float32)
        if array.ndim == 2 else array
        for name, array in weights.items()
    }  # fmt: skip
    ids_TB = np.random.default_rng(1).integers(0, config.vocabulary_size, (50, 3))
    logits = []
    for versions in (weights, again, by_hand):
        engine = NativeEngine(library(instruction_set), config, versions, "int8", 1)
        logits.append(engine.forward(ids_TB, engine.initial_state(3))[0])
    assert np.array_equal(logits[0], logits[1])
    assert np.array_equal(logits[0], logits[2])


def test_exporting_an_export_changes_no_weight(exports, tmp_path):
    for weight_format in EXPORT_FORMATS:
        made = export(exports[weight_format].path, tmp_path / weight_format, weight_format)
        assert (made.path / MODEL).read_bytes() == (exports[weight_format].path / MODEL).read_bytes()
        assert made.nats_before is made.nats_after is None


def test_documents_bytes_and_steps_can_be_exported(document_run, tmp_path):
    made = export(document_run, tmp_path / "lines", "int8")
    model = charlm.load(made.path, device="cpu")
    assert model.tokenizer.document_kind == "lines"
    assert made.nats_after is not None
    assert next(model.samples(1, seed=1))
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 40)
    run = charlm.train(
        tmp_path / "binary", out=tmp_path / "run", tokenizer="byte", steps=2, hidden=8, layers=1, batch=4, bptt=16,
        threads=1, device="cpu", precision="fp32",
    ).run  # fmt: skip
    made = export(run / "step-2", tmp_path / "bytes")
    assert {path.name for path in made.path.iterdir()} == FILES - {TOKENIZER}
    assert len(charlm.load(made.path, device="cpu").generate("x", 3, seed=1)) <= 3


def test_every_flipped_bit_is_noticed(exports, tmp_path):
    copy = Path(shutil.copytree(exports["int8"].path, tmp_path / "copy"))
    whole = dict(open_checkpoint(copy).files)
    for name in FILES - {CARD, CURVE}:
        data, same = (copy / name).read_bytes(), 0
        bits = range(0, 8 * len(data), max(1, 8 * len(data) // 300 | 1))  # odd, so that all bits of a byte occur
        for bit in bits:
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            (copy / name).write_bytes(changed)
            try:
                opened = open_checkpoint(copy)
            except DataError:
                continue
            assert name == MANIFEST  # its white space has no meaning
            assert dict(opened.files) == whole
            same += 1
        assert same < len(bits) / 4
        (copy / name).write_bytes(data)


def test_editing_the_card_does_not_damage_the_export(exports, tmp_path):
    copy = Path(shutil.copytree(exports["f16"].path, tmp_path / "copy"))
    assert (copy / CARD).read_text().startswith(BEGIN)
    for content in (b"", os.urandom(100), b"# mine\n"):
        (copy / CARD).write_bytes(content)
        assert charlm.load(copy, device="cpu").generate("the", 5, seed=1)
        assert (copy / CARD).read_bytes() == content
    (copy / CARD).unlink()
    charlm.load(copy, device="cpu")


def test_nothing_is_overwritten(exports, trained_run, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for taken in (
        exports["f16"].path,
        tmp_path / "empty",
        tmp_path / "file",
        tmp_path / "link",
        trained_run / "step-9",
    ):
        with pytest.raises(CannotCreateError, match=r"name another|choose another") as error:
            export(trained_run, taken)
        assert error.value.exit_code == 73
        assert "\n" not in str(error.value)
    with pytest.raises(CannotCreateError):
        export(trained_run, tmp_path / "file" / "below")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "link"]
    export(trained_run, tmp_path / "new" / "and" / "deep")


def test_unknown_formats_and_missing_runs_are_refused(trained_run, tmp_path):
    for weight_format in ("f32", "int4", ""):
        with pytest.raises(UsageError, match="f16, int8"):
            export(trained_run, tmp_path / "out", weight_format)
    with pytest.raises(MissingInputError):
        export(tmp_path / "no", tmp_path / "out")
    assert not list(tmp_path.iterdir())


class FailingSystem:
    """Makes the n-th file system call of ``export`` fail."""

    def __init__(self, monkeypatch, fail_at, code):
        self.calls, self._fail_at, self._code = 0, fail_at, code
        for owner, name in ((os, "fsync"), (Path, "mkdir"), (Path, "rename")):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, call):
        def counted(*arguments, **options):
            self.calls += 1
            if self.calls == self._fail_at:
                raise OSError(self._code, os.strerror(self._code))
            return call(*arguments, **options)

        return counted


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_an_export_is_complete_or_absent(trained_run, tmp_path, code):
    fail_at, failed = 1, True
    refused = CannotCreateError if code == errno.EACCES else InputOutputError
    while failed:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("charlm.export.run_picture", lambda run: b"<svg/>")
            system = FailingSystem(patch, fail_at, code)
            try:
                export(trained_run, tmp_path / "a" / "b")
                failed = False
            except refused:
                failed = True
        if failed and (tmp_path / "a" / "b").exists():
            charlm.load(tmp_path / "a" / "b", device="cpu")  # only the sync of its parent folder failed
            shutil.rmtree(tmp_path / "a")
        elif failed:
            assert not list(tmp_path.iterdir())
        fail_at += 1
    assert system.calls >= 12


def test_it_cannot_be_resumed_but_initializes_a_run(exports, text_file, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(exports["int8"].path, tmp_path / "checkpoints" / "small"))
    with pytest.raises(DataError, match=r"no training state.*--init-from"):
        runs.resume(copy)
    assert {path.name for path in copy.iterdir()} == FILES
    assert [path.name for path in copy.parent.iterdir()] == ["small"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingInputError), runs.resumed_run(None, TrainingOptions()):
        pass
    assert RunFolder.newest(Path("checkpoints")).path.name == "small"
    options = {"steps": 1, "batch": 4, "bptt": 16, "threads": 1, "device": "cpu", "precision": "fp32", "lr": 1e-9}
    trained = charlm.train(text_file, out="next", init_from=copy, average="none", **options)
    for name, array in parts(trained.run).weights.items():
        assert np.allclose(array, parts(copy).weights[name], atol=1e-6), name
    assert open_checkpoint(trained.run).config["weights"] == "f32"


def test_folder_of_texts_named_corpus_is_ignored(exports, trained_run, tmp_path):
    copy = Path(shutil.copytree(exports["f16"].path, tmp_path / "small"))
    (tmp_path / "corpus").mkdir()
    assert find_corpus(copy) is None
    assert export(copy, tmp_path / "again").nats_after is None


def test_the_commands(trained_run, text_file, tmp_path):
    done = charlm_command("export", trained_run, "small", "--weights", "int8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b""
    for words in ("kB before", "kB after", "nats/char before", "charlm generate --checkpoint small"):
        assert words in done.stderr.decode()
    for command in (
        ["generate", "-c", "small", "-n", "5", "--seed", "1"], ["eval", text_file, "-c", "small", "--json"],
        ["score", text_file, "-c", "small"], ["info", "-c", "small"],
    ):  # fmt: skip
        used = charlm_command(*command, cwd=tmp_path)
        assert used.returncode == 0, used.stderr
        assert used.stdout
    assert b"int8" in used.stdout
    assert b"kept: this" in used.stdout
    again = charlm_command("export", trained_run, "small", cwd=tmp_path)
    assert (again.returncode, again.stderr.count(b"\n")) == (73, 1)
    resumed = charlm_command("train", "--resume", "--out", "small", cwd=tmp_path)
    assert (resumed.returncode, resumed.stderr.count(b"\n")) == (65, 1)


def test_exporting_needs_no_torch(trained_run, tmp_path):
    code = (
        f"import sys; from charlm.export import export; export({str(trained_run)!r}, 'small', 'int8'); "
        "sys.exit('torch' in sys.modules)"
    )
    engine = {"CHARLM_ENGINE": "native"} if INSTRUCTION_SETS else {}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False, env={**os.environ, **engine})
    assert done.returncode == (0 if INSTRUCTION_SETS else 1)


def test_file_permissions_are_those_of_the_run(exports, trained_run):
    mode = stat.S_IMODE((open_checkpoint(trained_run).path / MODEL).stat().st_mode)
    assert stat.S_IMODE((exports["f16"].path / MODEL).stat().st_mode) == mode
