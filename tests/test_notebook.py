"""In the kernel of a notebook: what is shown, and what an interruption does."""

import re

import nbformat
import pytest
from nbclient import NotebookClient

import charlm
from charlm.checkpoint.step import open_checkpoint
from charlm.notebook import html_table, in_notebook

BRIEF = "hidden=8, layers=1, batch=4, bptt=16, eval_every=5, threads=1, device='cpu', precision='fp32'"


def cells(html):
    return [(row[1], row[2]) for row in re.finditer(r"<tr><th[^>]*>(.*?)</th><td[^>]*>(.*?)</td></tr>", html)]


@pytest.fixture(scope="module")
def model(trained_run):
    return charlm.load(trained_run, device="cpu", threads=1)


def test_here_is_no_notebook():
    assert not in_notebook()


def test_tables_escape_their_cells():
    assert html_table((), [("a<b", "<script>")]).count("<script>") == 0
    with_head = html_table(("x&y",), [("1",), ("2",)])
    assert "x&amp;y" in with_head
    assert with_head.count("<td") == 2


def test_results_are_tables(model, trained_run):
    evaluation = model.evaluate("the cat sat on a mat and saw the dogs run; who, why?")
    shown = dict(cells(evaluation._repr_html_()))
    assert shown["bits per character"] == f"{evaluation.bits_per_char:.4f}"
    assert shown["characters"] == str(evaluation.characters)
    (scored,) = model.score_documents(["<b> the cat"])
    shown = dict(cells(scored._repr_html_()))
    assert shown["text"] == "&lt;b&gt; the cat"
    assert shown["bits per character"] == f"{scored.bits_per_char:.3f}"
    result = charlm.runs.TrainingResult(trained_run, 300, 2.5, "budget", 1.23456)
    assert dict(cells(result._repr_html_()))["best validation loss"] == "1.2346 nats per character"
    assert "none" in charlm.runs.TrainingResult(trained_run, 300, 2.5, "budget", None)._repr_html_()


# ------------------------------------------------------------------------------------------------ in a kernel


def execute(folder, *sources):
    """Run cells in a new kernel, whether or not one fails; returns their outputs, a list for each."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}},
                            allow_errors=True)  # fmt: skip
    client.execute()
    return [cell.outputs for cell in notebook.cells]


def shown(outputs, form):
    return "".join(str(output.get("data", {}).get(form, "")) for output in outputs)


def printed(outputs):
    return "".join(output.text for output in outputs if output.output_type == "stream")


TRAIN = f"import charlm\ntrained = charlm.train('salad.txt', steps=20, out='run', {BRIEF})\ntrained"
STOPPED = f"""
import os, signal
from charlm.training.events import Stepped
def interrupt(event):
    if isinstance(event, Stepped) and event.step == 12:
        os.kill(os.getpid(), signal.SIGINT)
stopped = charlm.train('salad.txt', on_event=interrupt, steps=100000, progress=False, {BRIEF}, out="stopped")
stopped
"""
STOPPED_TWICE = f"""
import time
def interrupt(event):
    if isinstance(event, Stepped) and event.step == 12:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
charlm.train('salad.txt', on_event=interrupt, steps=100000, progress=False, {BRIEF}, out="twice")
"""


@pytest.fixture(scope="module")
def notebook(text, tmp_path_factory):
    """A folder, and the outputs of cells that one kernel runs there."""
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "salad.txt").write_text(text, encoding="utf-8", newline="")
    cells = {
        "trained": TRAIN,
        "curve": "charlm.plot(trained.run)",
        "runs": "charlm.list_runs('.')",
        "quiet": "charlm.resume(trained.run, steps=22, progress=False).step",
        "stopped": STOPPED,
        "resumed": "charlm.resume(stopped.run, steps=14, progress=False).step",
        "stopped twice": STOPPED_TWICE,
        "after": "6 * 7",
    }
    return folder, dict(zip(cells, execute(folder, *cells.values()), strict=True))


def errors(outputs):
    return [output.ename for output in outputs if output.output_type == "error"]


in_a_kernel = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.mark.slow
@in_a_kernel
def test_a_training_in_a_notebook(notebook):
    """Progress, results, runs and the curve are shown; an interruption saves, and the kernel lives on."""
    folder, outputs = notebook
    assert not [name for name in outputs if errors(outputs[name]) and name != "stopped twice"]
    assert "ended by" in shown(outputs["trained"], "text/html")
    bar = shown(outputs["trained"], "application/vnd.jupyter.widget-view+json") + printed(outputs["trained"])
    assert bar, "no progress bar"
    assert shown(outputs["curve"], "image/png").startswith("iVBOR")
    assert "salad" in shown(outputs["runs"], "text/html")
    assert (shown(outputs["quiet"], "text/plain"), printed(outputs["quiet"])) == ("22", "")
    assert "interrupted" in shown(outputs["stopped"], "text/html")
    assert shown(outputs["resumed"], "text/plain") == "14"
    assert open_checkpoint(folder / "stopped", "latest").step == 14


@pytest.mark.slow
@in_a_kernel
def test_two_interruptions_end_the_cell_and_not_the_kernel(notebook):
    _, outputs = notebook
    assert errors(outputs["stopped twice"]) == ["KeyboardInterrupt"]
    assert shown(outputs["after"], "text/plain") == "42"
