"""What a picture shows: losses between the lines of the log, the best step, baselines, labels."""

import json
import math
import shutil

import pytest
from trainers import train

from charlm.checkpoint.run_folder import METRICS
from charlm.errors import DataError, UsageError
from charlm.plots.characters import card_plot, character_plot
from charlm.plots.curves import read_curves, title_of
from charlm.training.events import Evaluated, Stepped


def write(run, *entries):
    run.mkdir(exist_ok=True)
    (run / METRICS).write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def line(kind, step, mean, valid=None):
    return {"kind": kind, "step": step, "seconds": step / 10, "train_nats_per_char": mean,
            "valid_nats_per_char": valid, "rate": 0.01}  # fmt: skip


def test_training_losses_are_means_between_the_lines(tmp_path):
    write(tmp_path / "run", line("train", 50, 4.0), line("train", 100, 3.0), line("valid", 150, 2.5, 2.4),
          line("train", 200, 2.0), line("train", 250, 1.5))  # fmt: skip
    (curve,) = read_curves([tmp_path / "run"], "steps")
    assert curve.train.xs == [50, 100, 150, 200, 250]
    assert curve.train.ys == pytest.approx([4.0, 2.0, 1.5, 2.0, 1.0])


def test_they_are_the_means_of_the_steps(make_trainer):
    trainer = make_trainer(steps=130, eval_every=60, lr=1e-2)
    losses = [event.nats_per_char for event in train(trainer) if isinstance(event, Stepped)]
    (curve,) = read_curves([trainer.run], "steps")
    bounds = [0, 50, 60, 100, 120, 130]
    assert curve.train.xs == bounds[1:]
    for first, last, loss in zip(bounds, bounds[1:], curve.train.ys, strict=False):
        assert loss == pytest.approx(math.fsum(losses[first:last]) / (last - first), rel=1e-9)


def test_the_best_step_is_the_lowest_validation_loss(trained_run):
    config = json.loads(min(trained_run.glob("step-*/config.json"), key=_validation).read_text())
    (curve,) = read_curves([trained_run], "steps")
    assert (curve.best.nats, curve.best.step, curve.best.x) == (config["validation"], config["step"], config["step"])


def _validation(path):
    return json.loads(path.read_text())["validation"] or math.inf


def test_baselines_are_those_of_the_corpus(trained_run, document_run, text):
    (curve,) = read_curves([trained_run], "steps")
    description = json.loads((trained_run / "corpus" / "corpus.json").read_text())
    assert curve.unigram == description["unigram_nats"]
    assert curve.uniform == pytest.approx(math.log(description["distinct_characters"]))
    assert curve.unigram < curve.uniform
    (documents,) = read_curves([document_run], "steps")
    distinct = json.loads((document_run / "corpus" / "corpus.json").read_text())["distinct_characters"]
    assert documents.uniform == pytest.approx(math.log(distinct + 1))  # the end marker is predicted, too


def test_a_run_without_its_corpus_has_no_baselines(trained_run, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / "run")
    (run / "corpus" / "corpus.json").write_text('{"distinct_characters": "many"}')
    assert read_curves([run], "steps")[0].unigram is None
    shutil.rmtree(run / "corpus")
    assert read_curves([run], "steps")[0].uniform is None


@pytest.mark.parametrize("x", ["steps", "seconds", "epochs"])
def test_x_axes(trained_run, x):
    (curve,) = read_curves([trained_run], x)
    last = {"steps": 300, "seconds": json.loads(_last_line(trained_run))["seconds"]}
    if x != "epochs":
        assert curve.valid.xs[-1] == last[x]
    assert curve.valid.xs == sorted(curve.valid.xs)
    assert len(curve.valid.xs) == 3


def _last_line(run):
    return (run / METRICS).read_text().splitlines()[-1]


def test_wrong_axes_and_empty_runs(trained_run, tmp_path):
    with pytest.raises(UsageError, match="steps, seconds, epochs"):
        read_curves([trained_run], "tokens")
    write(tmp_path / "new", line("train", 50, 3.0))
    with pytest.raises(DataError, match="use --x steps"):
        read_curves([tmp_path / "new"], "epochs")
    write(tmp_path / "new")
    with pytest.raises(DataError, match="no measurement yet"):
        read_curves([tmp_path / "new"], "steps")


