import subprocess
import sys

import pytest
import torch
from conftest import INSTRUCTION_SETS, environment, needs_native

from charlm import native
from charlm.errors import UsageError


@needs_native
def test_the_best_instruction_set_is_used_unless_another_is_named():
    with environment(CHARLM_ISA=None, CHARLM_ENGINE=None):
        assert native.find_library().instruction_set == INSTRUCTION_SETS[0]
    for name in INSTRUCTION_SETS:
        with environment(CHARLM_ISA=name):
            assert native.find_library().instruction_set == name


@pytest.mark.parametrize(("name", "value"), [("CHARLM_ENGINE", "nonsense"), ("CHARLM_ISA", "mmx")])
def test_unknown_values_are_rejected(name, value):
    with environment(**{name: value}), pytest.raises(UsageError, match=name):
        native.find_library()


def test_torch_can_be_selected():
    with environment(CHARLM_ENGINE="torch"):
        assert native.find_library() is None
        assert native.unavailable_reason() == "CHARLM_ENGINE is torch"


@pytest.fixture
def no_cache():
    native._load.cache_clear()
    yield
    native._load.cache_clear()


def test_a_missing_library_is_reported(no_cache, monkeypatch, tmp_path):
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
    assert native.find_library() is None
    assert "no C++ compiler" in native.unavailable_reason()
    with environment(CHARLM_ENGINE="native"), pytest.raises(UsageError, match="install charlm again"):
        native.find_library()


def test_an_invalid_library_is_reported(no_cache, monkeypatch, tmp_path):
    (tmp_path / native.LIBRARY).write_bytes(b"not a library")
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
    assert native.find_library() is None
    assert "could not be loaded" in native.unavailable_reason()


@needs_native
def test_a_library_of_another_version_is_reported(no_cache, monkeypatch):
    monkeypatch.setattr(native, "INTERFACE", native.INTERFACE + 1)
    assert native.find_library() is None
    assert "does not match" in native.unavailable_reason()


@needs_native
def test_training_runs_on_torchs_threads():
    """The entry point of torch's OpenMP is found in the process, so the engine creates no second set of threads."""
    from charlm.model.lstm import _share_openmp

    _share_openmp.cache_clear()
    _share_openmp()  # raises if the symbol or the library's function is missing
    if sys.platform == "linux" and "OpenMP" in torch.__config__.parallel_info():
        import ctypes

        assert ctypes.CDLL(None).GOMP_parallel


FORK = """
import os, sys, numpy as np, torch
from charlm.model.lstm import native_recurrence
from charlm.config import ModelConfig
from charlm.engine import create_engine
from charlm.model.char_lm import CharLM
torch.set_num_threads(2)
torch.manual_seed(0)
x, h, c = torch.randn(30, 8, 64), torch.zeros(8, 64), torch.zeros(8, 64)
weights = torch.randn(256, 64) / 8, torch.randn(256, 64) / 8, torch.zeros(256)
config = ModelConfig(50, 1, 400, 400)
engine = create_engine(config, CharLM(config, 1).weights(), "cpu", "int8", 2)
ids = np.arange(50 * 8).reshape(50, 8) % 50
def work():
    with torch.no_grad():
        trained = native_recurrence(x, (h, c), *weights)[0]
    return trained.numpy().tobytes(), engine.forward(ids, engine.initial_state(8))[0].tobytes()
before = work()
child = os.fork()
if child == 0:
    os._exit(0 if work() == before else 1)
status = os.waitpid(child, 0)[1]
sys.exit(status or work() != before)
"""


@needs_native
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_it_works_after_a_fork():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], timeout=60, check=False)
    assert done.returncode == 0
