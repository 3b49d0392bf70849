"""Short forms of the stress tests of storage and training: kills, power cuts, failed calls, non-finite numbers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from stress import disk, divergence, power, signals

watches_calls = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="file-system calls are told by Linux's /proc"
)
# The stress test forks, which a process that has computed in threads must not do; so it runs in another process.
KILL = "import json; from stress import kill; print(json.dumps(kill.run_trials(kills=3, every=41, kinds=2)))"


@watches_calls
def test_killed_at_any_moment_it_ends_the_same():
    command = [sys.executable, "-c", KILL]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["ends_that_differ"] == figures["acknowledged_lost"] == 0
    assert figures["kills_at_calls"] == 12
    assert figures["dropped_parts_noticed"] == 7


@watches_calls
def test_power_cuts():
    figures = power.run_trials(states=120)
    assert figures["acknowledged_lost"] == figures["corrupt_loaded"] == 0
    assert figures["states"] >= 120


@watches_calls
def test_calls_that_fail():
    figures = disk.run_trials(every=25, mount=False)
    assert figures["previous_lost"] == figures["left_half_made"] == figures["ends_that_differ"] == 0
    assert figures["ends_with_74"] > 0


def test_numbers_that_are_none():
    figures = divergence.run_trials(trials=1)
    assert figures["poisoned_steps"] > 100
    assert figures["weights_changed_by_them"] == 0
    assert figures["rollbacks"] == 4


def test_signals_at_any_moment():
    figures = signals.run_trials(moments=5, megabytes=4, others=False)
    assert figures["saved"] == figures["resumed"] > 0
    assert figures["second_trainer_exit_code"] == 73
