"""Calibration: the temperature that is fitted is the best one, and in the weights it divides the logits."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import needs_native
from trainers import brief

import charlm
from charlm.checkpoint.model_parts import read_model_parts
from charlm.checkpoint.step import CONFIG, MANIFEST, MODEL, open_checkpoint, with_manifest
from charlm.corpus.prepared import open_corpus
from charlm.engine import create_engine
from charlm.engine.torch import TorchEngine
from charlm.errors import DataError
from charlm.evaluation.calibration import MIN_CALIBRATION_IDS, fit_temperature
from charlm.export import export_run


@pytest.mark.parametrize("true", [0.8, 0.92, 1.0, 1.13, 1.3, 1.5])
def test_the_temperature_of_a_known_distribution_is_found(true):
    """The expected loss is lowest at the temperature of the distribution that the targets come from."""
    logits_NV = np.random.default_rng(1).normal(size=(400, 30)) * 3

    def log_probabilities(temperature):
        scaled = logits_NV / temperature
        return scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))

    targets_NV = np.exp(log_probabilities(true))
    found = fit_temperature(lambda temperature: -(targets_NV * log_probabilities(temperature)).sum(axis=1).mean())
    assert found == pytest.approx(true, abs=0.005)


def test_a_temperature_outside_of_the_range_is_at_its_end():
    assert fit_temperature(lambda temperature: (temperature - 3.0) ** 2) == pytest.approx(1.515, abs=1e-3)
    assert fit_temperature(lambda temperature: temperature) == pytest.approx(0.769, abs=1e-3)


@pytest.mark.parametrize("engine", ["torch", pytest.param("native", marks=needs_native)])
def test_in_the_weights_the_temperature_divides_the_logits(trained_run, engine):
    raw = read_model_parts(open_checkpoint(trained_run))
    raw = dataclasses.replace(raw, temperature=1.37)
    ids_TB = np.random.default_rng(1).integers(raw.config.vocabulary_size, size=(40, 3))

    def logits(parts):
        made = create_engine(parts.config, parts.weights, "cpu", threads=1) if engine == "native" else (
            TorchEngine.from_weights(parts.config, parts.weights, "cpu", "fp32", 1))  # fmt: skip
        return made.forward(ids_TB, made.initial_state(3))[0]

    np.testing.assert_allclose(logits(raw.calibrated()) * 1.37, logits(raw), rtol=1e-4, atol=1e-4)
    assert raw.calibrated().temperature == 1.0


@pytest.fixture(scope="module")
def overconfident_run(text_file, tmp_path_factory):
    """A run whose model is too sure, because it has read little text often."""
    return brief(text_file, tmp_path_factory.mktemp("runs") / "run", steps=80, lr=2e-2, hidden=64, split="20/45/35").run


def test_training_ends_with_the_temperature_that_is_best_on_the_validation_text(overconfident_run):
    checkpoint = open_checkpoint(overconfident_run)
    raw = read_model_parts(checkpoint)
    assert checkpoint.config["temperature"] == raw.temperature != 1.0
    ids = open_corpus(overconfident_run / "corpus").ids("valid")
    text = [ids.read(0, len(ids))]

    def loss(temperature):
        model = charlm.load(overconfident_run, device="cpu", threads=1)
        scaled = dataclasses.replace(raw, temperature=temperature).calibrated()
        return model.with_weights(scaled.weights).evaluate_ids(text).nats_per_char

    losses = {factor: loss(raw.temperature * factor) for factor in (0.9, 1.0, 1.1)}
    assert losses[1.0] == min(losses.values())
    assert charlm.load(overconfident_run, device="cpu", threads=1).evaluate_ids(text).nats_per_char == losses[1.0]


def test_a_finished_run_goes_on_without_its_temperature(text_file, tmp_path):
    """Where a longer limit is given, the weights are those of a training that had it from the beginning."""
    options = {"schedule": "plateau", "lr": 2e-2, "save_every": "1", "split": "50/45/5"}
    events = []
    short = brief(text_file, tmp_path / "short", steps=10, **options)
    before = read_model_parts(open_checkpoint(short.run, "latest"))
    assert before.temperature != 1.0
    charlm.resume(short.run, steps=11, on_event=events.append)
    after = read_model_parts(open_checkpoint(short.run, "latest"))
    # One step at a low rate moves the averaged weights by far less than a temperature would.
    moved = np.abs(after.weights["embedding.weight"] - before.weights["embedding.weight"]).max()
    divided = np.abs(before.calibrated().weights["embedding.weight"] - before.weights["embedding.weight"]).max()
    assert moved < divided / 2


def test_a_short_validation_text_gives_no_temperature(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat. " * 60, encoding="utf-8")
    run = brief(text, tmp_path / "run", steps=2).run
    assert open_corpus(run / "corpus").sizes["valid"].ids < MIN_CALIBRATION_IDS
    assert "temperature" not in open_checkpoint(run).config


@pytest.mark.parametrize("temperature", ["1", None, True, 0, 11, [1.0]])
def test_a_forged_temperature_is_refused(overconfident_run, tmp_path, temperature):
    checkpoint = open_checkpoint(overconfident_run)
    config = json.loads(checkpoint.files[CONFIG])
    files = {**checkpoint.files, CONFIG: json.dumps({**config, "temperature": temperature}).encode()}
    folder = tmp_path / "forged"
    folder.mkdir()
    for name, data in with_manifest(files).items():
        (folder / name).write_bytes(data)
    with pytest.raises(DataError, match="temperature"):
        charlm.load(folder)


def test_an_export_has_the_temperature(overconfident_run, tmp_path):
    exported = export_run(overconfident_run, tmp_path / "export", "int8")
    assert exported.nats_after == pytest.approx(exported.nats_before, abs=0.02)
    temperatures = [open_checkpoint(path).config["temperature"] for path in (overconfident_run, tmp_path / "export")]
    assert temperatures[0] == temperatures[1]
    assert {MANIFEST, MODEL} <= {path.name for path in (tmp_path / "export").iterdir()}
