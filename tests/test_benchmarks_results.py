"""Results of long benchmarks: every line is complete, and no measurement is repeated."""

import importlib
import json
import math
from argparse import Namespace
from pathlib import Path

import pytest

from charlm import runs

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SETTINGS = {"sha256": "ab", "split": "90/10/0", "seconds": 60.0, "seed": 1, "options": {"lr": 0.01}}


@pytest.fixture
def results(monkeypatch):
    pytest.importorskip("fcntl")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("results")


def measurement(results, settings, made, complete=lambda entry: True):
    def measure():
        made.append(settings)
        return {"figures": {"exact": 1.5}, "recipe": None}

    return results.Measurement(Path("a.txt"), settings, measure, complete)


def test_existing_results_are_not_measured_again(results, tmp_path):
    file, made = results.Results(tmp_path / "new" / "file.jsonl"), []
    assert file.entries() == []
    other = {**SETTINGS, "seed": 2}
    assert results.measure_once(file, measurement(results, SETTINGS, made))
    assert not results.measure_once(file, measurement(results, SETTINGS, made))
    assert results.measure_once(file, measurement(results, other, made))
    assert made == [SETTINGS, other]
    assert [entry["settings"] for entry in file.entries()] == made
    assert file.path.read_bytes().count(b"\n") == 2
    entry = file.find(SETTINGS)
    assert entry["figures"] == {"exact": 1.5}
    assert set(entry) >= {"text", "recipe", "wall_seconds", "date", "machine", "versions", "commit"}


def test_incomplete_result_is_measured_again_and_replaced(results, tmp_path):
    file, made = results.Results(tmp_path / "file.jsonl"), []
    file.add({"settings": SETTINGS, "figures": {"exact": 2.0}})
    assert results.measure_once(file, measurement(results, SETTINGS, made, lambda entry: "dynamic" in entry["figures"]))
    assert [entry["figures"] for entry in file.entries()] == [{"exact": 1.5}]


def test_key_depends_on_every_setting_but_not_on_their_order(results):
    assert results.key(dict(reversed(SETTINGS.items()))) == results.key(SETTINGS)
    assert results.key(json.loads(results.key(SETTINGS))) == results.key(SETTINGS)
    for name in SETTINGS:
        assert results.key({**SETTINGS, name: "another"}) != results.key(SETTINGS)
    assert results.key({"clip": math.inf}) == results.key({"clip": "inf"})


def test_truncated_last_line_is_ignored_and_repaired(results, tmp_path):
    whole = {"settings": SETTINGS, "figures": {"text": "ä中"}}
    added = {"settings": {**SETTINGS, "seed": 3}, "figures": {}}
    file = results.Results(tmp_path / "file.jsonl")
    file.add(whole)
    first = file.path.read_bytes()
    file.add(added)
    both = file.path.read_bytes()
    for cut in range(len(first) + 1, len(both)):
        file.path.write_bytes(both[:cut])
        lacks_only_its_end = cut == len(both) - 1
        assert file.entries() == ([whole, added] if lacks_only_its_end else [whole])
        file.add(added)
        assert file.entries() == [whole, added]
        assert file.path.read_bytes() == both + both[len(first) :] * lacks_only_its_end


def test_invalid_line_in_the_middle_is_named(results, tmp_path):
    file = results.Results(tmp_path / "file.jsonl")
    file.path.write_text('{"settings": {}}\n<<<<<<<\n{"settings": {"seed": 1}}\n')
    with pytest.raises(SystemExit, match="line 2"):
        file.entries()


def test_ctrl_c_ends_a_benchmark_and_keeps_its_results(results, tmp_path, capsys):
    made = []

    def measurements():
        yield measurement(results, SETTINGS, made)
        raise KeyboardInterrupt

    arguments = Namespace(results=tmp_path / "file.jsonl", table=False, json=True)
    with pytest.raises(SystemExit, match="130"):
        results.run_measurements(
            arguments, measurements(), lambda entries: [{"seed": e["settings"]["seed"]} for e in entries]
        )
    assert json.loads(capsys.readouterr().out) == {"rows": [{"seed": 1}]}


def test_options_become_keywords_of_the_right_types(results):
    assert results.parse_options(["size=small", "lr=1", "batch=8", "clip=inf"]) == {
        "size": "small", "lr": 1.0, "batch": 8, "clip": math.inf,
    }  # fmt: skip
    for wrong in ("lr", "lr=high", "batch=1.5", "seed=1", "colour=red"):
        with pytest.raises(SystemExit, match="--set"):
            results.parse_options([wrong])


