"""What a training writes for those who watch it; that it costs nothing otherwise, and never stops a training."""

import struct
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import pytest
from commands import QUICK, charlm, one_line
from trainers import digest, train

import charlm as library
from charlm.checkpoint.run_folder import CURVE, RunFolder
from charlm.errors import CharlmError
from charlm.training.events import Evaluated, RolledBack, Stepped
from charlm.training.live_curve import LiveCurve
from charlm.training.observers import ObserverOptions, observing
from charlm.training.progress_bar import ProgressBar
from charlm.training.tensorboard import STEPS_PER_POINT, TensorBoard

BRIEF = {"steps": 20, "hidden": 8, "layers": 1, "batch": 4, "bptt": 16, "eval_every": 5, "threads": 1, "device": "cpu",
         "precision": "fp32"}  # fmt: skip


def events_in(folder):
    """What TensorBoard reads: (step, tag, value) of each scalar and text, oldest file first."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[12 + length + 4 :]
            for value in event.summary.value:
                text = value.tensor.string_val
                found.append((event.step, value.tag, text[0].decode() if text else value.simple_value))
            if event.session_log.status == 1:
                found.append((event.step, "start", None))
    return found


def test_a_training_that_does_not_ask_imports_nothing(text_file, tmp_path):
    code = f"""
import sys, charlm
charlm.train({str(text_file)!r}, out={str(tmp_path / "run")!r}, **{BRIEF})
sys.exit(", ".join({{"matplotlib", "tensorboardX", "IPython", "tqdm.auto", "charlm.plots.figure",
                     "charlm.training.tensorboard"}} & sys.modules.keys()) or 0)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert not (tmp_path / "run" / CURVE).exists()


def test_the_command_writes_a_picture_at_each_evaluation(text_file, tmp_path):
    result = charlm("train", text_file, "--out", tmp_path / "run", "--steps", 20, *QUICK, "--plot")
    assert result.returncode == 0, result.stderr
    ET.parse(tmp_path / "run" / CURVE)
    assert "![Losses and learning rate over the steps](curve.svg)" in (tmp_path / "run" / "README.md").read_text()
    assert charlm("plot", tmp_path / "run", "-o", tmp_path / "again.svg").returncode == 0
    assert (tmp_path / "again.svg").read_bytes() == (tmp_path / "run" / CURVE).read_bytes()


def test_the_picture_is_drawn_again_at_each_evaluation(make_trainer):
    trainer = make_trainer(steps=21)
    live, sizes = LiveCurve(trainer.run), []

    def note(event):
        live(event)
        if isinstance(event, Evaluated):
            sizes.append((trainer.run / CURVE).read_bytes())

    train(trainer, on=note)
    assert len(set(sizes)) == len(sizes) == 3


def test_a_picture_that_cannot_be_written_is_warned_of_once(make_trainer, caplog):
    trainer = make_trainer(steps=21)
    (trainer.run / CURVE).mkdir()
    events = train(trainer, on=LiveCurve(trainer.run))
    assert events[-1].step == 21
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "training continues" in caplog.text


def test_a_run_killed_before_its_first_step_may_be_started_again(tmp_path):
    run = RunFolder.claim(tmp_path / "run", "")
    for name in (".lock", "metrics.jsonl", CURVE):
        (run.path / name).touch()
    (run.path / "tensorboard").mkdir()
    run.refuse_taken()


def test_tensorboard_has_what_was_measured(make_trainer, tmp_path):
    trainer = make_trainer(steps=28)
    board = TensorBoard(tmp_path / "board")
    events = train(trainer, on=board)
    board.close()
    written = {(step, tag): value for step, tag, value in events_in(tmp_path / "board")}
    evaluated = [event for event in events if isinstance(event, Evaluated)]
    steps = [event for event in events if isinstance(event, Stepped)]
    for event in evaluated:
        assert written[event.step, "loss/validation"] == pytest.approx(event.valid_nats_per_char)
        assert written[event.step, "clipped_share"] == pytest.approx(event.clipped_share)
        assert event.sample.splitlines()[0] in written[event.step, "sample/text_summary"]
    for last in (10, 20):
        chunk = steps[last - STEPS_PER_POINT : last]
        for tag, values in (("loss/training", [event.nats_per_char for event in chunk]),
                            ("gradient_norm", [event.grad_norm for event in chunk])):  # fmt: skip
            assert written[last, tag] == pytest.approx(sum(values) / len(values), rel=1e-5)
        assert written[last, "learning_rate"] == pytest.approx(chunk[-1].lr)


