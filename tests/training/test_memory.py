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

# Runs in another process, whose peak memory is this training's, and whose memory can be limited.
GROWTH = """
import re, sys
from pathlib import Path
import charlm, charlm.training.trainer, torch
options = dict(layers=1, hidden=512, batch=16, bptt=1024, steps=2, eval_every=100, threads=1)
def status(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
if len(sys.argv) > 3:
    import resource
    allowed = status("VmSize") + int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
before = status("VmRSS")
try:
    charlm.train(sys.argv[1], out=sys.argv[2], device="cpu", precision="fp32", **options)
except charlm.errors.OutOfMemoryError as error:
    print(f"{error.exit_code} {error}")
else:
    print(status("VmHWM") - before)
"""
linux_only = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured by Linux's /proc")


def train_in_process(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@linux_only
def test_peak_memory_is_between_one_and_three_times_the_estimate(text_file, tmp_path):
    taken = int(train_in_process(text_file, tmp_path / "run"))
    trained = charlm.load(tmp_path / "run", precision="fp32").config
    estimate = training_bytes(trained, TrainingConfig(batch=16, bptt=1024), 10**6)
    assert estimate <= taken < 3 * estimate


@linux_only
def test_out_of_memory_is_one_line_with_numbers_and_leaves_no_run(text_file, tmp_path):
    message = train_in_process(text_file, tmp_path / "run", 250_000_000)
    assert message.startswith("71 out of memory")
    assert "parameters with batch 16 and bptt 1024 take at least 0.3 GB" in message
    assert "choose a smaller batch" in message
    assert not (tmp_path / "run").exists()


def test_model_larger_than_memory_is_refused_before_training(text_file, tmp_path):
    with pytest.raises(
        OutOfMemoryError, match=r"take at least [0-9,.]+ GB of the [0-9.]+ GB there are; choose a smaller"
    ):
        charlm.train(text_file, out=tmp_path / "run", hidden=60_000, layers=20, steps=1, device="cpu", precision="fp32")
    assert not (tmp_path / "run").exists()


def test_estimate_grows_with_every_size():
    base = training_bytes(MODEL, TRAINING, IDS)
    assert training_bytes(ModelConfig(65, 3, 256, 256), TRAINING, IDS) > base
    for more in ({"batch": 64}, {"bptt": 256}):
        assert training_bytes(MODEL, TrainingConfig(**more), IDS) > 1.5 * base
    assert training_bytes(MODEL, TrainingConfig(bptt=10**9), 32 * 128) == base  # a chunk is not longer than the text
    assert training_bytes(MODEL, TrainingConfig(average="ema"), IDS) > base
    assert training_bytes(MODEL, TrainingConfig(precision="bf16"), IDS) < base
    assert training_bytes(MODEL, TrainingConfig(optimizer="sgd"), IDS) < base


def test_memory_limit_of_a_container_is_respected(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", (limit,))
    whole = machine_bytes()
    assert whole == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for content, expected in (("max\n", whole), ("1000000\n", 1_000_000)):
        limit.write_text(content)
        assert machine_bytes() == expected
