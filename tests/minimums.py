"""Installs the oldest versions that pyproject.toml admits into a new environment, and runs the quick tests with them.

``python3.10 tests/minimums.py FOLDER`` (``make minimums PYTHON=python3.10``). On Linux the oldest torch brings
gigabytes of CUDA. Words after the folder go to pytest instead of the quick tests.
"""

import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD_TOOLS = ["scikit-build-core", "cmake", "ninja"]
TEST_TOOLS = ["pytest>=8", "pytest-xdist", "hypothesis", "nbclient", "ipykernel"]
QUICK = [
    "tests", "-n", "2", "-m", "not slow", "-W", "default", *(f"--ignore=tests/{name}" for name in (
        "stress", "test_docs.py", "test_stress_hostile.py", "test_stress_inputs.py", "test_stress_storage.py",
        "test_wheel.py",
    )),
]  # fmt: skip
"""Old libraries warn of their own use of what is deprecated, so warnings are no errors here."""


def oldest_versions(pyproject: str) -> dict[str, str]:
    """The name and the lowest version of every dependency, those of the extras for users included."""
    lists = re.findall(
        r"^(?:dependencies|tables|serve|zstd|plot|tensorboard) = \[(.*?)\]", pyproject, re.DOTALL | re.MULTILINE
    )
    return dict(re.findall(r'"([\w.-]+)>=([\d.]+)', " ".join(lists)))


def main(folder: Path, tests: list[str]) -> int:
    oldest = oldest_versions((ROOT / "pyproject.toml").read_text("utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in oldest.items()), "utf-8")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "-c", constraints]
    subprocess.run([*install, *BUILD_TOOLS], check=True)
    subprocess.run([*install, *TEST_TOOLS, *(name for name in oldest)], check=True)
    subprocess.run([*install, "--no-build-isolation", "--no-deps", "-e", ROOT], check=True)
    subprocess.run([python, "-m", "pip", "freeze"], check=True)
    return subprocess.run([python, "-m", "pytest", *(tests or QUICK)], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
