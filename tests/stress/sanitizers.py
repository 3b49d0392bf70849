"""The native engine under sanitizers, without Python or torch: native_driver.cpp, built with charlm/native.

Every report of a sanitizer is therefore an error of the engine. The driver prints "ok" at the end if all its checks
pass. ``run_trials`` checks each instruction set of this machine with each sanitizer.
"""

import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conftest import INSTRUCTION_SETS

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "charlm" / "native"
DRIVER = ROOT / "tests" / "native" / "native_driver.cpp"
# The optimization levels at which building and running together are fastest. -g1 is enough for line numbers.
SANITIZERS = {"address,undefined": ["-O0", "-g1"], "thread": ["-O1", "-g1"]}
# Replaces the engine's clock; native_driver.cpp explains why.
CLOCK = "-Wl,--wrap=_ZNSt6chrono3_V212steady_clock3nowEv"
REPORTS = ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "WARNING: ThreadSanitizer", "runtime error")
TIMEOUT = 900


def run_trials() -> dict[str, int]:
    """Check every instruction set of this machine with every sanitizer."""
    for sanitizer in SANITIZERS:
        with tempfile.TemporaryDirectory() as folder:
            reason = why_not(sanitizer, Path(folder))
            assert reason is None, reason
            check(sanitizer, INSTRUCTION_SETS, Path(folder))
    return {"sanitizers": len(SANITIZERS), "instruction_sets": len(INSTRUCTION_SETS), "reports": 0}


def why_not(sanitizer: str, folder: Path) -> str | None:
    """The reason why this machine cannot use a sanitizer; None if it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "sanitizers are tested on Linux on x86-64 only"
    if shutil.which("g++") is None:
        return "g++ is missing"
    if not can_build("g++", _options(sanitizer), folder):
        return f"g++ cannot link -fsanitize={sanitizer} (libasan, libubsan or libtsan is missing)"
    if "unexpected memory mapping" in run([folder / "nothing"]).stderr:
        return "this sanitizer does not support the kernel's address randomization (vm.mmap_rnd_bits)"
    return None


def _options(sanitizer: str) -> list[str]:
    return [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", *SANITIZERS[sanitizer]]


def check(sanitizer: str, names: Sequence[str], folder: Path, kept: Path | None = None) -> None:
    """Raise AssertionError if a sanitizer reports anything or the driver fails, with these instruction sets.

    The program is built in ``folder``, or taken from the folder ``kept`` if nothing has changed since it was built.
    """
    program = _built(sanitizer, names, folder, kept) if kept else build("g++", _options(sanitizer), names, folder)
    result = run([program, *names])
    assert not any(report in result.stderr for report in REPORTS), result.stderr
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines() == [*(f"{name} checked" for name in names), "ok"]


# ------------------------------------------------------------------------------------------------------- building


def build_options() -> tuple[list[str], dict[str, list[str]]]:
    """FLAGS, and the flags of each instruction set, of CMakeLists.txt."""
    lists: dict[str, list[str]] = {}
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    for name, words in re.findall(r"^set\((FLAGS\w*|INSTRUCTION_SETS) (.+)\)$", text, re.MULTILINE):
        lists[name] = [flag for word in words.split() for flag in lists.get(word.strip("${}"), [word])]
    return lists["FLAGS"], {name: lists[f"FLAGS_{name}"] for name in lists["INSTRUCTION_SETS"]}


def can_build(compiler: str, options: Sequence[str], folder: Path) -> bool:
    """Whether an empty program can be built with these options."""
    source = folder / "nothing.cpp"
    source.write_text("int main() {}\n")
    made = subprocess.run([compiler, *options, source, "-o", folder / "nothing"], capture_output=True, check=False)
    return made.returncode == 0


def _built(sanitizer: str, names: Sequence[str], folder: Path, kept: Path) -> Path:
    """The program for a sanitizer in ``kept``, built again if the compiler, an option or a source is another one."""
    options = _options(sanitizer)
    version = subprocess.run(["g++", "--version"], capture_output=True, check=True).stdout
    digest = hashlib.sha256(repr((version, options, build_options(), CLOCK, names)).encode())
    for source in sorted(path for place in (SOURCES, DRIVER.parent) for path in place.glob("*.[ch]*")):
        digest.update(source.name.encode() + source.read_bytes())
    program = kept / f"{sanitizer}-{digest.hexdigest()}"
    if not program.exists():
        for older in kept.glob(f"{sanitizer}-*"):
            older.unlink()
        partial = program.with_suffix(".part")
        shutil.copy2(build("g++", options, names, folder), partial)
        partial.rename(program)
    return program


def build(compiler: str, options: Sequence[str], names: Sequence[str], folder: Path) -> Path:
    """Compile the driver and the engine with these instruction sets, which always include the portable one."""
    flags, instruction_sets = build_options()
    flags = [*[flag for flag in flags if not flag.startswith("-O")], *options, f"-I{SOURCES}"]
    macros = [f"-DCHARLM_HAS_{name.upper()}=1" for name in names if name in instruction_sets]

    def compiled(source: Path) -> Path:
        name = source.stem.removeprefix("isa_")
        own = macros if name == "dispatch" else instruction_sets.get(name, [])
        target = folder / f"{source.stem}.o"
        _compile([compiler, *flags, *own, "-c", source, "-o", target])
        return target

    kernels = [SOURCES / f"isa_{name}.cpp" for name in instruction_sets if name in names]
    sources = [*kernels[::-1], SOURCES / "isa_portable.cpp", DRIVER, *SOURCES.glob("[!i]*.cpp")]
    with ThreadPoolExecutor(2) as pool:  # the slowest first
        objects = list(pool.map(compiled, sources))
    program = folder / "driver"
    _compile([compiler, *options, CLOCK, "-pthread", *objects, "-o", program])
    return program


def _compile(command: Sequence[str | Path]) -> None:
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


def run(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with its output as text."""
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
