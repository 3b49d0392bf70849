"""The native engine under sanitizers, with the newest instruction set of this machine, and on another processor.

The stress test of the same name checks every instruction set. The programs are kept in pytest's cache until a source
changes, because building takes longer than the checks.
"""

import shutil

import pytest
from conftest import INSTRUCTION_SETS
from stress import sanitizers

NEWEST = INSTRUCTION_SETS[0] if INSTRUCTION_SETS else "portable"


@pytest.mark.parametrize("sanitizer", sanitizers.SANITIZERS)
def test_sanitizers_report_nothing(sanitizer, tmp_path, request):
    reason = sanitizers.why_not(sanitizer, tmp_path)
    if reason:
        pytest.skip(reason)
    sanitizers.check(sanitizer, [NEWEST], tmp_path, request.config.cache.mkdir("sanitizers"))


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-g++") is None, reason="aarch64-linux-gnu-g++ is missing")
@pytest.mark.skipif(
    not (shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")), reason="qemu-aarch64 is missing"
)
def test_portable_kernels_run_on_arm64(tmp_path):
    program = sanitizers.build("aarch64-linux-gnu-g++", ["-O3", "-static"], ["portable"], tmp_path)
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    result = sanitizers.run([emulator, program, "portable"])
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines() == ["portable checked", "ok"]
