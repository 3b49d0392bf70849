"""Run the native engine in a separate program, native_driver.cpp, under sanitizers and on an emulated Arm processor.

The program contains neither Python nor torch, so every report of a sanitizer is about the engine. It prints "ok" last
if all its checks passed.
"""

import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import INSTRUCTION_SETS

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "charlm" / "native"
DRIVER = Path(__file__).parent / "native_driver.cpp"
# The optimization levels at which building and running together are fastest. -g1 is enough for line numbers.
SANITIZERS = {"address,undefined": ["-O0", "-g1"], "thread": ["-O1", "-g1"]}
# Replaces the engine's clock; native_driver.cpp explains why.
CLOCK = "-Wl,--wrap=_ZNSt6chrono3_V212steady_clock3nowEv"
REPORTS = ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "WARNING: ThreadSanitizer", "runtime error")


def cmake_options():
    """FLAGS, and the flags of each instruction set, of CMakeLists.txt."""
    lists = {}
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    for name, words in re.findall(r"^set\((FLAGS\w*|INSTRUCTION_SETS) (.+)\)$", text, re.MULTILINE):
        lists[name] = [flag for word in words.split() for flag in lists.get(word.strip("${}"), [word])]
    return lists["FLAGS"], {name: lists[f"FLAGS_{name}"] for name in lists["INSTRUCTION_SETS"]}


def can_build(compiler, options, folder):
    """Whether an empty program can be built with these options."""
    source = folder / "nothing.cpp"
    source.write_text("int main() {}\n")
    made = subprocess.run([compiler, *options, source, "-o", folder / "nothing"], capture_output=True, check=False)
    return made.returncode == 0


def build(compiler, options, folder):
    """Build the driver with the engine, for the instruction sets of compiler and processor; return its path."""
    flags, instruction_sets = cmake_options()
    flags = [*[flag for flag in flags if not flag.startswith("-O")], *options, f"-I{SOURCES}"]
    tried = {name: own for name, own in instruction_sets.items() if name in INSTRUCTION_SETS or not INSTRUCTION_SETS}
    known = {name: own for name, own in tried.items() if can_build(compiler, own, folder)}
    macros = [f"-DCHARLM_HAS_{name.upper()}=1" for name in known]

    def compiled(source):
        name = source.stem.removeprefix("isa_")
        own = known.get(name, macros if name == "dispatch" else [])
        target = folder / f"{source.stem}.o"
        made = subprocess.run(
            [compiler, *flags, *own, "-c", source, "-o", target], capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stderr
        return target

    left_out = {f"isa_{name}" for name in set(instruction_sets) - set(known)}
    sources = [*sorted(SOURCES.glob("isa_*.cpp"), reverse=True), DRIVER, *SOURCES.glob("[!i]*.cpp")]
    with ThreadPoolExecutor(2) as pool:  # the longest first
        objects = list(pool.map(compiled, [source for source in sources if source.stem not in left_out]))
    program = folder / "driver"
    linked = subprocess.run(
        [compiler, *options, CLOCK, "-pthread", *objects, "-o", program], capture_output=True, text=True, check=False
    )
    assert linked.returncode == 0, linked.stderr
    return program


def run(command):
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="sanitizers are tested on Linux on x86-64 only"
)
@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is missing")
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_sanitizers_find_nothing(sanitizer, tmp_path):
    options = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", *SANITIZERS[sanitizer]]
    if not can_build("g++", options, tmp_path):
        pytest.skip(f"g++ cannot link -fsanitize={sanitizer} (libasan, libubsan or libtsan is missing)")
    if "unexpected memory mapping" in run([tmp_path / "nothing"]).stderr:
        pytest.skip("this sanitizer does not support the kernel's address randomization (vm.mmap_rnd_bits)")
    result = run([build("g++", options, tmp_path)])
    assert not any(report in result.stderr for report in REPORTS), result.stderr
    assert result.returncode == 0, result.stdout + result.stderr
    *lines, last = result.stdout.splitlines()
    assert last == "ok"
    assert {f"{name} checked" for name in [*INSTRUCTION_SETS, "portable"]} <= set(lines)


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-g++") is None, reason="aarch64-linux-gnu-g++ is missing")
@pytest.mark.skipif(
    not (shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")), reason="qemu-aarch64 is missing"
)
def test_it_runs_on_arm64(tmp_path):
    program = build("aarch64-linux-gnu-g++", ["-O3", "-static"], tmp_path)
    result = run([shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64"), program])
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-2:] == ["portable checked", "ok"]
