"""Damaged checkpoints, and malicious ones with correct digests.

Each mutation changes the files of a small run in the middle of its training. The run is then opened as ``charlm
generate``, ``charlm info``, ``charlm train --resume`` and ``charlm eval`` open it. Half of the mutations are raw: the
manifest is unchanged, so every command that reads a changed file must refuse it, and the others must not. The other
half are resealed: the digests of the manifest and the tokenizer are computed again, so only the later checks can find
them.

With any files, opening succeeds or raises a ``CharlmError`` of one line with the right exit code, within
``openers.SECONDS`` and ``checks.MEGABYTES``, and executes no code from them. Separately, every single flipped bit must
be detected.

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
    """Open ``mutations`` mutants in every way, and flip ``flips`` bits (None: all) of the files that are read."""
    with _scratch() as folder:
        templates = make_templates(folder)
        counts: collections.Counter[str] = collections.Counter()
        problems: list[str] = []
        for number, report in reports(mutations, templates, folder):
            counts.update(report["counts"])
            counts["peak_megabytes"] = max(counts["peak_megabytes"], report["peak"])
            problems += [f"mutation {number}: {problem}" for problem in report["problems"]]
        flipped, missed = flip_bits(templates[0], folder, flips)
        assert not missed, f"{len(missed)} flipped bits were not detected, such as {missed[:5]}"
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
    """Repeat one mutation in this process and print the outcome; an unexpected error is raised."""
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
    """One example of each kind of problem, and its count."""
    kinds: dict[str, list[str]] = {}
    for problem in problems:
        kinds.setdefault(problem.partition(": ")[2].partition(" | ")[0], []).append(problem)
    return [f"{len(examples)} times: {examples[0]}" for examples in kinds.values()]


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A temporary folder, in memory if possible, because a resumed run syncs every file it saves."""
    with tempfile.TemporaryDirectory(dir=SCRATCH) as name:
        folder = Path(name).resolve()
        (folder / "victim").mkdir()
        (folder / "victim" / "thesis.txt").write_text("years of work")
        (folder / "here").mkdir()
        yield folder