def test_labels_say_what_differs(trained_run, rival_run):
    labels = [curve.label for curve in read_curves([trained_run, rival_run], "steps")]
    assert labels[0].startswith("salad: hidden 48, ")
    assert labels[1].startswith("rival: hidden 20, ")
    (alone,) = read_curves([trained_run], "steps")
    assert alone.label == "salad"
    assert title_of([alone]) == "salad, 1 x 48"
    assert title_of(read_curves([trained_run, rival_run], "steps")) == "salad: 2 runs"


# ------------------------------------------------------------------------------------------------ in characters


def cells(plot, mark):
    """(row, column) of a character inside the frame."""
    rows = [row.partition("|")[2] for row in plot.splitlines() if "|" in row]
    return [(number, column) for number, row in enumerate(rows) for column, cell in enumerate(row) if cell == mark]


def test_a_plot_in_characters(tmp_path):
    points = [line("valid", step, 5.0 - step / 100, 4.0 - step / 100) for step in range(100, 301, 20)]
    write(tmp_path / "run", *points)
    plot = character_plot(read_curves([tmp_path / "run"], "steps"), "steps", width=60, height=11)
    assert max(map(len, plot.splitlines())) <= 60
    found = cells(plot, "o")
    assert [row for row, _ in found] == sorted(row for row, _ in found)  # it falls from left to right ...
    columns = [column for _, column in found]
    assert columns == list(range(columns[0], columns[-1] + 1))  # ... without a gap
    assert cells(plot, "*") == [(10, columns[-1] + 1)]
    assert "* best 1.0000 at step 300" in plot
    assert plot.splitlines()[1].lstrip().startswith("4.000 |")


def test_several_runs_in_characters(trained_run, rival_run, tmp_path):
    plot = character_plot(read_curves([trained_run, rival_run], "steps"), "steps")
    assert cells(plot, "o")
    assert cells(plot, "x")
    assert not cells(plot, ".")
    assert "o salad: hidden 48" in plot
    assert "x rival: hidden 20" in plot


@pytest.mark.parametrize("losses", [[2.0], [2.0, 2.0], [0.0, 0.0, 0.0], [None], [1e300, 1e-300]])
def test_odd_losses_can_be_drawn(tmp_path, losses):
    from charlm.plots.figure import picture

    write(tmp_path / "run", *(line("valid", 7 * n + 7, loss, loss) for n, loss in enumerate(losses)))
    curves = read_curves([tmp_path / "run"], "steps")
    assert character_plot(curves, "steps", width=1).count("\n") > 20
    assert picture(curves, "steps", "svg").startswith(b"<?xml")


@pytest.mark.parametrize(("steps", "losses"), [([7, 14], [-1.7e308, 1.7e308]), ([7, 10**299], [2.0, 1.0]),
                                               ([-5, 0], [2.0, 1.0]), ([7, 7], [1.0, 2.0])])  # fmt: skip
def test_no_numbers_in_the_log_stop_the_card_from_being_written(tmp_path, steps, losses):
    write(tmp_path / "run", *(line("valid", step, loss, loss) for step, loss in zip(steps, losses, strict=True)))
    assert isinstance(card_plot(tmp_path / "run", {}), str)


def test_without_validation_text_the_training_loss_is_drawn(make_trainer, text_file, tmp_path):
    import charlm

    out = tmp_path / "run"
    charlm.train(text_file, out=out, split="100/0/0", steps=12, hidden=8, layers=1, batch=4, bptt=16, eval_every=4,
                 threads=1, device="cpu", precision="fp32")  # fmt: skip
    curves = read_curves([out], "steps")
    assert curves[0].best is None
    assert cells(character_plot(curves, "steps"), ".")
    assert "loss" in " ".join(axes.get_ylabel() for axes in charlm.plot(out).axes)
    two = shutil.copytree(out, tmp_path / "two")
    assert cells(character_plot(read_curves([out, two], "steps"), "steps"), "x")


def test_events_and_curves_agree(make_trainer):
    trainer = make_trainer(steps=21)
    evaluated = [event for event in train(trainer) if isinstance(event, Evaluated)]
    (curve,) = read_curves([trainer.run], "steps")
    best = next(event for event in reversed(evaluated) if event.is_best)
    assert (curve.best.step, curve.best.nats) == (best.step, best.valid_nats_per_char)
