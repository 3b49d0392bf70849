"""Runs with a time limit: their speed is measured once, kept, and described; others are never measured."""

import json

import pytest
from trainers import BRIEF

import charlm
from charlm import runs
from charlm.checkpoint.step import ALL_FILES, STATE, open_checkpoint
from charlm.cli.info import _rows
from charlm.training.budget import EvaluationSpeed, TrainingSpeed
from charlm.training.events import Saved


def described(run):
    """What ``charlm info`` shows."""
    model = charlm.load(run, device="cpu")
    config = model.config
    return {
        **model.describe(), "steps_kept": [], "parameters": config.parameter_count(),
        "saved_by_tying": config.saved_by_tying(),
    }  # fmt: skip


class FixedSpeed:
    """Instead of a measurement."""

    def __init__(self, corpus, seconds, *processes):
        self.seconds = seconds

    def training(self, model, config):
        return TrainingSpeed(0.0, 1 / 4096)

    def evaluation(self, model, config):
        return EvaluationSpeed(self.seconds / 1e4, 0.0)


def test_a_time_limit_is_measured_once_and_the_speed_is_kept_in_the_run(text_file, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "MachineSpeed", FixedSpeed)
    options = {name: value for name, value in BRIEF.items() if name != "eval_every"}
    trained = charlm.train(text_file, out=tmp_path / "run", time="1s", **options)
    assert trained.reason == "budget"

    def recorded():
        training = open_checkpoint(tmp_path / "run", "latest").config["training"]
        names = ("ids_per_second", "validation_ids", "eval_every", "warmup", "warmup_share")
        return [training[name] for name in names]

    before = recorded()
    # 0.9 s allow 57 steps of 64 ids. An evaluation of 1,000 takes more than a twentieth of the time.
    assert before[:2] == [4096.0, 1 << 10]
    assert before[3:] == [0, pytest.approx(0.2, abs=0.01)]
    training_state = json.loads(open_checkpoint(tmp_path / "run", "latest", ALL_FILES).files[STATE])["progress"]
    assert 0 < training_state["preparation_seconds"] < training_state["seconds"]

    def refuse(corpus, seconds):
        raise AssertionError("the speed is measured again")

    monkeypatch.setattr(runs, "MachineSpeed", refuse)

    class Stop(Exception):
        pass

    def stop_when_saved(event):
        if isinstance(event, Saved):
            raise Stop

    with pytest.raises(Stop):
        charlm.resume(tmp_path / "run", time="1h", save_every="1", on_event=stop_when_saved)
    assert open_checkpoint(tmp_path / "run", "latest").step == trained.step + 1
    assert recorded() == before
    assert "4,096 ids per second" in dict(_rows(described(tmp_path / "run")))["speed"]


def test_steps_and_epochs_are_never_measured(text_file, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "MachineSpeed", None)
    for name, limit in (("steps", {"steps": 2}), ("epochs", {"epochs": 1, "batch": 100})):
        out = tmp_path / name
        charlm.train(text_file, out=out, **{**BRIEF, **limit})
        training = open_checkpoint(out).config["training"]
        assert (training["ids_per_second"], training["warmup_share"], training["validation_ids"]) == (
            None,
            0.0,
            1 << 17,
        )
        assert "speed" not in dict(_rows(described(out)))


def test_the_model_card_of_a_timed_run_names_only_options(text_file, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "MachineSpeed", FixedSpeed)
    card = (charlm.train(text_file, out=tmp_path / "run", time="1s", **BRIEF).run / "README.md").read_text()
    (command,) = [line for line in card.splitlines() if line.startswith("    charlm train")]
    assert "--time 1s" in command
    for absent in ("warmup", "validation-ids", "ids-per-second"):
        assert absent not in command
