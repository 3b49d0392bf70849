"""The wheel serves every Python, and works without a compiler, from any folder, in a shell that knows nothing of it."""

import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import needs_native

from charlm.checkpoint.shipped import SHIPPED

ROOT = Path(__file__).parent.parent
BUILD = "import json, sys; from scikit_build_core.build import {0}; {0}(*map(json.loads, sys.argv[1:]))"

pytestmark = pytest.mark.slow


def build_wheel(folder, hook="build_wheel", objects=None, **environment):
    """Build a wheel with the portable kernels only, which takes a third of the time; return its path and messages.

    With ``objects``, a folder that is kept, only sources that have changed are compiled.
    """
    settings = {"build-dir": str(objects or folder / "build")}
    settings |= {f"cmake.define.CHARLM_HAS_{name}": "OFF" for name in ("avx2", "avx512", "avx512_bf16", "amx")}
    built = subprocess.run(
        [sys.executable, "-c", BUILD.format(hook), json.dumps(str(folder)), json.dumps(settings)],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path, built.stdout + built.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, request):
    return build_wheel(tmp_path_factory.mktemp("wheel"), objects=request.config.cache.mkdir("wheel"))[0]


@pytest.fixture(scope="module")
def folder(wheel, tmp_path_factory):
    """A folder with nothing but .venv, where the wheel is installed; its dependencies are those of this Python."""
    folder = tmp_path_factory.mktemp("any folder")
    packages = install(wheel, folder / ".venv")
    (packages / "dependencies.pth").write_text("".join(f"{path}\n" for path in sys.path if "site-packages" in path))
    return folder


def install(wheel, environment):
    venv.create(environment, symlinks=True)
    command = [sys.executable, "-m", "pip", "--python", environment, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, wheel], env={**os.environ, "PATH": ""}, check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    return packages


def shell(command, folder):
    """Run a command in a fresh shell with an empty PATH, so without a compiler; return its output and its messages."""
    result = subprocess.run(
        ["/bin/sh", "-c", command], cwd=folder, env={"PATH": "/nonexistent", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, f"{command}\n{result.stderr}"
    return result.stdout, result.stderr


@needs_native
def test_its_tag_names_no_python(wheel):
    assert re.fullmatch(r"charlm_lstm-[\w.]+-py3-none-(?!any)\w+\.whl", wheel.name)


def test_it_contains_the_models_and_no_sources(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for model in SHIPPED:
        source = ROOT / "checkpoints" / model
        found = sorted(name for name in names if name.startswith(f"charlm/models/{model}/"))
        assert found == sorted(f"charlm/models/{model}/{path.name}" for path in source.iterdir())
    assert {"charlm/py.typed", "charlm/native/__init__.py", "charlm/serving/page/index.html"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.endswith((".cpp", ".h", ".txt")) and "dist-info" not in name]


@needs_native
def test_the_model_generates_from_any_folder(folder):
    text, _ = shell('. .venv/bin/activate && charlm generate -c shakespeare --prompt "ROMEO:" --length 60', folder)
    assert text.startswith("ROMEO:")
    assert len(text) >= 66
    facts, _ = shell(".venv/bin/charlm info -c shakespeare", folder)
    assert str(folder) in facts
    assert "native" in facts


def test_the_command_that_training_suggests_works(folder, text):
    (folder / "a text.txt").write_text(text[:6000])
    options = "--steps 6 --batch 4 --bptt 16 --size tiny --device cpu"
    _, messages = shell(f".venv/bin/charlm train 'a text.txt' --out 'runs/my run' {options}", folder)
    suggested = messages.rpartition("next: ")[2].strip()
    assert suggested.startswith(".venv/bin/charlm generate --checkpoint ")
    assert shell(f"{suggested} --length 20", folder)[0].startswith("...")


def test_without_a_compiler_it_is_built_without_the_engine(tmp_path):
    wheel, messages = build_wheel(tmp_path, CXX="no-compiler")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "the native engine could not be built" in messages
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith((".so", ".dll"))]


def test_an_editable_install_lets_pythonpath_come_first(tmp_path):
    """It is a path, not an import hook that knows the modules: another working tree can be run in the environment."""
    wheel, messages = build_wheel(tmp_path, "build_editable", CXX="no-compiler")
    assert "there is no C++ compiler" in messages
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("charlm.pth").decode() == f"{ROOT}\n"
        hooks = [archive.read(name).decode() for name in archive.namelist() if name.startswith("_editable")]
    assert "charlm/" not in "".join(hooks)
