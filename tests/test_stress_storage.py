"""Short forms of the stress tests of storage and training: kills, power cuts, failed calls, non-finite numbers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from stress import disk, divergence, power, signals

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are found in Linux's /proc")
# The stress test forks, which a process that has computed in threads must not do; so it runs in another process.
KILL = "import json; from stress import kill; print(json.dumps(kill.run_trials(kills=2, every=124, kinds=2)))"


@needs_proc
def test_killed_trainings_resume_to_the_same_weights():
    command = [sys.executable, "-c", KILL]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["ends_that_differ"] == figures["acknowledged_lost"] == 0
    assert figures["kills_at_calls"] == 4
    assert figures["dropped_parts_noticed"] == 7


@needs_proc
def test_power_cuts_lose_no_acknowledged_save():
    figures = power.run_trials(states=120)
    assert figures["acknowledged_lost"] == figures["corrupt_loaded"] == 0
    assert figures["states"] >= 120


@needs_proc
def test_failed_system_calls_leave_earlier_checkpoints_whole():
    figures = disk.run_trials(every=25, mount=False)
    assert figures["previous_lost"] == figures["left_half_made"] == figures["ends_that_differ"] == 0
    assert figures["ends_with_74"] > 0


def test_non_finite_losses_and_gradients_change_no_weight():
    figures = divergence.run_trials(trials=1)
    assert figures["poisoned_steps"] > 100
    assert figures["weights_changed_by_them"] == 0
    assert figures["rollbacks"] == 4


def test_signals_at_any_moment_save_the_training():
    figures = signals.run_trials(moments=2, twice=1, megabytes=4, seconds=1.0, others=False)
    assert figures["saved"] == figures["resumed"] > 0
    assert figures["second_trainer_exit_code"] == 73
