"""Short form of the campaign with hostile checkpoints, and what no file of charlm may reach for."""

import ast
from pathlib import Path

import pytest
from campaigns import hostile_checkpoints

PACKAGE = Path(__file__).parent.parent / "charlm"
FORBIDDEN_MODULES = {"pickle", "shelve", "marshal", "dill", "joblib", "cloudpickle"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "torch.save", "pickle.loads", "pickle.load"}


def test_hostile_checkpoints():
    figures = hostile_checkpoints.campaign(mutations=150, flips=100)
    assert figures["crashes"] == figures["hangs"] == figures["escaped"] == figures["code_run"] == 0
    assert figures["refused"] > figures["opened"] > 0


def dotted(node):
    """The name a call is made by, such as "torch.load"."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def findings(source):
    """What in a source reaches for code in data."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module] if (node.module or "").split(".")[0] in FORBIDDEN_MODULES else []
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            found += [name] if name in FORBIDDEN_CALLS else []
            found += ["allow_pickle" for keyword in node.keywords if keyword.arg == "allow_pickle"]
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_reaches_for_pickle_or_eval(path):
    assert findings(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source", ["import pickle", "from pickle import loads", "torch.load(x)", "eval(x)", "np.load(x, allow_pickle=True)"]
)
def test_the_search_finds_what_it_looks_for(source):
    assert findings(source)
