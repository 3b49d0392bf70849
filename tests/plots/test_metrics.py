"""The columns of a run's metrics.jsonl, what damaged files do to them, and what they agree with."""

import json
import os

import pytest
from trainers import metrics_of, resumed, train

import charlm
from charlm.checkpoint.run_folder import METRICS
from charlm.errors import CharlmError
from charlm.plots.curves import evaluations_curve
from charlm.training.events import Evaluated, Stepped


@pytest.fixture
def columns(trained_run):
    return charlm.metrics(trained_run)


def test_all_columns_have_a_value_for_each_line(trained_run, columns):
    lines = (trained_run / METRICS).read_text().splitlines()
    assert {len(column) for column in columns.values()} == {len(lines)}
    assert list(columns) == ["kind", "step", "seconds", "epochs", "train_nats_per_char", "valid_nats_per_char", "lr",
                             "grad_norm", "clipped_share", "skipped_steps"]  # fmt: skip
    for number, line in enumerate(map(json.loads, lines)):
        assert columns["step"][number] == line["step"]
        assert columns["lr"][number] == line["rate"]
        assert columns["clipped_share"][number] == line.get("clipped")


def test_epochs_are_those_of_the_training(make_trainer):
    trainer = make_trainer(steps=70, bptt_jitter=0.0)
    at = {}

    def note(event):
        if isinstance(event, Stepped):
            at[event.step] = trainer.batches.epochs(trainer.progress.cursor)

    train(trainer, on=note)
    columns = charlm.metrics(trainer.run)
    assert len(columns["step"]) > 5
    for step, epochs in zip(columns["step"], columns["epochs"], strict=True):
        assert epochs == pytest.approx(at[step], rel=0.02)


def test_epochs_of_documents(make_trainer, document_corpus):
    trainer = make_trainer(of=document_corpus, steps=40)
    train(trainer)
    assert charlm.metrics(trainer.run)["epochs"][-1] == pytest.approx(
        trainer.batches.epochs(trainer.progress.cursor), rel=0.02
    )


def test_a_resumed_run_has_each_step_once(make_trainer):
    trainer = make_trainer(steps=30)
    train(trainer, interrupt_after=16)
    again = resumed(trainer)
    train(again)
    columns = charlm.metrics(again.run)
    assert columns["step"] == [7, 14, 21, 28, 30]
    whole = make_trainer("whole", steps=30)
    train(whole)
    assert {**columns, "seconds": None} == {**charlm.metrics(whole.run), "seconds": None}


def test_losses_are_those_of_the_events(make_trainer):
    trainer = make_trainer(steps=21)
    seen = train(trainer)
    events = [event for event in seen if isinstance(event, Evaluated)]
    norms = [event.grad_norm for event in seen if isinstance(event, Stepped)]
    columns = charlm.metrics(trainer.run)
    assert columns["grad_norm"] == [event.grad_norm for event in events]
    assert columns["grad_norm"] == pytest.approx([sum(norms[at - 7 : at]) / 7 for at in (7, 14, 21)])
    assert columns["valid_nats_per_char"] == [event.valid_nats_per_char for event in events]
    assert columns["clipped_share"] == [event.clipped_share for event in events]
    assert len(metrics_of(trainer)) == len(events)


def test_damaged_lines_are_left_out(tmp_path):
    good = {"kind": "valid", "step": 7, "seconds": 1.0, "valid_nats_per_char": 2.0, "rate": 0.1}
    lines = ["", "{", "[1]", "null", '{"kind": "valid"}', '{"kind": "valid", "step": NaN}', "\0valid", "[" * 5000,
             '{"kind": "valid", "step": "7", "seconds": 1}', '{"kind": "other", "step": 7, "seconds": 1}',
             json.dumps(good), json.dumps({**good, "rate": None, "valid_nats_per_char": "2"}),
             json.dumps(good)[:20]]  # fmt: skip
    (tmp_path / METRICS).write_text("\n".join(lines))
    columns = charlm.metrics(tmp_path)
    assert columns["step"] == [7, 7]
    assert columns["valid_nats_per_char"] == [2.0, None]
    assert columns["lr"] == [0.1, None]
    assert columns["epochs"] == [None, None]


def test_links_and_pipes_are_not_read(tmp_path):
    """The card of a run is drawn at every save; a link or a pipe in the run's folder must not stop a training."""
    (tmp_path / "other").write_text('{"kind": "valid", "step": 7, "seconds": 1, "valid_nats_per_char": 2.0}\n')
    assert evaluations_curve(tmp_path, {}) is None
    (tmp_path / METRICS).symlink_to(tmp_path / "other")
    assert evaluations_curve(tmp_path, {}) is None
    (tmp_path / METRICS).unlink()
    os.mkfifo(tmp_path / METRICS)
    assert evaluations_curve(tmp_path, {}) is None
    (tmp_path / METRICS).unlink()
    (tmp_path / METRICS).write_bytes(b"x" * 200_000 + b"\n" + (tmp_path / "other").read_bytes())
    assert evaluations_curve(tmp_path, {}).best.nats == 2.0


def test_what_has_no_metrics_is_refused_in_one_line(tmp_path, trained_run):
    charlm.export.export(trained_run, tmp_path / "exported")
    (tmp_path / "empty").mkdir()
    for name, words in (("missing", "does not exist"), ("empty", "has no metrics.jsonl"),
                        ("exported", "is an exported model")):  # fmt: skip
        with pytest.raises(CharlmError, match=words) as error:
            charlm.metrics(tmp_path / name)
        assert "\n" not in str(error.value)
        assert error.value.exit_code == 66


def test_a_step_stands_for_its_run(trained_run, columns):
    (step, *_) = trained_run.glob("step-*")
    assert charlm.metrics(step) == columns
