"""Commands as processes of their own: odd arguments, locales and streams, and the memory that a long prompt takes."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stress.helpers import CHARLM
from stress.hostile_text.models import Model

ALLOWED_MB = 60


def try_processes(folder: Path, models: list[Model], prompt_mb: int) -> dict[str, Any]:
    """Arguments, locales and streams that only a process of its own can have."""
    trials = _Processes(folder, {(model.kind, model.documents): model.path for model in models})
    trials.arguments()
    trials.locales()
    trials.closed_streams()
    trials.full_disk()
    trials.reader_gone()
    return {"processes": trials.count, "prompt_mb": prompt_mb, **_long_prompt(trials.models["char", None], prompt_mb)}


class _Processes:
    """Commands as processes. Each must end with an expected code and say one line at most."""

    def __init__(self, folder: Path, models: dict[tuple[str, str | None], Path]) -> None:
        self.count = 0
        self.models = models
        self._folder = folder / "processes"
        self._folder.mkdir()
        self._text = self._folder / "text.txt"
        self._text.write_text("the cat sat on a mat\n" * 300)
        self._written = ["generate", "-c", models["char", None], "-n", "5", "--seed", "1", "-p"]

    def expect(self, codes: Sequence[int], *arguments: Any, shell: str = "", **options: Any) -> bytes:
        """Run a command, perhaps with the redirections ``shell``; what it wrote on stdout."""
        self.count += 1
        words = [*map(os.fsencode, [*CHARLM, *(str(a) if isinstance(a, Path) else a for a in arguments)])]
        command = ["bash", "-c", f'"$@" {shell}', "bash", *words] if shell else words
        options = {"stdin": subprocess.DEVNULL, **options} if "input" not in options else options
        options = {"env": {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}, **options}
        result = subprocess.run(command, cwd=self._folder, capture_output=True, check=False, timeout=120, **options)
        said = result.stderr.decode("utf-8", "surrogateescape")
        assert result.returncode in codes, (words, shell, result.returncode, said)
        assert "Traceback" not in said and "Exception ignored" not in said, (words, shell, said)
        if result.returncode:
            assert len(re.findall("^charlm: ", said, re.MULTILINE)) <= 1, (words, shell, said)
            assert said.count("\n") <= 1 or "--highlight" in arguments, (words, shell, said)
            assert not re.search(r"[\0-\x08\x0b-\x1f\x7f]", said), f"the error steers the terminal: {said!r}"
        return result.stdout

    def arguments(self) -> None:
        for prompt in (b"ab\xff", b"\xed\xa0\x80", b"\xe4\xb8", b"caf\xe9"):
            self.expect([65], *self._written, prompt)
            taken = self.expect([0], "generate", "-c", self.models["byte", None], "-n", "5", "-p", prompt)
            assert taken.startswith(prompt), (prompt, taken)
        self.expect([65], *self._written, "x", "--stop", b"\xff", "-p", b"\xff")
        for name in (
            b"no\xffsuch",
            b"two\nlines",
            b"\x1b[31mred",
            "\u202eevil".encode(),
            b"n" * 5000,
            b"a" * 255,
            b" ",
        ):
            for command in ("train", "eval", "score"):
                model = [] if command == "train" else ["-c", self.models["char", None]]
                self.expect([66], command, *model, "--", name)
            self.expect([66, 74], *self._written, "x", "-c", name)
        for name in (b"odd\xff", b"two\nlines", b"\x1b[31m", b"-rf", "\u202eevil".encode(), b"%s{}", b"a" * 200, b" "):
            self._odd_name(name)

    def _odd_name(self, name: bytes) -> None:
        """A file of this name is read and learnt, and the run of that name opens."""
        shutil.copy(self._text, self._folder / os.fsdecode(name))
        quick = ["--steps", "2", "--layers", "1", "--hidden", "8", "--device", "cpu", "--json", "--quiet"]
        self.expect([0], "eval", "-c", self.models["char", None], "--", name)
        self.expect([0], "score", "-c", self.models["char", None], "--", name)
        trained = json.loads(self.expect([0], "train", *quick, "--", name))
        self.expect([0], "generate", "-c", os.fsencode(trained["run"]), "-n", "3")
        self.expect([0], "train", "--resume", "--steps", "3", "--out", os.fsencode(trained["run"]), "--quiet")
        self.expect([0], "info", "-c", os.fsencode(trained["run"]))
        shutil.rmtree(self._folder / "checkpoints")
        (self._folder / os.fsdecode(name)).unlink()

    def locales(self) -> None:
        plain = self.expect([0], *self._written, "naïve ☃")
        for variables in (
            {"LANG": "C"}, {"LC_ALL": "C"}, {"LANG": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"},
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
        ):  # fmt: skip
            # Where Python takes the locale's ASCII at its word, what is no ASCII in an argument is refused.
            deaf = variables.get("LC_ALL") == "C" and variables.get("PYTHONUTF8") == "0"
            said = self.expect([65] if deaf else [0], *self._written, "naïve ☃", env=variables)
            assert deaf or said == plain, variables
            piped = self.expect([0], *self._written[:-1], input="naïve ☃".encode(), env=variables)
            assert piped == plain, variables
            for command in (["--help"], ["eval", self._text, "-c", self.models["char", None]], ["train", "nö"]):
                self.expect([0, 66], *command, env=variables)

    def closed_streams(self) -> None:
        where = ["-c", self.models["char", None]]
        quick = ["--steps", "2", "--layers", "1", "--hidden", "8", "--device", "cpu", "--out"]
        for number, closed in enumerate(("<&-", ">&-", "2>&-", "<&- >&- 2>&-")):
            run = self._folder / f"closed-{number}"
            self.expect([0], "generate", *where, "-n", "5", "-p", "x", shell=closed)
            self.expect([0], "generate", *where, "-n", "5", shell=closed)
            self.expect([0], "eval", self._text, *where, shell=closed)
            self.expect([65], "eval", "-", *where, shell="<&- " + closed)
            self.expect([0], "score", *where, shell=closed)
            self.expect([0], "train", self._text, *quick, run, shell=closed)
            self.expect([0], "generate", "-c", run, "-n", "5")
            self.expect([65], "train", "-", *quick, self._folder / "never", shell="<&- " + closed)
            assert not (self._folder / "never").exists()

    def full_disk(self) -> None:
        where = ["-c", self.models["char", None]]
        for command in (
            ["--help"], ["--version"], ["generate", "--help"], ["generate", *where, "-p", "x"], ["info", *where],
            ["generate", *where, "--samples", "3"], ["generate", *where, "--json"], ["eval", self._text, *where],
            ["eval", self._text, *where, "--json"], ["score", self._text, *where],
            ["score", self._text, *where, "--csv"],
            ["score", self._text, *where, "--html", "-"], ["score", self._text, *where, "--highlight"],
        ):  # fmt: skip
            self.expect([0, 74], *command, shell=">/dev/full")

    def reader_gone(self) -> None:
        where = ["-c", self.models["char", None]]
        for command in (
            ["--help"], ["generate", *where, "-p", "x", "-n", "9999"], ["info", *where], ["eval", self._text, *where],
            ["score", self._text, *where, "--documents", "lines"],
        ):  # fmt: skip
            # Typer's own output, the help, ends with 1.
            self.expect([0, 1] if command == ["--help"] else [0], *command, shell="| exec 0<&-; exit ${PIPESTATUS[0]}")


_PEAK = """
import sys
from charlm.cli.app import main
try:
    main()
except SystemExit as end:
    status = open("/proc/self/status").read()
    print(end.code, next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")), file=sys.stderr)
"""


def _long_prompt(model: Path, prompt_mb: int) -> dict[str, float]:
    """Peak resident memory for a prompt of ``prompt_mb`` and for one of 100 kB, both through a pipe."""
    peaks = [_peak_mb(model, size) for size in (100_000, prompt_mb * 1_000_000)]
    assert peaks[1] - peaks[0] < ALLOWED_MB, peaks
    return {"peak_short_prompt_mb": round(peaks[0], 1), "peak_long_prompt_mb": round(peaks[1], 1)}


def _peak_mb(model: Path, size: int) -> float:
    command = [sys.executable, "-c", _PEAK, "generate", "-c", str(model), "--length", "1", "--threads", "1"]
    block = ("the naïve cat sat, \u2581\n" * 5000).encode()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        for _ in range(max(1, size // len(block))):
            process.stdin.write(block)
        process.stdin.close()
        code, peak = process.stderr.read().split()
    assert code == b"0", code
    return int(peak) / 1000