def test_interrupted_training_ends_the_benchmark_and_can_be_resumed(results, text_file, tmp_path, monkeypatch):
    options = {"steps": 4, "size": "tiny", "batch": 4, "bptt": 16, "threads": 1, "device": "cpu", "precision": "fp32"}
    run, train = tmp_path / "run", runs.Trainer.events

    def stopped(trainer):
        trainer.stop()
        return train(trainer)

    monkeypatch.setattr(runs.Trainer, "events", stopped)
    with pytest.raises(KeyboardInterrupt):
        results.train(text_file, run, **options)
    monkeypatch.setattr(runs.Trainer, "events", train)
    assert results.train(text_file, run, **options).step == 4
    assert results.recipe_of(run)["training"]["steps"] == 4


def test_groups_share_all_settings_except_the_seed(results):
    entries = [{"settings": {**SETTINGS, "seed": seed, "split": split}} for seed in (1, 2) for split in ("a", "b")]
    groups = list(results.grouped(entries, "seed"))
    assert [(shared["split"], [entry["settings"]["seed"] for entry in group]) for shared, group in groups] == [
        ("a", [1, 2]),
        ("b", [1, 2]),
    ]
    assert results.mean_and_range([1.0, 2.0], 1) == "1.5 (1.0-2.0)"


@pytest.mark.parametrize("name", ["quality", "corpora", "peers", "ablation", "time_kept"])
def test_every_benchmark_prints_a_table_of_its_results(name, results, tmp_path, monkeypatch, capsys):
    script = importlib.import_module(name)
    monkeypatch.setattr("sys.argv", [name, "--table", "--results", str(tmp_path / "none.jsonl")])
    script.main()
    assert "has no results yet" in capsys.readouterr().out


def test_peer_is_reached_where_the_loss_first_falls_below_it(results, tmp_path):
    peers = importlib.import_module("peers")
    settings = {**SETTINGS, "sha256": peers.NANOGPT_TEXT, "peer_hidden": 8, "adam_rates": [0.1, 0.2], "engine": "torch"}
    ours = {"exact": 1.4, "crops_64": 1.5, "steps": 9, "curve": [[1, 2.0, 2.1], [2, 1.6, 1.8], [3, 1.5, 1.7]]}
    theirs = {name: {"exact": loss, "steps": 5} for name, loss in (("sgd", 1.7), ("adam 0.1", 1.9), ("adam 0.2", 1.3))}
    file = results.Results(tmp_path / "file.jsonl")
    file.add({"text": "a.txt", "settings": settings, "figures": {"charlm": ours, **theirs}})
    (row,) = peers.table(file.entries())
    assert (row["best rates"], row["adam"], row["reaches_sgd"]) == ("0.2", "1.3000", "2.0")
    assert (row["reaches_adam"], row["reaches_nanogpt"]) == ("0 of 1", "2.0")


@pytest.mark.parametrize("variant", ["default", "untied", "untied, as nn.Linear"])
def test_ablation_measures_models_that_charlm_cannot_load(variant, results, text_file):
    ablation = importlib.import_module("ablation")
    options = {"hidden": 8, "layers": 1, "batch": 2, "bptt": 8, "threads": 1}
    changes = ablation.VARIANTS[variant]
    settings = {"split": "90/10/0", "steps": 2, "seed": 1, "options": options, "changes": changes}
    outcome = ablation.measure(text_file, settings)
    more = outcome["recipe"]["model"]["vocabulary_size"] * 8 if changes else 0
    tied = ablation.ModelConfig(**outcome["recipe"]["model"]).parameter_count()
    assert outcome["figures"]["parameters"] == tied + more
    assert 0 < outcome["figures"]["exact"] < math.inf


def test_a_time_that_was_not_kept_is_marked(results):
    time_kept = importlib.import_module("time_kept")
    settings = {"seconds": 100.0, "size": "tiny", "instruction_set": "avx2", "options": {}}

    def off(train_seconds, ended="budget", seconds=100.0):
        figures = {"train_seconds": train_seconds, "process_seconds": 200.0, "steps": 9, "ended": ended, "best": 2.0}
        (row,) = time_kept.table([{"settings": {**settings, "seconds": seconds}, "figures": figures}])
        return row["off"]

    assert [off(102.9), off(97.1), off(103.1), off(96.9)] == ["+2.9", "-2.9", "+3.1 !", "-3.1 !"]
    assert [off(11.9, seconds=10.0), off(12.1, seconds=10.0)] == ["+1.9", "+2.1 !"]
    assert off(50.0, "early stop") == "-50.0"


def test_ablation_skips_variants_that_change_nothing(results, text_file):
    ablation = importlib.import_module("ablation")
    names = ["default", "no dropout", "dropout between layers 0.2"]
    settings = {"split": "90/10/0", "steps": 2, "options": {"hidden": 8, "layers": 1}}
    assert ablation.differing_variants(text_file, settings, names) == ["default"]
    settings["options"]["layers"] = 2
    assert ablation.differing_variants(text_file, settings, names) == ["default", "dropout between layers 0.2"]
