import os
import subprocess
import sys
from pathlib import Path

import pytest

import charlm
from charlm.config import ModelConfig, TrainingConfig
from charlm.errors import OutOfMemoryError
from charlm.system import memory
from charlm.system.memory import machine_bytes
from charlm.training.memory import training_bytes

MODEL, TRAINING, IDS = ModelConfig(65, 2, 256, 256), TrainingConfig(), 10**6

# A process of its own, whose peak has not been reached by others, and which may be cramped.
GROWTH = """
import re, sys
from pathlib import Path
import charlm, charlm.training.trainer, torch
options = dict(layers=1, hidden=512, batch=16, bptt=1024, steps=2, eval_every=100, threads=1)
def said(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
if len(sys.argv) > 3:
    import resource
    allowed = said("VmSize") + int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
before = said("VmRSS")
try:
    charlm.train(sys.argv[1], out=sys.argv[2], device="cpu", precision="fp32", **options)
except charlm.errors.OutOfMemoryError as error:
    print(f"{error.exit_code} {error}")
else:
    print(said("VmHWM") - before)
"""
linux_only = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured as Linux tells it")


def train_apart(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@linux_only
def test_a_training_takes_what_was_reckoned_and_not_much_more(text_file, tmp_path):
    taken = int(train_apart(text_file, tmp_path / "run"))
    trained = charlm.load(tmp_path / "run", precision="fp32").config
    reckoned = training_bytes(trained, TrainingConfig(batch=16, bptt=1024), 10**6)
    assert reckoned <= taken < 3 * reckoned


@linux_only
def test_running_out_is_one_line_with_numbers_and_leaves_nothing(text_file, tmp_path):
    said = train_apart(text_file, tmp_path / "run", 250_000_000)
    assert said.startswith("71 out of memory")
    assert "parameters with --batch 16 and --bptt 1024 take at least 0.3 GB" in said
    assert "choose a smaller --batch" in said
    assert not (tmp_path / "run").exists()


def test_what_cannot_fit_is_refused_before_it_is_tried(text_file, tmp_path):
    with pytest.raises(
        OutOfMemoryError, match=r"take at least [0-9,.]+ GB of the [0-9.]+ GB there are; choose a smaller"
    ):
        charlm.train(text_file, out=tmp_path / "run", hidden=60_000, layers=20, steps=1, device="cpu", precision="fp32")
    assert not (tmp_path / "run").exists()


def test_more_of_anything_takes_more():
    least = training_bytes(MODEL, TRAINING, IDS)
    assert training_bytes(ModelConfig(65, 3, 256, 256), TRAINING, IDS) > least
    for more in ({"batch": 64}, {"bptt": 256}):
        assert training_bytes(MODEL, TrainingConfig(**more), IDS) > 1.5 * least
    assert training_bytes(MODEL, TrainingConfig(bptt=10**9), 32 * 128) == least  # no more than there is to read
    assert training_bytes(MODEL, TrainingConfig(average="ema"), IDS) > least
    assert training_bytes(MODEL, TrainingConfig(precision="bf16"), IDS) < least
    assert training_bytes(MODEL, TrainingConfig(optimizer="sgd"), IDS) < least


def test_a_container_has_less_than_its_machine(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", (limit,))
    whole = machine_bytes()
    assert whole == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for said, expected in (("max\n", whole), ("1000000\n", 1_000_000)):
        limit.write_text(said)
        assert machine_bytes() == expected
