"""Checkpoints of earlier versions, kept in ``golden/``, load and give the same results in every later version."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import INSTRUCTION_SETS, environment

import charlm
from charlm.checkpoint.step import MODEL, open_checkpoint, save_step
from charlm.checkpoint.tensors import tensors_from_bytes, tensors_to_bytes

GOLDEN = sorted(path.parent for path in (Path(__file__).parent / "golden").glob("*/expected.json"))
TOLERANCE = 1e-4
"""Nats per character."""


def expected_of(home):
    return json.loads((home / "expected.json").read_text("utf-8"))


def load(path, engine):
    """The model on an engine: "torch", or an instruction set of the native engine."""
    with environment(CHARLM_ENGINE="torch" if engine == "torch" else "native", CHARLM_ISA=engine.replace("torch", "")):
        model = charlm.load(path, device="cpu", precision="fp32", threads=1)
        assert model.engine.name.startswith("torch" if engine == "torch" else f"native {engine}")
        assert model.generation_engine is not None
    return model


def max_difference(model, expected):
    """The largest difference, in nats, of a character's log-probability from the expected one."""
    differences = []
    for text, wanted in expected["log_probabilities"].items():
        if model.tokenizer.end_id is None:
            differences.append(np.abs(model.score(text) - wanted).max())
        else:
            (scored,) = model.score_documents([text])
            differences.append(abs(scored.nats + sum(wanted)) / len(wanted))
            differences.append(np.abs(model.score(text) - wanted[:-1]).max())
    return max(differences)


def test_golden_checkpoints_of_text_and_documents_exist():
    names = {path.name for path in GOLDEN}
    assert {"format1-text", "format1-lines"} <= names


@pytest.mark.parametrize("home", GOLDEN, ids=lambda home: home.name)
def test_golden_files_are_unchanged(home):
    expected = expected_of(home)
    files = {path.name: path.read_bytes() for path in (home / expected["step"]).iterdir()}
    assert {name: hashlib.sha256(data).hexdigest() for name, data in files.items()} == expected["sha256"]
    assert open_checkpoint(home).config == expected["config"]


@pytest.mark.parametrize("engine", ["torch", *INSTRUCTION_SETS])
@pytest.mark.parametrize("home", GOLDEN, ids=lambda home: home.name)
def test_golden_checkpoints_score_and_generate_the_same(home, engine):
    expected = expected_of(home)
    model = load(home, engine)
    assert max_difference(model, expected) <= TOLERANCE
    assert model.generate(expected["prompt"], 20, temperature=0.0) == expected["greedy"]
    assert len(expected["greedy"]) == 20 or model.tokenizer.end_id is not None


@pytest.mark.parametrize(
    "name", ["embedding.weight", "decoder.bias", "lstm.0.weight_ih", "lstm.0.weight_hh", "lstm.0.bias"]
)
@pytest.mark.parametrize("home", GOLDEN, ids=lambda home: home.name)
def test_changing_any_weight_changes_the_scores(home, name, tmp_path):
    opened = open_checkpoint(home)
    weights = tensors_from_bytes(opened.files[MODEL], "here")
    changed = {**weights, name: np.roll(weights[name], 1)}
    files = {**opened.files, MODEL: tensors_to_bytes(changed)}
    path = save_step(tmp_path, opened.step, files)
    assert max_difference(load(path, "torch"), expected_of(home)) > TOLERANCE
