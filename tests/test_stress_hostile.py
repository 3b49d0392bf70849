"""The short form of the stress test of hostile checkpoints, and a proof that charlm never executes what it reads."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import charlm

PACKAGE = Path(charlm.__file__).parent
FORBIDDEN_MODULES = {"pickle", "_pickle", "shelve", "marshal", "dill", "cloudpickle", "joblib", "runpy", "code"}
FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_CALLS = {
    ("torch", "load"), ("torch", "save"), ("np", "load"), ("np", "save"), ("numpy", "load"), ("builtins", "eval"),
    ("builtins", "exec"), ("builtins", "compile"), ("importlib", "import_module"), ("os", "system"), ("os", "popen"),
}  # fmt: skip
# The package imports its public names lazily, by names in its own source.
KNOWN = {("__init__.py", "importlib.import_module")}


def python(source, *arguments):
    """Run ``source`` in another process and return its output."""
    paths = {"PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), str(Path(__file__).parent)])}
    command = [sys.executable, "-c", source, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **paths}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# The stress test forks, which a process that has computed in threads must not do; so it runs in another process.
HOSTILE_CHECKPOINTS = """
from stress.hostile_checkpoints import run_trials
figures = run_trials(mutations=100, flips=50)
print(figures["openings"], figures["refused"] > 100, figures["opened"] > 50, figures["bits_flipped"])
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured by Linux's /proc")
def test_hostile_checkpoints_give_one_line_errors():
    assert python(HOSTILE_CHECKPOINTS).split() == ["400", "True", "True", "300"]


def forbidden(source):
    """Names in a module's source that could execute data, or import code by a name from data."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").partition(".")[0] in FORBIDDEN_MODULES:
                yield str(node.module)
            yield from (f"{node.module}.{a.name}" for a in node.names if (node.module, a.name) in FORBIDDEN_CALLS)
        elif isinstance(node, ast.Name) and node.id in FORBIDDEN_NAMES:
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in FORBIDDEN_CALLS:
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield "allow_pickle"


def test_no_module_executes_data():
    sources = sorted(PACKAGE.rglob("*.py"))
    assert len(sources) > 30
    found = {(str(path.relative_to(PACKAGE)), what) for path in sources for what in forbidden(path.read_text("utf-8"))}
    assert found == KNOWN


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import os, joblib", "import torch\ntorch.load('x')", "eval('1')",
        "run = exec", "__import__('x')", "np.load(path, allow_pickle=True)", "import dill as d",
        "from torch import load", "import importlib\nimportlib.import_module(name)", "compile('', '', 'exec')",
        "f(allow_pickle=True)",
    ],
)  # fmt: skip
def test_source_search_finds_code_execution(source):
    assert list(forbidden(source))


def test_source_search_ignores_harmless_calls():
    assert not list(forbidden("import re\nre.compile('x')\nmodel.eval()\nself.load(x)\njson.load(file)\nnp.asarray(x)"))


# Python's audit hooks see every unpickled global and all code that is compiled or executed. Code that an import runs
# comes from the module's own file and is ignored; so are charlm's own annotations, which ``typing.get_type_hints``
# evaluates.
WATCHED = """
import sys, typing
from pathlib import Path
import charlm, charlm.language_model, charlm.runs
from charlm.training.options import TrainingOptions

package = str(Path(charlm.__file__).parent)
seen, active = [], [False]

def watch(event, arguments):
    if not active[0] or event not in {"exec", "compile", "pickle.find_class", "marshal.loads", "os.system"}:
        return
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if "importlib._bootstrap" in name or name == typing.__file__:
            return
        if name.startswith(package):
            seen.append((event, f"{name}:{frame.f_lineno}"))
            return
        frame = frame.f_back

sys.addaudithook(watch)
active[0] = True
for run in sys.argv[1:]:
    model = charlm.load(run, device="cpu")
    model.generate("the ", 20, seed=1)
    model.score("the cat")
    list(model.score_documents(["the cat", "x"]))
    model.evaluate("the cat sat on a mat")
    with charlm.runs.resumed_run(Path(run), TrainingOptions(steps=10_000)) as prepared:
        for event in prepared.trainer.events():
            prepared.trainer.stop()
print("charlm:", seen)
seen.clear()
evil = compile("import pickle\\npickle.loads(data)\\neval('1')\\nexec('2')", package + "/evil.py", "exec")
import os, pickle
exec(evil, {"data": pickle.dumps(os.getcwd)})
active[0] = False
print("evil:", sorted({event for event, _ in seen}))
"""


def test_using_models_unpickles_and_evaluates_nothing(trained_run, document_run, tmp_path):
    copies = [shutil.copytree(run, tmp_path / run.name) for run in (trained_run, document_run)]
    assert python(WATCHED, *copies) == "charlm: []\nevil: ['compile', 'exec', 'pickle.find_class']\n"
