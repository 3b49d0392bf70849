"""The table of runs: what it says of each, its order and its forms."""

import csv
import io
import json
import shutil

import pytest
from commands import QUICK, charlm, one_line

import charlm as library
from charlm.checkpoint.evaluations import EVALUATIONS, note_evaluation, noted_evaluation
from charlm.checkpoint.step import open_checkpoint
from charlm.errors import MissingInputError


@pytest.fixture(scope="module")
def folder(trained_run, rival_run, document_run, tmp_path_factory):
    """Three runs, two of them on the same text, an unfinished one, and a folder that is not a run."""
    folder = tmp_path_factory.mktemp("all")
    for run, name in ((trained_run, "b"), (rival_run, "a"), (document_run, "lines")):
        shutil.copytree(run, folder / name)
        (folder / name / EVALUATIONS).unlink(missing_ok=True)  # other tests evaluate these runs
    (folder / "README.md").write_text("not a run")
    (folder / "nothing").mkdir()
    return folder


def listed(folder, *words):
    result = charlm("runs", folder, *words)
    assert result.returncode == 0, result.stderr
    return result.stdout.decode()


def test_facts_are_those_of_the_checkpoints(folder):
    runs = json.loads(listed(folder, "--json"))["runs"]
    assert [run["run"] for run in runs] == [str(folder / name) for name in ("a", "b", "lines")]
    for run in runs:
        best, latest = (open_checkpoint(folder / run["run"], which) for which in ("best", "latest"))
        assert run["best_nats_per_char"] == best.validation
        assert run["best_step"] == best.step
        assert (run["steps"], run["seconds"]) == (latest.step, latest.config["seconds"])
        assert run["text"] == latest.config["corpus"]["name"]
        assert run["settings"] == {**latest.config["model"], **latest.config["training"]}
        assert run["finished"] is True


def test_the_table_shows_in_which_settings_runs_on_the_same_text_differ(folder):
    header, first, second, lines = listed(folder).splitlines()
    assert header.split()[:4] == ["run", "text", "size", "steps"]
    assert "hidden 20" in first
    assert "hidden 48" in second
    assert lines.split()[-1] == "-"  # the only run on its text
    assert "1 x 48" in second


def test_a_test_loss_is_shown_after_eval(folder):
    assert "±" not in listed(folder)
    measured = json.loads(charlm("eval", "-c", folder / "lines", "--json").stdout)
    (run,) = [run for run in json.loads(listed(folder, "--json"))["runs"] if run["text"] == "lines"]
    assert run["test_nats_per_char"] == measured["nats_per_char"]
    assert run["test_standard_error"] == measured["standard_error"]
    assert f"{measured['nats_per_char']:.4f} ± " in listed(folder)


def test_only_the_exact_loss_of_the_test_split_is_kept(folder, text_file):
    for words in (["--split", "valid"], [text_file], ["--protocol", "crops"], ["--dynamic"], ["--precision", "bf16"]):
        charlm("eval", "-c", folder / "b", *words)
    assert library.list_runs(folder)[1].test_nats_per_char is None


def test_a_loss_of_another_step_does_not_count(folder):
    run = folder / "a"
    note_evaluation(run / "step-7", "test", {"nats_per_char": 1.5, "standard_error": 0.1})
    assert library.list_runs(folder)[0].test_nats_per_char is None
    assert noted_evaluation(run, "test", 7) == (1.5, 0.1)
    with open(run / EVALUATIONS, "a") as file:
        file.write('{"step": 7, "split": "test", "nats_per_char": NaN}\n{"step": 7, "split": "te')
    assert noted_evaluation(run, "test", 7) == (1.5, 0.1)
    (run / EVALUATIONS).unlink()


def test_evaluations_never_fail(tmp_path):
    note_evaluation(tmp_path / "missing" / "step-3", "test", {"nats_per_char": 1.0})
    note_evaluation(tmp_path, "test", {"nats_per_char": 1.0})  # an exported model is not a step
    assert not list(tmp_path.iterdir())
    assert noted_evaluation(tmp_path, "test", 3) is None


@pytest.mark.parametrize(("order", "names"), [("run", ["a", "b", "lines"]), ("steps", ["a", "lines", "b"]),
                                             ("text", ["lines", "a", "b"])])  # fmt: skip
def test_order(folder, order, names):
    assert [line.split()[0] for line in listed(folder, "--sort", order).splitlines()[1:]] == names


def test_order_by_loss(folder):
    losses = [run["best_nats_per_char"] for run in json.loads(listed(folder, "--json", "--sort", "best"))["runs"]]
    assert losses == sorted(losses)


def test_csv_has_the_settings_in_columns(folder):
    rows = list(csv.DictReader(io.StringIO(listed(folder, "--csv"))))
    assert [row["hidden"] for row in rows] == ["20", "48", "48"]
    assert [row["seed"] for row in rows] == ["2", "1", "1"]
    assert float(rows[0]["best_nats_per_char"]) == library.list_runs(folder)[0].best_nats_per_char


def test_an_unfinished_run(text_file, tmp_path):
    charlm("train", text_file, "--steps", 20, *QUICK, "--out", tmp_path / "run", cwd=tmp_path)
    (run,) = library.list_runs(tmp_path)
    assert run.finished
    library.resume(run.path, steps=30, on_event=_stop_at_25)
    (run,) = library.list_runs(tmp_path)
    assert (run.step, run.finished) == (25, False)
    assert listed(tmp_path / "run").splitlines()[1].split()[:2] == ["run", "salad"]  # a run itself may be named


def _stop_at_25(event):
    import os
    import signal

    from charlm.training.events import Stepped

    if isinstance(event, Stepped) and event.step == 25:
        os.kill(os.getpid(), signal.SIGINT)


def test_a_damaged_run_is_left_out_with_a_warning(folder, tmp_path, caplog):
    broken = shutil.copytree(folder / "a", tmp_path / "broken")
    shutil.copytree(folder / "b", tmp_path / "good")
    for step in broken.glob("step-*"):
        (step / "config.json").write_text("{}")
    assert [run.name for run in library.list_runs(tmp_path)] == ["good"]
    assert "config.json is damaged" in caplog.text


def test_names_do_not_act_on_the_terminal(folder, tmp_path):
    shutil.copytree(folder / "a", tmp_path / "\x1b[31mred")
    assert "\x1b" not in listed(tmp_path)


def test_a_notebook_shows_a_table(folder):
    shown = library.list_runs(folder)._repr_html_()
    assert shown.count("<tr>") == 4
    assert "1 x 48" in shown


@pytest.mark.parametrize(("words", "code", "message"), [
    (["nowhere"], 66, "nowhere/ does not exist"),
    (["."], 66, "there is no run in ./ yet"),
    ([".", "--sort", "beauty"], 2, "--sort must be one of run, text, size"),
    ([".", "--json", "--csv"], 2, "only one of --csv and --json"),
])  # fmt: skip
def test_mistakes(tmp_path, words, code, message):
    result = charlm("runs", *words, cwd=tmp_path)
    assert result.returncode == code
    assert message in one_line(result)


def test_no_runs_in_python(tmp_path):
    with pytest.raises(MissingInputError):
        library.list_runs(tmp_path)
