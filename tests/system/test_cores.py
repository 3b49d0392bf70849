import os

import pytest

from charlm.system import cores as module
from charlm.system.cores import cores, useful_threads


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with eight cores. Returns its cgroup folder."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(module, "_CGROUP", tmp_path)
    return tmp_path


def limit(machine, version, quota, period="100000"):
    if version == 2:
        (machine / "cpu.max").write_text(f"{quota} {period}\n")
    else:
        (machine / "cpu").mkdir()
        (machine / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (machine / "cpu" / "cpu.cfs_period_us").write_text(f"{period}\n")


def test_all_cores_without_a_limit(machine):
    assert cores() == 8


@pytest.mark.parametrize(("version", "unlimited"), [(1, "-1"), (2, "max")])
def test_a_container_without_a_limit_has_all_cores(machine, version, unlimited):
    limit(machine, version, unlimited)
    assert cores() == 8


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("quota", "expected"), [(20_000, 1), (100_000, 1), (150_000, 2), (400_000, 4), (900_000, 8)])
def test_a_container_has_the_cores_of_its_quota(machine, version, quota, expected):
    limit(machine, version, quota)
    assert cores() == expected


@pytest.mark.parametrize("nonsense", ["", "much", "1 0", "1 2 3"])
def test_an_invalid_quota_is_ignored(machine, nonsense):
    (machine / "cpu.max").write_text(nonsense)
    assert cores() == 8


@pytest.mark.parametrize(
    ("available", "rows", "threads"),
    [(8, 32, 8), (8, 31, 7), (8, 8, 2), (8, 7, 1), (8, 1, 1), (2, 128, 2), (64, 64, 8)],
)
def test_a_thread_has_at_least_four_rows_and_a_core(machine, available, rows, threads):
    assert useful_threads(available, rows) == threads
