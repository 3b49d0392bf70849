"""How fast, and in how much memory, one column of a table is prepared, beside a plain text of the same size.

    python benchmarks/tables.py [--rows 1000000] [--rounds 3] [--json]

Generates tables with four columns (id, name, category, note) as CSV and as JSON lines, and for each a text of lines of
the same size. Each is prepared in new processes, which take turns. The texts are written to the system's temporary
folder (TMPDIR) and deleted afterwards.

    megabytes      size of the file
    documents      rows with a name, or lines
    seconds        processor time of preparing: reading three times, writing ids; median of the rounds
    mb_per_s       megabytes / seconds
    peak_mb        peak resident memory; of it, tens of bytes for each document
    imported_mb    peak resident memory after the imports
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from common import MB, make_parser, peak_memory_mb, report, run_in_new_process, take_turns

SYLLABLES = (
    "bjor",
    "sven",
    "gul",
    "rik",
    "mund",
    "stein",
    "mar",
    "co",
    "lu",
    "ci",
    "na",
    "bel",
    "mi",
    "ka",
    "ha",
    "ru",
)
CATEGORIES = ("shoes", "hats", "coats", "bags")
HOW = {"rows": ("name", None), "rows given category": ("name", "category"), "lines": (None, None)}
"""How a file is read -> the columns of the text and of its condition."""


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the tables (default 1,000,000)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is prepared (default 3)")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)  # used in the new process
    parser.add_argument("--how", choices=HOW, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.file is not None:
        print(json.dumps(measure(arguments.file, arguments.how)))
        return
    with tempfile.TemporaryDirectory() as folder:
        tables = write_tables(Path(folder), arguments.rows)
        texts = [write_lines(path.with_name(f"as large as {path.name}.txt"), path.stat().st_size) for path in tables]
        cases = [(path, how) for path in tables for how in HOW if how != "lines"] + [(text, "lines") for text in texts]

        def prepared(path: Path, how: str) -> Any:
            return run_in_new_process(__file__, "--file", path, "--how", how)

        contenders = {f"{path.name}, {how}": (lambda path=path, how=how: prepared(path, how)) for path, how in cases}
        results = take_turns(contenders, arguments.rounds)
    report(arguments, [{"file": name, **_medians(measured)} for name, measured in results.items()])


def _medians(measured: list[dict[str, float]]) -> dict[str, float]:
    return {name: median(each[name] for each in measured) for name in measured[0]}


def rows(count: int) -> Iterator[list[Any]]:
    """Rows of a made-up table; a tenth of the notes have quotes, commas and line ends."""
    draw = random.Random(1)
    for number in range(count):
        name = "".join(draw.choices(SYLLABLES, k=draw.randint(1, 4)))
        note = f'says "{name}",\nthen goes' if number % 10 == 0 else f"plain {number}"
        yield [number, name, draw.choice(CATEGORIES), note]


def write_tables(folder: Path, count: int) -> list[Path]:
    """The same rows as CSV and as JSON lines."""
    header, paths = ["id", "name", "category", "note"], [folder / "table.csv", folder / "table.jsonl"]
    with open(paths[0], "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows(count))
    with open(paths[1], "w", encoding="utf-8") as file:
        file.writelines(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows(count))
    return paths


def write_lines(path: Path, size: int) -> Path:
    """A text of at least ``size`` bytes, with lines about as long as the rows of the CSV table."""
    draw, written = random.Random(2), 0
    with open(path, "w", encoding="utf-8") as file:
        while written < size:
            written += file.write(" ".join(draw.choices(SYLLABLES, k=10)) + "\n")
    return path


def measure(path: Path, how: str) -> dict[str, float]:
    """Prepare a file. Runs in a separate process."""
    from charlm.corpus.preparation import prepare
    from charlm.corpus.splitting import DocumentOptions
    from charlm.corpus.tables import TableOptions, open_texts

    column, given = HOW[how]
    table = None if column is None else TableOptions(column, given=given)
    documents = DocumentOptions("lines" if table is None else "rows", conditional=given is not None)
    imported = peak_memory_mb()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        start = time.process_time()
        corpus = prepare(Path(folder) / "corpus", open_texts([str(path)], table=table), documents=documents)
        seconds = time.process_time() - start
    return {
        "megabytes": path.stat().st_size / MB,
        "documents": sum(size.documents for size in corpus.sizes.values()),
        "seconds": seconds,
        "mb_per_s": path.stat().st_size / MB / seconds,
        "peak_mb": peak_memory_mb(),
        "imported_mb": imported,
    }


if __name__ == "__main__":
    main()
