"""Real processes, started by torchrun: they train as one, and survive what happens to processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import charlm

from charlm.checkpoint.model_parts import read_model_parts
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.step import open_checkpoint

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
OPTIONS = "--hidden 24 --layers 2 --bptt 8 --precision fp32 --dropout-output 0.2 --device cpu"


def launch(processes, *words, restarts=0, save=5, batch=4):
    """torchrun with ``charlm train`` and ``words``, in a session of its own."""
    line = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
        f"--max-restarts={restarts}", "--monitor-interval=0.1", "-m", "charlm", "train", *map(str, words),
        *OPTIONS.split(), "--batch", str(batch), "--save-every", str(save),
    ]  # fmt: skip
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ), start_new_session=True
    )


def finished(process):
    """The exit code, stdout and stderr without what torchrun says itself."""
    try:
        out, err = process.communicate(timeout=100)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    said = [line for line in err.splitlines() if line.startswith(("charlm:", "done", "stopped", "continuing"))]
    return process.returncode, out, said


def ranks_of(process):
    """The process numbers of torchrun's workers, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            match = re.search(r"(?<![A-Z_])RANK=(\d)\0", (folder / "environ").read_text())
        except OSError:  # it has ended
            continue
        if match and int(parent) == process.pid:
            found[int(match[1])] = int(folder.name)
    return found


def wait_for_step(run, step, process):
    """Wait until ``run`` has saved a step of that number or a later one."""
    end = time.monotonic() + 60
    while not any(number >= step for number in RunFolder(run).step_numbers()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def weights_of(run):
    return {name: array.tobytes() for name, array in read_model_parts(open_checkpoint(run, "latest")).weights.items()}


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


STEPS = ["--steps", 100, "--eval-every", 25]


@pytest.fixture(scope="module")
def two_processes(text_file, tmp_path_factory):
    """The run of two processes that nothing disturbs, and what they print."""
    run = tmp_path_factory.mktemp("runs") / "two"
    code, out, said = finished(launch(2, text_file, "--out", run, *STEPS, "--json"))
    assert code == 0, said
    return run, out, said


def test_two_processes_train_as_one_on_the_command_line(text_file, tmp_path, two_processes):
    assert charlm("train", text_file, "--out", tmp_path / "one", *STEPS, *OPTIONS.split(), "--batch", 4).returncode == 0
    run, out, said = two_processes
    assert (len(out.splitlines()), len(said)) == (1, 1)  # only the first process prints
    one, two = ([line["valid_nats_per_char"] for line in metrics(path) if line["kind"] == "valid"]
                for path in (tmp_path / "one", run))  # fmt: skip
    assert len(one) == 4
    assert two[:1] == pytest.approx(one[:1], rel=1e-5)
    assert two == pytest.approx(one, rel=1e-3)  # rounding grows with the steps
    assert json.loads(out)["best_nats_per_char"] == pytest.approx(min(one), rel=1e-3)


def test_a_killed_process_loses_nothing_where_torchrun_restarts(text_file, tmp_path, two_processes):
    """The first process is killed, which holds the run; the slow test kills any."""
    run = tmp_path / "run"
    process = launch(2, text_file, "--out", run, *STEPS, restarts=1)
    wait_for_step(run, 5, process)
    os.kill(ranks_of(process)[0], signal.SIGKILL)
    code, _, said = finished(process)
    assert code == 0, said
    assert any(line.startswith("continuing") for line in said)
    assert weights_of(run) == weights_of(two_processes[0])


def test_a_killed_process_ends_the_others_at_once_with_one_line(text_file, tmp_path):
    process = launch(2, text_file, "--out", tmp_path / "run", "--steps", 100_000)
    wait_for_step(tmp_path / "run", 5, process)
    began = time.monotonic()
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    code, _, said = finished(process)
    assert code != 0
    assert time.monotonic() - began < 60
    assert len(said) == 1
    assert open_checkpoint(tmp_path / "run", "latest").step >= 5


@pytest.mark.parametrize(("send", "number"), [(os.kill, signal.SIGTERM), (os.killpg, signal.SIGINT)])
def test_a_signal_to_torchrun_saves_once(text_file, tmp_path, send, number):
    """SIGTERM to torchrun, and Ctrl-C, which a terminal sends to torchrun and to all its processes."""
    process = launch(2, text_file, "--out", tmp_path / "run", "--steps", 100_000, "--eval-every", 100_000, save=100_000)
    end = time.monotonic() + 60
    while not (tmp_path / "run/metrics.jsonl").exists():  # a line after 50 steps
        assert time.monotonic() < end
        time.sleep(0.05)
    send(process.pid, number)
    code, _, said = finished(process)
    assert code != 0
    assert len(said) == 1
    assert "stopped and saved at step" in said[0]
    assert f"continue with: torchrun --nproc-per-node=2 -m charlm train --resume --out {tmp_path / 'run'}" in said[0]
    step = int(re.search(r"at step (\d+)", said[0])[1])
    assert RunFolder(tmp_path / "run").step_numbers() == [step]


def test_a_batch_that_cannot_be_divided_is_told_once(text_file, tmp_path):
    process = launch(2, text_file, "--out", tmp_path / "run", batch=5)
    code, _, said = finished(process)
    assert code != 0
    assert len(said) == 1
    assert "--batch 5 cannot be divided among 2 processes" in said[0]
    assert not (tmp_path / "run").exists()
