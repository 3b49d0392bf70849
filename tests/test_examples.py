"""The notebooks of examples/ run, with short trainings, and hold what their last run with long ones printed."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
MAX_BYTES = 1_000_000

QUICK = [(r"^STEPS = \d+", "STEPS = 8"), (r"range\(6000\)", "range(900)"), (r"text\[:40000\]", "text[:4000]"),
         (r"steps=None, eval_every=20", "steps=None, eval_every=2")]  # fmt: skip
"""What is replaced, so that the trainings take seconds: steps, also those until the loss no longer falls, and the sizes
of texts and tables."""


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shortened(source):
    for pattern, replacement in QUICK:
        source = re.sub(pattern, replacement, source, flags=re.MULTILINE)
    return source


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path):
    notebook = nbformat.read(path, 4)
    expected = [bool(pictures(cell)) for cell in code_of(notebook)]
    for cell in code_of(notebook):
        cell.source = shortened(cell.source)
    assert any("STEPS = 8" in cell.source for cell in code_of(notebook))
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
    assert [bool(pictures(cell)) for cell in code_of(notebook)] == expected
    warned = [output.text for cell in code_of(notebook) for output in cell.outputs if output.get("name") == "stderr"]
    assert not [text for text in warned if "Warning" in text or "Traceback" in text]


def pictures(cell):
    return [output for output in cell.outputs if "image/png" in output.get("data", {})]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_hold_their_results(path):
    """All cells were run in order, without an error, and no path of a machine is in what they printed."""
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert path.stat().st_size <= MAX_BYTES
    assert [cell.execution_count for cell in code_of(notebook)] == list(range(1, len(code_of(notebook)) + 1))
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert any(pictures(cell) for cell in code_of(notebook))
    assert not re.search(r"/(home|tmp|root|work|Users)/", path.read_text("utf-8"))


def test_there_are_three():
    listed = re.findall(r"\]\((\S+)\.ipynb\)", (EXAMPLES / "README.md").read_text("utf-8"))
    assert sorted(listed) == [path.stem for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    for cell in nbformat.read(path, 4).cells:
        for link in re.findall(r"\]\(([^)\s]+)\)", cell.source if cell.cell_type == "markdown" else ""):
            assert (EXAMPLES / link.partition("#")[0]).exists(), link
