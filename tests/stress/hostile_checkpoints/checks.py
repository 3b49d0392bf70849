"""Opens a mutant in every way and reports which promises were broken."""

from __future__ import annotations

import collections
import contextlib
import functools
import json
from pathlib import Path
from typing import Any

from charlm.checkpoint.step import ALL_FILES, MANIFEST
from stress.hostile_checkpoints.mutant import Mutant
from stress.hostile_checkpoints.openers import OPENERS, Outcome, attempt, process_bytes, reset_peak

MEGABYTES = 200


def check_mutant(mutant: Mutant, run: Path, folder: Path) -> dict[str, Any]:
    """The counts of outcomes, descriptions of the problems, and the peak memory in megabytes."""
    counts: collections.Counter[str] = collections.Counter()
    problems = []
    peak = 0
    for name, opener in OPENERS.items():
        start = reset_peak()
        outcome = attempt(functools.partial(opener, run, mutant.step))
        megabytes = max(0, process_bytes("VmHWM") - start) >> 20
        peak = max(peak, megabytes)
        counts.update({"openings": 1, outcome.kind: 1})
        found = _problem(mutant, name, outcome)
        if megabytes > MEGABYTES:
            found = f"more than {MEGABYTES} MB | {megabytes} MB, {outcome.text}"
        if found:
            kind = "resealed" if mutant.sealed else "raw"
            problems.append(f"{name}: {found} | {kind}: {'; '.join(mutant.what)}")
    if mutant.marker.exists():
        counts["code_run"] += 1
        problems.append(f"code was executed | {'; '.join(mutant.what)}")
        mutant.marker.unlink()
    if (folder / "victim" / "thesis.txt").read_text() != "years of work" or len(list(folder.glob("victim/*"))) != 1:
        problems.append(f"a file outside the run was touched | {'; '.join(mutant.what)}")
    return {"counts": dict(counts), "problems": problems, "peak": peak}


def _problem(mutant: Mutant, opener: str, outcome: Outcome) -> str | None:
    """What is wrong with an outcome; None if nothing is."""
    if outcome.kind in ("escaped", "hangs"):
        return f"{outcome.kind}: {outcome.text}"
    if outcome.kind == "refused":
        return _wrong_refusal(mutant, opener, outcome)
    if opener in mutant.refused_by:
        return "opened files that it must refuse"
    if not mutant.sealed and opener in _must_notice(mutant):
        return "opened files that differ from the saved ones"
    return None


def _wrong_refusal(mutant: Mutant, opener: str, outcome: Outcome) -> str | None:
    if len(outcome.text.splitlines()) != 1 or not outcome.text.isprintable():
        return f"its message is not one printable line | {outcome.text!r}"
    if "root:" in outcome.text:
        return f"it shows the content of another file | {outcome.text}"
    codes = mutant.codes | ({70} if opener == "resume" else set())
    if outcome.code not in codes:
        return f"exit code {outcome.code} | {outcome.text}"
    changed = mutant.changed()
    read = {reader for path in changed for reader in mutant.readers(path)}
    may_refuse = opener in ("resume", "measure") and any(
        path.startswith("corpus/") or path not in mutant.original for path in changed
    )
    if not mutant.sealed and opener not in read and not may_refuse and not mutant.codes & {73}:
        return f"refused because of a file that it does not need | {outcome.text}"
    return None


def _must_notice(mutant: Mutant) -> set[str]:
    """The openers that read a file whose digest is now wrong."""
    guarded = {mutant.path(name) for name in ALL_FILES} & mutant.original.keys()
    paths = mutant.changed() & guarded
    manifest = mutant.path(MANIFEST)
    if manifest in mutant.changed() and not _means_the_same(mutant.seen(manifest), mutant.original[manifest]):
        paths.add(manifest)
    return {reader for path in paths for reader in mutant.readers(path)}


def _means_the_same(data: bytes, original: bytes) -> bool:
    """Whether JSON differs in white space only."""
    with contextlib.suppress(ValueError, RecursionError):
        return bool(json.loads(data) == json.loads(original)) and data.strip() == original.strip()
    return False
