"""The native engine in a program of its own, native_driver.cpp, under sanitizers and on a foreign processor.

There is no Python and no torch in that program, so what a sanitizer reports is the engine's doing. The driver ends with
"ok" when every law that it checks has held.
"""

import ast
import platform
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
# How much to optimize, by what makes building and running together shortest. -g1 is enough to name lines.
SANITIZERS = {"address,undefined": ["-O0", "-g1"], "thread": ["-O1", "-g1"]}
# The driver has a clock of its own for the engine, and says why.
CLOCK = "-Wl,--wrap=_ZNSt6chrono3_V212steady_clock3nowEv"
REPORTS = ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "WARNING: ThreadSanitizer", "runtime error")


def setup_options():
    """FLAGS and INSTRUCTION_SETS as setup.py has them, without running what else stands there."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    wanted = {"FLAGS", "AVX512", "AVX512_BF16", "INSTRUCTION_SETS"}
    constants = [
        node
        for node in tree.body
        if isinstance(node, ast.Assign) and wanted & {ast.unparse(name) for name in node.targets}
    ]
    found = {}
    exec(compile(ast.Module(constants, []), "setup.py", "exec"), found)
    return found["FLAGS"], found["INSTRUCTION_SETS"]


def can_build(compiler, options, folder):
    """Whether a program that does nothing can be made with these options."""
    source = folder / "nothing.cpp"
    source.write_text("int main() {}\n")
    made = subprocess.run([compiler, *options, source, "-o", folder / "nothing"], capture_output=True, check=False)
    return made.returncode == 0


def build(compiler, options, folder):
    """Compile the driver with the engine, for what compiler and processor know of instruction sets; where it lies."""
    flags, instruction_sets = setup_options()
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
    sys.platform != "linux" or platform.machine() != "x86_64", reason="sanitizers are tried on Linux on x86-64 only"
)
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_sanitizers_find_nothing(sanitizer, tmp_path):
    options = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", *SANITIZERS[sanitizer]]
    if not can_build("g++", options, tmp_path):
        pytest.skip(f"g++ cannot link -fsanitize={sanitizer} (libasan, libubsan or libtsan is missing)")
    if "unexpected memory mapping" in run([tmp_path / "nothing"]).stderr:
        pytest.skip("this sanitizer does not bear this kernel's randomness of addresses (vm.mmap_rnd_bits)")
    result = run([build("g++", options, tmp_path)])
    assert not any(report in result.stderr for report in REPORTS), result.stderr
    assert result.returncode == 0, result.stdout + result.stderr
    *said, last = result.stdout.splitlines()
    assert last == "ok"
    assert {f"{name} checked" for name in [*INSTRUCTION_SETS, "portable"]} <= set(said)


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-g++") is None, reason="there is no aarch64-linux-gnu-g++")
@pytest.mark.skipif(
    not (shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")), reason="there is no qemu-aarch64"
)
def test_it_runs_on_arm64(tmp_path):
    program = build("aarch64-linux-gnu-g++", ["-O3", "-static"], tmp_path)
    result = run([shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64"), program])
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-2:] == ["portable checked", "ok"]