def test_a_rollback_hides_later_points(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1e9)  # tensorboardX names files after the second
    board = TensorBoard(tmp_path)
    for step in range(1, 31):
        board(Stepped(step, 2.0, 1.0, 0.1, False, 10, None))
    board(RolledBack(12, 0.3, "diverged"))
    board(Stepped(20, 2.0, 1.0, 0.1, False, 10, None))
    board.close()
    written = events_in(tmp_path)
    assert (13, "start", None) in written
    before = [step for step, tag, _ in written[: written.index((13, "start", None))] if tag == "loss/training"]
    after = [step for step, tag, _ in written[written.index((13, "start", None)) :] if tag == "loss/training"]
    assert (before, after) == ([10, 20, 30], [20])


@pytest.mark.parametrize("words", [["--tensorboard"], ["--tensorboard={folder}"]])
def test_the_command_writes_for_tensorboard(text_file, tmp_path, words):
    words = [word.format(folder=tmp_path / "all") for word in words]
    result = charlm("train", *words, text_file, "--out", tmp_path / "run", "--steps", 20, *QUICK)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "run" / "tensorboard" if words == ["--tensorboard"] else tmp_path / "all" / "run"
    assert {tag for _, tag, _ in events_in(folder)} >= {"loss/training", "loss/validation", "gradient_norm"}
    again = charlm("train", "--resume", "--out", tmp_path / "run", "--steps", 30, *words)
    assert again.returncode == 0, again.stderr
    assert (21, "start", None) in events_in(folder)


def test_a_board_that_cannot_be_written_is_warned_of_once(make_trainer, tmp_path, caplog):
    (tmp_path / "file").touch()
    trainer = make_trainer(steps=14)
    train(trainer, on=TensorBoard(tmp_path / "file" / "board"))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "training continues without it" in caplog.text


def test_observers_do_not_change_the_training(make_trainer, tmp_path, capsys):
    weights = []
    for name, options in (("plain", ObserverOptions()), ("watched", ObserverOptions(True, True, True))):
        trainer = make_trainer(name, steps=14)
        with observing(trainer.run, 0, options) as observe:
            train(trainer, on=observe)
        weights.append(digest(trainer))
    assert weights[0] == weights[1]
    assert (trainer.run / CURVE).exists()
    assert events_in(trainer.run / "tensorboard")


@pytest.mark.parametrize(("module", "words", "options"), [
    ("matplotlib", ["--plot"], {"plot": True}), ("tensorboardX", ["--tensorboard"], {"tensorboard": True}),
])  # fmt: skip
def test_a_missing_library_is_told_before_the_run_begins(text_file, tmp_path, monkeypatch, module, words, options):
    (tmp_path / f"{module}.py").write_text("raise ImportError")
    result = charlm("train", text_file, *words, *QUICK, "--out", tmp_path / "run",
                    env={"PYTHONPATH": f"{tmp_path}:{library.__path__[0]}/.."})  # fmt: skip
    assert result.returncode == 66
    assert "pip install 'charlm-lstm[" in one_line(result)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CharlmError, match="pip install"):
        library.train(text_file, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_python_takes_the_same_options(text_file, tmp_path):
    trained = library.train(text_file, out=tmp_path / "run", plot=True, tensorboard=tmp_path / "all", **BRIEF)
    ET.parse(trained.run / CURVE)
    assert events_in(tmp_path / "all" / "run")
    library.resume(trained.run, steps=25, tensorboard=True)
    assert events_in(trained.run / "tensorboard")


@pytest.mark.parametrize("options", [{"plot": 1}, {"progress": "yes"}, {"tensorboard": 3}, {"tensorboard": ""}])
def test_wrong_options(text_file, tmp_path, options):
    with pytest.raises(CharlmError, match=next(iter(options))):
        library.train(text_file, out=tmp_path / "run", **options)


def test_progress_is_shown_where_it_is_asked_for(text_file, tmp_path, capsys):
    library.train(text_file, out=tmp_path / "quiet", **BRIEF)
    assert capsys.readouterr() == ("", "")
    library.train(text_file, out=tmp_path / "run", progress=True, **BRIEF)
    shown = capsys.readouterr().err
    assert "step 20" in shown
    assert "validation loss" in shown
    assert "100%" in shown


def test_progress_without_an_end_counts_steps(capsys):
    bar = ProgressBar()
    for step in range(1, 4):
        bar(Stepped(step, 2.0, 1.0, 0.1, False, 10, None))
    bar.close()
    assert "step 1" in capsys.readouterr().err
