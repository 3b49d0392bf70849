"""Checkpoints and runs that are damaged, and ones that an attacker has made and sealed.

Each mutation changes the files of a small run in the middle of its training. Then it is opened as ``charlm generate``,
``charlm info`` and ``charlm train --resume`` open it. Half of the mutations are raw: the manifest is as it was, so
every changed file must be refused by whoever reads it, and nobody else may mind. The others are resealed: the manifest,
its own digest and the tokenizer's are computed anew, so only the deeper checks can hold.

Whatever the files are, an opening succeeds or ends with a ``CharlmError`` of one line and the right exit code, within
``openings.SECONDS`` and ``judge.MEGABYTES``, and no code in them runs. Beside that, every single flipped bit must be
noticed.

``replay(number)`` repeats one mutation in this process, for a debugger.
"""

from __future__ import annotations

import collections
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from charlm.errors import CharlmError
from stress.helpers import SCRATCH
from stress.hostile_checkpoints.bit_flips import flip_bits
from stress.hostile_checkpoints.mutant import lay_out
from stress.hostile_checkpoints.mutations import make_mutant
from stress.hostile_checkpoints.openers import OPENERS
from stress.hostile_checkpoints.templates import make_templates
from stress.hostile_checkpoints.workers import reports


def run_trials(mutations: int = 10_000, flips: int | None = None) -> dict[str, Any]:
    """Open ``mutations`` mutants in every way, and flip ``flips`` bits (None: every one) of the files that matter."""
    with _scratch() as folder:
        templates = make_templates(folder)
        counts: collections.Counter[str] = collections.Counter()
        problems: list[str] = []
        for number, report in reports(mutations, templates, folder):
            counts.update(report["counts"])
            counts["peak_megabytes"] = max(counts["peak_megabytes"], report["peak"])
            problems += [f"mutation {number}: {problem}" for problem in report["problems"]]
        flipped, missed = flip_bits(templates[0], folder, flips)
        assert not missed, f"{len(missed)} flipped bits went unnoticed, such as {missed[:5]}"
    assert not problems, f"{len(problems)} broken promises:\n" + "\n".join(_by_kind(problems))
    return {
        "mutations": mutations,
        **{name: counts[name] for name in ("openings", "opened", "refused", "crashes", "hangs", "escaped")},
        "code_run": counts["code_run"],
        "peak_megabytes_over_start": counts["peak_megabytes"],
        "bits_flipped": flipped,
        "flips_unnoticed": 0,
    }


def replay(number: int) -> None:
    """Repeat one mutation in this process and print what comes of it; an unexpected error is shown whole."""
    with _scratch() as folder:
        templates = make_templates(folder)
        mutant = make_mutant(number, templates, folder)
        print(f"{number}: {'resealed' if mutant.sealed else 'raw'}: {'; '.join(mutant.what)}")
        run = lay_out(mutant, folder / "run")
        for name, opener in OPENERS.items():
            try:
                opener(run, mutant.step)
                print(f"{name}: opened")
            except CharlmError as error:
                print(f"{name}: {error.exit_code} {error}")


def _by_kind(problems: list[str]) -> list[str]:
    """One example of each kind of problem, and how often it came."""
    kinds: dict[str, list[str]] = {}
    for problem in problems:
        kinds.setdefault(problem.partition(": ")[2].partition(" | ")[0], []).append(problem)
    return [f"{len(examples)} times: {examples[0]}" for examples in kinds.values()]


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder in memory where there is one: a resumed run syncs every file it saves."""
    with tempfile.TemporaryDirectory(dir=SCRATCH) as name:
        folder = Path(name).resolve()
        (folder / "victim").mkdir()
        (folder / "victim" / "thesis.txt").write_text("years of work")
        (folder / "here").mkdir()
        yield folder
