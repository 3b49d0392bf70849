"""How fast a corpus is prepared: MB of text per second, with one thread and with several.

    python benchmarks/preparation.py FILE... [--threads 1 2 4] [--megabytes 100] [--rounds 3] [--before FOLDER]
                                     [--processor-time] [--json]

Each FILE is repeated to --megabytes in the system's temporary folder (TMPDIR), which needs four times as much. It is
prepared as running text, with the tokenizer "byte", and as documents (lines), each time in a new process, which reads
it once first, so that all find it in memory. The contenders take turns in each round; the figures are medians. With
--before, the charlm in another folder, such as the checkout of an older commit, takes part. All must write the same
files. On a busy machine, --processor-time gives MB per second of processor time instead, which says nothing of several
threads.

    N threads          MB/s with --threads N
    gain               MB/s with the last of --threads / MB/s with the first
    before             MB/s of the charlm in --before, and what the first of --threads gains on it
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from common import MB, make_parser, report, take_turns

CASES = {"running text": ("char", None), "bytes": ("byte", None), "lines": ("char", "lines")}
_PREPARE = """
import hashlib, inspect, json, sys, time
from pathlib import Path
from charlm.corpus.preparation import prepare
from charlm.corpus.splitting import DocumentOptions
from charlm.corpus.text import open_source

text, folder, kind, documents, threads, measure = sys.argv[1:]
Path(text).read_bytes()
options = {"documents": DocumentOptions(documents)} if documents else {}
if "threads" in inspect.signature(prepare).parameters:
    options["threads"] = int(threads)
clock = time.process_time if measure == "processor" else time.perf_counter
start = clock()
prepare(Path(folder), open_source([text]), kind, **options)
seconds = clock() - start
files = b"".join(file.read_bytes() for file in sorted(Path(folder).iterdir()))
print(json.dumps([seconds, hashlib.sha256(files).hexdigest()]))
"""


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="texts in UTF-8")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (default 1 2)")
    parser.add_argument("--megabytes", type=int, default=100, help="size of each text (default 100)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--before", type=Path, help="a folder with another charlm")
    parser.add_argument("--processor-time", action="store_true", help="MB per second of processor time")
    arguments = parser.parse_args()
    report(arguments, [measure(file, case, arguments) for file in arguments.files for case in CASES])


def measure(file: Path, case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    here = Path(__file__).resolve().parents[1]
    contenders = {f"{threads} threads": (here, threads) for threads in arguments.threads}
    if arguments.before is not None:
        contenders["before"] = (arguments.before, 1)
    digests = set[str]()
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        _write_repeated(file, text, arguments.megabytes * MB)
        size = text.stat().st_size / MB

        def contender(code: Path, threads: int) -> Callable[[], float]:
            clock = "processor" if arguments.processor_time else "wall"
            return lambda: _seconds(text, case, code, (str(threads), clock), digests)

        seconds = take_turns({name: contender(*args) for name, args in contenders.items()}, arguments.rounds)
    speeds = {name: size / median(values) for name, values in seconds.items()}
    first, last = (speeds[f"{arguments.threads[index]} threads"] for index in (0, -1))
    row = {"file": file.name, "as": case, "mb": size, **speeds, "gain": last / first}
    if arguments.before is not None:
        row["gain_on_before"] = first / speeds["before"]
    return {**row, "same_files": len(digests) == 1}


def _write_repeated(file: Path, text: Path, size: float) -> None:
    content = file.read_bytes()
    with open(text, "wb") as out:
        for _ in range(max(1, round(size / len(content)))):
            out.write(content)


def _seconds(text: Path, case: str, code: Path, how: tuple[str, str], digests: set[str]) -> float:
    kind, documents = CASES[case]
    with tempfile.TemporaryDirectory(dir=text.parent) as folder:
        command = [sys.executable, "-c", _PREPARE, text, folder, kind, documents or "", *how]
        environment = {**os.environ, "PYTHONPATH": str(code.resolve())}
        result = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment, cwd=folder)
    seconds, digest = json.loads(result.stdout)
    digests.add(digest)
    return float(seconds)


if __name__ == "__main__":
    main()
