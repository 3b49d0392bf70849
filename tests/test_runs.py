import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from trainers import BRIEF, brief

import charlm
from charlm import runs
from charlm.checkpoint.model_parts import read_model_parts
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.step import ALL_FILES, CONFIG, open_checkpoint, save_step
from charlm.config import dump_json
from charlm.corpus.prepared import Corpus
from charlm.errors import CannotCreateError, DataError, MissingInputError, UsageError
from charlm.system.cores import cores
from charlm.training.events import Evaluated, Finished, Saved, Stepped
from charlm.training.options import TrainingOptions


def weights(run):
    return read_model_parts(open_checkpoint(run, "latest")).weights


def test_train_returns_the_run_and_passes_every_event_on(text_file, tmp_path, capfd):
    events = []
    trained = brief(text_file, tmp_path / "run", on_event=events.append)
    assert (trained.run, trained.step, trained.reason) == (tmp_path / "run", 6, "budget")
    assert [type(e) for e in events].count(Stepped) == 6
    assert isinstance(events[-1], Finished)
    assert capfd.readouterr() == ("", "")


def test_a_second_training_never_overwrites_the_first(text_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = [brief(text_file, None, 1).run.name for _ in range(3)]
    assert made == ["salad", "salad-2", "salad-3"]
    with pytest.raises(CannotCreateError, match="--resume"):
        brief(text_file, "checkpoints/salad")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    for taken in (tmp_path / "full", tmp_path / "full" / "thesis.txt"):
        with pytest.raises(CannotCreateError, match=r"choose another out\b"):
            brief(text_file, taken)
    assert (tmp_path / "full" / "thesis.txt").exists()


def test_a_resumed_run_ends_like_an_uninterrupted_one(text_file, tmp_path):
    brief(text_file, tmp_path / "whole", 12, lr=3e-3)

    class Stop(Exception):
        pass

    def stop_after_seven(event):
        if isinstance(event, Stepped) and event.step == 7:
            raise Stop

    with pytest.raises(Stop):
        brief(text_file, tmp_path / "cut", 12, lr=3e-3, save_every="3", on_event=stop_after_seven)
    assert RunFolder(tmp_path / "cut").step_numbers()[-1] == 6
    trained = charlm.resume(tmp_path / "cut")
    assert trained.step == 12
    for name, array in weights(tmp_path / "whole").items():
        assert np.array_equal(array, weights(tmp_path / "cut")[name])


def test_a_finished_run_can_be_extended(text_file, tmp_path):
    brief(text_file, tmp_path / "run", 5)
    assert charlm.resume(tmp_path / "run").reason == "finished before"
    assert charlm.resume(tmp_path / "run", steps=5).reason == "finished before"
    extended = charlm.resume(tmp_path / "run", steps=9)
    assert (extended.step, extended.reason) == (9, "budget")


def test_an_older_step_is_not_resumed_over_newer_ones(text_file, tmp_path):
    brief(text_file, tmp_path / "run", 5)
    shutil.copytree(tmp_path / "run" / "step-5", tmp_path / "aside")
    charlm.resume(tmp_path / "run", steps=12)
    shutil.copytree(tmp_path / "aside", tmp_path / "run" / "step-5", dirs_exist_ok=True)
    with pytest.raises(UsageError, match=r"newer checkpoint \(step 12\)"):
        charlm.resume(tmp_path / "run" / "step-5", steps=20)
    assert {5, 12} <= set(RunFolder(tmp_path / "run").step_numbers())
    assert charlm.resume(tmp_path / "run" / "step-12", steps=14).step == 14


def test_a_second_process_does_not_touch_a_run_in_use(text_file, tmp_path):
    texts, options = runs.TextOptions([str(text_file)]), TrainingOptions(steps=2, batch=4, bptt=16)
    with runs.new_run(texts, options, runs.RunOptions(tmp_path / "run")) as first:
        busy = pytest.raises(CannotCreateError, match="another process")
        with busy, runs.new_run(texts, options, runs.RunOptions(tmp_path / "run")):
            pass
        assert list(first.trainer.events())[-1].reason == "budget"
    assert RunFolder(tmp_path / "run").step_numbers()


def test_an_existing_folder_is_kept_and_a_killed_start_is_reused(text_file, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(DataError):
        brief(tmp_path / "short.txt", tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []
    (tmp_path / "mine" / "corpus").mkdir()
    (tmp_path / "mine" / "corpus" / "text").touch()
    (tmp_path / "mine" / ".lock").touch()
    assert brief(text_file, tmp_path / "mine", 2).step == 2


def test_a_text_may_be_named_like_a_step(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "step-7.txt").write_text(text)
    run = brief("step-7.txt", None, 3).run
    assert charlm.load(run, device="cpu").checkpoint.step == 3
    assert charlm.resume(run, steps=5).step == 5


def test_names_of_files_may_be_any_bytes(text, tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")
    with open(name, "w", encoding="utf-8") as file:
        file.write(text)
    run = brief(name, tmp_path / "run", 2).run
    assert charlm.resume(run, steps=3).step == 3


def test_a_folder_that_contains_its_own_runs_can_be_resumed(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(text)
    run = brief(".", None, 2).run
    assert charlm.resume(run, steps=3).step == 3


def test_with_a_separate_test_text_its_percentage_goes_to_training(text, text_file, tmp_path):
    (tmp_path / "t.txt").write_text("the cat " * 50)
    run = brief(text_file, tmp_path / "run", 1, test=tmp_path / "t.txt").run
    sizes = charlm.load(run, device="cpu").describe()["corpus"]["splits"]
    assert sizes["train"]["characters"] == round(len(text) * 0.95)
    assert sizes["test"]["characters"] == 400


def test_a_checkpoint_with_inconsistent_parts_is_refused(text_file, tmp_path):
    run = brief(text_file, tmp_path / "run", 1).run
    opened = open_checkpoint(run, "latest", ALL_FILES)
    config = {**opened.config, "model": {**opened.config["model"], "vocabulary_size": 300}}
    save_step(run, 1, {**opened.files, CONFIG: dump_json(config)})
    with pytest.raises(DataError, match="vocabulary"):
        charlm.load(run)


def test_a_checkpoint_of_a_gpu_opens_on_a_cpu(text_file, tmp_path):
    run = brief(text_file, tmp_path / "run", 3).run
    opened = open_checkpoint(run, "latest", ALL_FILES)
    config = {**opened.config, "training": {**opened.config["training"], "device": "cuda:5"}}
    save_step(run, 3, {**opened.files, CONFIG: dump_json(config)})
    assert len(charlm.load(run).generate("the", 5)) == 5
    with pytest.raises(UsageError, match="use device cpu"):
        charlm.resume(run, steps=5, device="cuda:5")
    assert charlm.resume(run, steps=5).step == 5


def test_ctrl_c_in_python_saves_and_returns(text_file, tmp_path):
    def press(event):
        if isinstance(event, Stepped) and event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    trained = brief(text_file, tmp_path / "run", 1000, on_event=press)
    assert trained.reason == "interrupted"
    assert RunFolder(trained.run).step_numbers()[-1] == trained.step < 10
    assert charlm.resume(trained.run, steps=12).step == 12


def test_a_resumed_run_keeps_its_options(text_file, tmp_path):
    brief(text_file, tmp_path / "run", 3)
    with pytest.raises(UsageError, match="lr cannot change"):
        charlm.resume(tmp_path / "run", lr=0.1)


def test_a_changed_text_cannot_be_resumed(text, tmp_path):
    own = tmp_path / "own.txt"
    own.write_bytes(text.encode())
    brief(own, tmp_path / "run", 3)
    own.write_text(text + "more")
    with pytest.raises(DataError, match="--init-from"):
        charlm.resume(tmp_path / "run", steps=9)
    own.unlink()
    assert charlm.resume(tmp_path / "run", steps=9).step == 9


def test_a_changed_corpus_description_is_found_before_its_sources_are_read(text_file, tmp_path, monkeypatch):
    run = brief(text_file, tmp_path / "run", 3).run
    described = run / "corpus" / "corpus.json"
    described.write_text(described.read_text().replace(str(text_file), "/"))

    def walk(self):
        raise AssertionError("the whole disk is read")

    monkeypatch.setattr(Corpus, "changed_sources", walk)
    with pytest.raises(DataError, match="restore it"):
        charlm.resume(run, steps=9)


def test_threads_of_a_larger_machine_are_not_started(text_file, tmp_path, caplog):
    try:
        brief(text_file, tmp_path / "run", 3, threads=1024)
        assert torch.get_num_threads() == cores()
        assert charlm.resume(tmp_path / "run", steps=4).step == 4
    finally:
        torch.set_num_threads(1)
    assert not caplog.records


def test_nothing_to_resume(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingInputError), runs.resumed_run(None, TrainingOptions()):
        pass


def test_init_from_maps_the_vocabulary_by_character(text_file, tmp_path):
    brief(text_file, tmp_path / "base", 30, lr=1e-2)
    other = tmp_path / "other.txt"
    other.write_text("zebras sat on the cat? " * 300)
    texts, options = runs.TextOptions([str(other)]), TrainingOptions(steps=1, batch=4, bptt=16)
    with runs.new_run(texts, options, runs.RunOptions(tmp_path / "next", tmp_path / "base")) as prepared:
        model, tokenizer = prepared.trainer.model, prepared.trainer.corpus.tokenizer
        started = model.weights()
    parts = read_model_parts(open_checkpoint(tmp_path / "base"))
    old_tokenizer, old = parts.tokenizer, parts.weights
    for character in "satonhec?":
        row, old_row = tokenizer.encode(character)[0], old_tokenizer.encode(character)[0]
        assert np.array_equal(started["embedding.weight"][row], old["embedding.weight"][old_row])
        assert started["decoder.bias"][row] == old["decoder.bias"][old_row]
    assert np.array_equal(started["lstm.0.weight_hh"], old["lstm.0.weight_hh"])
    assert "z" in tokenizer.characters
    assert "z" not in old_tokenizer.characters


def test_init_from_on_the_same_text_starts_at_the_same_loss(text_file, tmp_path):
    base = brief(text_file, tmp_path / "base", 60, lr=1e-2)
    events = []
    brief_again = {k: v for k, v in BRIEF.items() if k not in ("hidden", "layers")}
    charlm.train(
        text_file, out=tmp_path / "next", init_from=base.run, steps=5, lr=1e-9, on_event=events.append, **brief_again
    )
    first = next(e for e in events if isinstance(e, Evaluated))
    assert first.valid_nats_per_char == pytest.approx(base.best_nats_per_char, abs=1e-3)
    with pytest.raises(UsageError, match="init_from fixes the size"):
        brief(text_file, tmp_path / "third", init_from=base.run, hidden=32)
    with pytest.raises(UsageError, match="tokenizer char"):
        charlm.train(text_file, out=tmp_path / "fourth", init_from=base.run, tokenizer="byte", steps=1, **brief_again)


def test_a_failed_start_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 100)
    for name in ("short.txt", "latin.txt"):
        with pytest.raises(DataError):
            charlm.train(name, steps=1)
    assert not list(tmp_path.glob("checkpoints/*"))


def test_the_byte_tokenizer_takes_any_file(tmp_path):
    path = tmp_path / "binary"
    path.write_bytes(bytes(range(256)) * 40)
    brief(path, tmp_path / "run", 5, tokenizer="byte")
    model = charlm.load(tmp_path / "run", device="cpu")
    raw = model.generate("\udcff\udc80\0", 30, seed=1, temperature=5.0)
    assert len(raw.encode("utf-8", "surrogateescape")) <= 30
    assert model.evaluate("ü").characters == 2


def test_stdin_is_a_corpus(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reader, writer = os.pipe()
    os.write(writer, text.encode()[:20000])
    os.close(writer)
    with open(reader, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        trained = charlm.train("-", steps=2, **BRIEF)
    assert trained.run.name == "stdin"
    assert charlm.resume(trained.run, steps=4).step == 4
    assert not (trained.run / "corpus" / "text").exists()


def test_the_demo_text_is_long_and_english():
    text = runs.demo_text()
    assert len(text) > 400_000
    assert 'The "with" statement' in text


@pytest.mark.parametrize(
    "wrong", [{"tokenizer": "word"}, {"split": "1/2/3"}, {"encoding": "nope"}, {"size": "vast"}, {"nonsense": 1},
              {"valid": "v.txt", "split": "90/10"}, {"steps": 1, "epochs": 1}, {"device": "abacus"}]
)  # fmt: skip
def test_wrong_options_are_refused_before_any_work(text_file, tmp_path, wrong):
    with pytest.raises(UsageError):
        charlm.train(text_file, out=tmp_path / "run", **wrong)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"time": 3}, "time must be a string such as '10m', not 3"),
        ({"lr": "foo"}, "lr must be a number, not 'foo'"),
        ({"split": (90, 5, 5)}, "split must be a string such as '90/5/5', not (90, 5, 5)"),
        ({"documents": 1}, "documents must be a string, not 1"),
        ({"encoding": 8}, "encoding must be a string, not 8"),
        ({"out": 5}, "out must be a path, not 5"),
        ({"valid": 5}, "valid must be a path, not 5"),
        ({"save_every": 0}, "save_every must be above 0 and at most 1e9, not 0"),
        ({"dropout_hidden": 2}, "dropout_hidden must be at least 0 and below 1, not 2"),
        ({"precision": 16}, "precision must be auto, fp32, bf16 or fp16, not 16"),
        ({"corpus": 5}, "corpus must be a path or a list of paths, not 5"),
        ({"corpus": []}, "corpus must be a path or a list of paths, not []"),
        ({"corpus": [5]}, "corpus must be a path, not 5"),
    ],
)
def test_a_wrong_value_gives_one_line_that_names_the_keyword(text_file, wrong, words):
    with pytest.raises(UsageError) as caught:
        charlm.train(**{"corpus": text_file, **wrong})
    assert str(caught.value) == words


def test_save_every_may_be_a_number_of_steps(text_file, tmp_path):
    saved = []
    brief(text_file, tmp_path / "run", 6, save_every=4, eval_every=100, on_event=saved.append)
    assert [event.step for event in saved if isinstance(event, Saved)] == [4, 6]


def test_a_result_is_shown_in_one_short_line(text_file, tmp_path):
    result = charlm.runs.TrainingResult(tmp_path, 20, 1.26, "budget", 2.34567)
    assert (
        repr(result) == f"<TrainingResult {tmp_path}: 20 steps in 1.3 s, budget, best validation loss 2.3457 nats/char>"
    )


def test_public_names_are_listed_and_importing_them_is_light():
    assert set(dir(charlm)) >= {"train", "resume", "load", "LanguageModel", "CharlmError", "errors", "__version__"}
    assert all(getattr(charlm, name) is not None for name in dir(charlm))
    with pytest.raises(AttributeError, match="colour"):
        charlm.colour  # noqa: B018  # the error is what is tested
    code = """
import sys, charlm
assert issubclass(charlm.errors.UsageError, charlm.CharlmError)
assert not {"torch", "numpy", "sentencepiece"} & set(sys.modules)
assert charlm.runs.TrainingResult and charlm.resume is charlm.runs.resume
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["corpus", "metrics.jsonl"])
def test_a_folder_of_the_user_is_never_taken_for_a_killed_run(text, tmp_path, name):
    """Also where it has a name that a run has, too."""
    own = tmp_path / "project" / name / "text.txt" if name == "corpus" else tmp_path / "project" / name
    own.parent.mkdir(parents=True)
    own.write_bytes(text.encode())
    with pytest.raises(CannotCreateError, match="is not a run"):
        brief(own, tmp_path / "project")
    assert own.read_bytes() == text.encode()


def test_resume_names_only_the_options_that_it_has(tmp_path):
    with pytest.raises(
        UsageError, match=r"resume\(\) has no option 'foo'; it has epochs, save_every, steps, threads, time$"
    ):
        charlm.resume(tmp_path, foo=1)


def test_a_run_in_half_precision_of_a_gpu_continues_on_a_cpu(text_file, tmp_path):
    run = brief(text_file, tmp_path / "run", 2, precision="fp32").run
    opened = open_checkpoint(run, "latest", ALL_FILES)
    config = {**opened.config, "training": {**opened.config["training"], "precision": "fp16"}}
    save_step(run, 2, {**opened.files, CONFIG: dump_json(config)})
    with runs.resumed_run(run, TrainingOptions(steps=3), "cpu") as prepared:
        assert prepared.trainer.config.precision in ("fp32", "bf16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_of_a_device_that_is_missing_continues_on_another(text_file, tmp_path, caplog):
    run = brief(text_file, tmp_path / "run", 2).run
    opened = open_checkpoint(run, "latest", ALL_FILES)
    config = {**opened.config, "training": {**opened.config["training"], "device": "cuda:99"}}
    save_step(run, 2, {**opened.files, CONFIG: dump_json(config)})
    with pytest.raises(UsageError, match="cuda"):
        charlm.resume(run, steps=3, device="cuda:99")
    assert charlm.resume(run, steps=3, device="auto").step == 3
    assert "was trained on cuda:99, which this machine lacks; it continues on cpu" in caplog.text
