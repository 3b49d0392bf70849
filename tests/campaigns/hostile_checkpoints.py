"""Checkpoints and runs that are damaged, and ones that an attacker has made and sealed.

Each mutation changes the files of a small run in the middle of its training. Then it is opened as ``charlm generate``,
``charlm info`` and ``charlm train --resume`` open it. Half of the mutations are raw: the manifest is as it was, so
every changed file must be refused by whoever reads it, and nobody else may mind. The others are resealed: the manifest,
its own digest and the tokenizer's are computed anew, so only the deeper checks can hold.

Whatever the files are, an opening succeeds or ends with a ``CharlmError`` of one line and the right exit code, within
``SECONDS`` and ``MEGABYTES``, and no code in them runs. Beside that, every single flipped bit must be noticed.

``replay(number)`` repeats one mutation in this process, for a debugger.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import ctypes
import functools
import gc
import hashlib
import io
import json
import math
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import charlm
from charlm import checkpoint as ckpt
from charlm import runs
from charlm.cli.info import info
from charlm.config import SamplingConfig
from charlm.errors import CharlmError
from charlm.events import Saved, Stepped
from charlm.recipe import Request

SECONDS, MEGABYTES = 2.0, 200
_SAID = "said-by-the-worker"
A_WORKER = 250
"""Mutations that one process opens before another takes over."""
RANDOM_BITS = 2000
OPENERS = ("generate", "info", "resume")
CORPUS, METRICS, LOCK = "corpus/corpus.json", "metrics.jsonl", ".lock"


@dataclass(frozen=True)
class Link:
    """A symbolic link under a file's name."""

    target: str


@dataclass(frozen=True)
class Odd:
    """No file at all under a file's name: a "pipe" or a "folder"."""

    kind: str


Content = Any
"""bytes, a ``Link`` or an ``Odd``."""


@dataclass
class Mutant:
    """A run being changed. ``files`` are named by their paths in the run; ``step`` is the folder of its checkpoint."""

    original: Mapping[str, bytes]
    step: str
    sealed: bool
    marker: Path
    """A file that comes into being when code in a checkpoint runs."""
    files: dict[str, Content] = field(default_factory=dict)
    what: list[str] = field(default_factory=list)
    refused_by: set[str] = field(default_factory=set)
    """Openers that must refuse, even though the manifest is right."""
    codes: set[int] = field(default_factory=lambda: {65})
    """Exit codes that are right."""
    entries: dict[str, Any] | None = None
    """What the manifest is to say; None for the truth."""

    def __post_init__(self) -> None:
        self.files = dict(self.original)

    def path(self, name: str) -> str:
        """The path of a checkpoint's file."""
        return f"{self.step}/{name}"

    def readers(self, path: str) -> set[str]:
        """Which openers read a file."""
        if path in {self.path(name) for name in (*ckpt.GENERATION_FILES, ckpt.MANIFEST)}:
            return set(OPENERS)
        checked_by_resume = {self.path(ckpt.STATE), self.path(ckpt.STATE_TENSORS), CORPUS, "corpus/tokenizer.model"}
        return {"resume"} if path in checked_by_resume else set()

    def put(self, path: str, content: Content, refused: bool = False) -> None:
        """Replace a file; with ``refused`` all who read it must refuse it."""
        self.files[path] = content
        self.what.append(f"{path} = {content!r:.60}")
        if refused:
            self.refused_by |= self.readers(path)
        if not isinstance(content, bytes):
            self.codes |= {66, 74}
        if path == LOCK:
            self.codes |= {73}

    def json(self, path: str) -> Any:
        """A file's JSON, to be changed and put back."""
        return json.loads(self.files[path])

    def put_json(self, path: str, values: Any, refused: bool = False) -> None:
        """Write JSON, with NaN and Infinity where ``values`` have them; what the manifest says is sealed later."""
        if path == self.path(ckpt.MANIFEST):
            self.entries = values.get("files", {}) if isinstance(values, dict) else {}
        self.put(path, (json.dumps(values, indent=2, sort_keys=True) + "\n").encode(), refused)

    def seen(self, path: str) -> bytes:
        """The bytes that whoever opens a file gets; none where they have no end or there are none."""
        content = self.files.get(path, b"")
        if isinstance(content, Link):
            sibling = f"{path.rpartition('/')[0]}/{content.target}"
            if sibling != path and isinstance(self.files.get(sibling), bytes):
                return self.files[sibling]
            target = Path(content.target)
            with contextlib.suppress(OSError):
                return target.read_bytes() if target.is_absolute() and target.is_file() else b""
        return content if isinstance(content, bytes) else b""

    def changed(self) -> set[str]:
        """Paths that are no longer what they were."""
        paths = {*self.original, *self.files}
        return {p for p in paths if p not in self.files or p not in self.original or self.seen(p) != self.original[p]}


# ---------------------------------------------------------------------------------------------------- the campaign


def campaign(mutations: int = 10_000, flips: int | None = None) -> dict[str, Any]:
    """Open ``mutations`` mutants in every way, and flip ``flips`` bits (None: every one) of the files that matter."""
    with _scratch() as folder:
        templates = _templates(folder)
        counts: collections.Counter[str] = collections.Counter()
        problems: list[str] = []
        for number, report in _opened(mutations, templates, folder):
            counts.update(report["counts"])
            counts["peak_megabytes"] = max(counts["peak_megabytes"], report["peak"])
            problems += [f"mutation {number}: {problem}" for problem in report["problems"]]
        flipped, missed = _flip_bits(templates[0], folder, flips)
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
        templates = _templates(folder)
        mutant = _mutant(number, templates, folder)
        print(f"{number}: {'resealed' if mutant.sealed else 'raw'}: {'; '.join(mutant.what)}")
        run = _lay_out(mutant, folder / "run")
        for name, opener in _OPENERS.items():
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
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=in_memory) as name:
        folder = Path(name).resolve()
        (folder / "victim").mkdir()
        (folder / "victim" / "thesis.txt").write_text("years of work")
        (folder / "here").mkdir()
        yield folder


# ---------------------------------------------------------------------------------------------------- real runs


@dataclass(frozen=True)
class Template:
    """The files of a run by their paths, and the name of its only step."""

    files: Mapping[str, bytes]
    step: str


_SHAPES: tuple[dict[str, Any], ...] = (
    {"layers": 1, "hidden": 8},
    {"layers": 2, "hidden": 12, "embedding": 8, "optimizer": "rmsprop", "dropout_hidden": 0.1},
    {"layers": 1, "hidden": 8, "documents": "lines", "split": "80/10/10"},
    {"layers": 1, "hidden": 8, "tokenizer": "byte", "optimizer": "sgd", "lr": 0.1},
)


def _templates(folder: Path) -> list[Template]:
    """Real runs, trained in another process, because a fork of one that has computed in threads would hang."""
    text = folder / "text.txt"
    draw = random.Random(5)
    words = ["the", "cat", "sat", "naïve", "on", "a", "mat\n", "and", "42", "dogs\n"]
    text.write_text(" ".join(draw.choice(words) for _ in range(1200)), encoding="utf-8")
    homes = [folder / f"template-{number}" for number in range(len(_SHAPES))]
    process = multiprocessing.get_context("fork").Process(target=_train, args=(text, homes))
    process.start()
    process.join()
    assert process.exitcode == 0, "the runs to be mutated could not be trained"
    return [_read_template(home) for home in homes]


def _train(text: Path, homes: list[Path]) -> None:
    torch.set_num_threads(1)
    for home, shape in zip(homes, _SHAPES, strict=True):
        with contextlib.suppress(_Enough):
            charlm.train(
                text, out=home, steps=100, bptt=16, batch=4, eval_every=20, save_every="20", lr=shape.get("lr", 1e-2),
                threads=1, device="cpu", precision="fp32", on_event=_until_step_21,
                **{name: value for name, value in shape.items() if name != "lr"},
            )  # fmt: skip


class _Enough(Exception):
    pass


def _until_step_21(event: Any) -> None:
    if isinstance(event, Stepped) and event.step == 21:
        raise _Enough


def _read_template(home: Path) -> Template:
    files = {str(path.relative_to(home)): path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}
    (step,) = {path.partition("/")[0] for path in files if path.startswith("step-")}
    return Template(files, step)


# ---------------------------------------------------------------------------------------------------- workers


def _opened(count: int, templates: list[Template], folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """What came of every mutation; a process that dies or stands still is one of the results."""
    number = 0
    while number < count:
        stop = min(count, number + A_WORKER)
        ours, theirs = multiprocessing.Pipe()
        worker = multiprocessing.get_context("fork").Process(
            target=_work, args=(range(number, stop), templates, folder, theirs)
        )
        worker.start()
        theirs.close()
        lost = False
        while number < stop and not lost:
            report = _received(ours, worker, folder)
            yield number, report
            number += 1
            lost = report.get("lost", False)
        worker.kill()
        worker.join()
        ours.close()


def _received(pipe: Any, worker: Any, folder: Path) -> dict[str, Any]:
    lost = {"peak": 0, "lost": True}
    if not pipe.poll(20 + len(OPENERS) * SECONDS):
        return {**lost, "counts": {"hangs": 1}, "problems": ["the process stands still, deaf to its alarm"]}
    try:
        report: dict[str, Any] = pipe.recv()
    except EOFError:
        worker.join()
        said = (folder / _SAID).read_text()[-300:]
        return {**lost, "counts": {"crashes": 1}, "problems": [f"the process died | {worker.exitcode}, {said!r}"]}
    return report


def _work(numbers: range, templates: list[Template], folder: Path, pipe: Any) -> None:
    _become_quiet(folder)
    for opener in _OPENERS.values():  # so that imports and caches are no part of what is measured
        opener(_lay_out(Mutant(templates[0].files, templates[0].step, False, folder / "m"), folder / "run"), "step-20")
    gc.freeze()  # what is there now is not looked through again whenever memory is measured
    # Far above what is allowed: memory without end must end as an error, not as a dead machine.
    limit = _status("VmSize") + (6 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in numbers:
        mutant = _mutant(number, templates, folder)
        pipe.send(_judged(mutant, _lay_out(mutant, folder / "run"), folder))


def _become_quiet(folder: Path) -> None:
    """Nothing to read, nothing shown, and an empty folder to be in."""
    os.chdir(folder / "here")
    nowhere = os.open(os.devnull, os.O_RDWR)
    said = os.open(folder / _SAID, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream, handle in enumerate((nowhere, nowhere, said)):
        os.dup2(handle, stream)
    signal.signal(signal.SIGALRM, _hung)
    torch.set_num_threads(1)


def _judged(mutant: Mutant, run: Path, folder: Path) -> dict[str, Any]:
    counts: collections.Counter[str] = collections.Counter()
    problems = []
    peak = 0
    for name, opener in _OPENERS.items():
        start = _forget_peak()
        outcome = _attempt(functools.partial(opener, run, mutant.step))
        megabytes = max(0, _status("VmHWM") - start) >> 20
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
        problems.append(f"code was run | {'; '.join(mutant.what)}")
        mutant.marker.unlink()
    if (folder / "victim" / "thesis.txt").read_text() != "years of work" or len(list(folder.glob("victim/*"))) != 1:
        problems.append(f"a file outside the run was touched | {'; '.join(mutant.what)}")
    return {"counts": dict(counts), "problems": problems, "peak": peak}


@dataclass(frozen=True)
class Outcome:
    """What came of an opening: "opened", "refused" by a ``CharlmError``, "hangs" or "escaped"."""

    kind: str
    code: int = 0
    text: str = ""


class _Hung(BaseException):
    pass


def _hung(number: int, frame: Any) -> None:
    raise _Hung


def _attempt(opener: Callable[[], None]) -> Outcome:
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        opener()
        return Outcome("opened")
    except CharlmError as error:
        return Outcome("refused", error.exit_code, str(error))
    except _Hung:
        return Outcome("hangs", text=_where())
    except Exception as error:
        return Outcome("escaped", text=f"{type(error).__name__} {_where()} | {str(error)[:100]}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _where() -> str:
    """The innermost line of charlm's in the traceback of the current exception."""
    frames = [f for f in traceback.extract_tb(sys.exc_info()[2]) if "/charlm/" in f.filename]
    return f"at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside charlm"


def _problem(mutant: Mutant, opener: str, outcome: Outcome) -> str | None:
    """What is wrong with an outcome, if anything."""
    if outcome.kind in ("escaped", "hangs"):
        return f"{outcome.kind}: {outcome.text}"
    if outcome.kind == "refused":
        return _wrong_refusal(mutant, opener, outcome)
    if opener in mutant.refused_by:
        return "opened what it must refuse"
    if not mutant.sealed and opener in _must_notice(mutant):
        return "opened what is not what was saved"
    return None


def _wrong_refusal(mutant: Mutant, opener: str, outcome: Outcome) -> str | None:
    if len(outcome.text.splitlines()) != 1 or not outcome.text.isprintable():
        return f"its text is not one clean line | {outcome.text!r}"
    if "root:" in outcome.text:
        return f"it shows a stranger's file | {outcome.text}"
    codes = mutant.codes | ({70} if opener == "resume" else set())
    if outcome.code not in codes:
        return f"exit code {outcome.code} | {outcome.text}"
    changed = mutant.changed()
    read = {reader for path in changed for reader in mutant.readers(path)}
    may_mind = opener == "resume" and any(path.startswith("corpus/") or path not in mutant.original for path in changed)
    if not mutant.sealed and opener not in read and not may_mind and not mutant.codes & {73}:
        return f"refused for a file that it does not need | {outcome.text}"
    return None


def _must_notice(mutant: Mutant) -> set[str]:
    """Who reads a file whose digest is wrong now."""
    guarded = {mutant.path(name) for name in ckpt.ALL_FILES} & mutant.original.keys()
    paths = mutant.changed() & guarded
    manifest = mutant.path(ckpt.MANIFEST)
    if manifest in mutant.changed() and not _means_the_same(mutant.seen(manifest), mutant.original[manifest]):
        paths.add(manifest)
    return {reader for path in paths for reader in mutant.readers(path)}


def _means_the_same(data: bytes, original: bytes) -> bool:
    """Whether JSON differs in nothing but white space."""
    with contextlib.suppress(ValueError, RecursionError):
        return bool(json.loads(data) == json.loads(original)) and data.strip() == original.strip()
    return False


# ---------------------------------------------------------------------------------------------------- three openers


def _generate(run: Path, step: str) -> None:
    "".join(charlm.load(run / step).stream("", 5, SamplingConfig(0.8), seed=1))


def _info(run: Path, step: str) -> None:
    info(run / step)
    info(run / step, json=True)


def _resume(run: Path, step: str) -> None:
    """Go on for one step and save, as a person who presses Ctrl-C soon."""
    with runs.resumed_run(run, Request()) as prepared:
        if prepared.finished:
            return
        for event in prepared.trainer.events():
            if isinstance(event, Stepped):
                prepared.trainer.stop()
            assert not isinstance(event, Saved) or event.path.parent == run


_OPENERS: dict[str, Callable[[Path, str], None]] = {"generate": _generate, "info": _info, "resume": _resume}


# ---------------------------------------------------------------------------------------------------- memory


def _status(name: str) -> int:
    """A figure of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def _forget_peak() -> int:
    """Give back what earlier work left and begin to measure the peak (VmHWM) anew; returns what is in use."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


# ---------------------------------------------------------------------------------------------------- flipped bits


def _flip_bits(template: Template, folder: Path, limit: int | None) -> tuple[int, list[str]]:
    """Flip bits one by one; returns how many, and those that nobody noticed."""
    run = _lay_out(Mutant(template.files, template.step, False, folder / "m"), folder / "flipped")
    flipped, missed = 0, []
    for name, everywhere, opener in (
        (ckpt.CONFIG, True, "generate"),
        (ckpt.TOKENIZER, True, "generate"),
        (ckpt.MANIFEST, True, "generate"),
        (ckpt.MODEL, False, "generate"),
        (ckpt.STATE, True, "resume"),
        (ckpt.STATE_TENSORS, False, "resume"),
    ):
        path = run / template.step / name
        bits: Any = range(8 * path.stat().st_size)
        most = limit if everywhere else min(RANDOM_BITS, limit or RANDOM_BITS)
        if most is not None:
            bits = random.Random(name).sample(bits, min(most, len(bits)))
        missed += [f"{name} bit {bit}" for bit in bits if not _noticed(run, path, bit, opener)]
        flipped += len(bits)
    return flipped, missed


def _noticed(run: Path, path: Path, bit: int, opener: str) -> bool:
    with open(path, "r+b", buffering=0) as file:
        file.seek(bit // 8)
        before = file.read(1)
        _write_at(file, bit // 8, bytes([before[0] ^ 1 << bit % 8]))
        try:
            if opener == "generate":
                charlm.load(path.parent)
            else:
                with runs.resumed_run(run, Request()):
                    pass
        except CharlmError as error:
            return error.exit_code == 65
        finally:
            _write_at(file, bit // 8, before)
    return False


def _write_at(file: Any, position: int, data: bytes) -> None:
    file.seek(position)
    file.write(data)


# ---------------------------------------------------------------------------------------------------- mutants


def _mutant(number: int, templates: list[Template], folder: Path) -> Mutant:
    draw = random.Random(number)
    template = draw.choice(templates)
    round_, which = divmod(number, len(_KINDS))
    mutant = Mutant(template.files, template.step, round_ % 2 == 1, folder / "marker")
    _KINDS[which](mutant, draw)
    if mutant.sealed:
        _seal(mutant, draw)
    return mutant


def _seal(mutant: Mutant, draw: random.Random) -> None:
    """Make the digests true again, as an attacker would."""
    tokenizer, config, manifest = (mutant.path(name) for name in (ckpt.TOKENIZER, ckpt.CONFIG, ckpt.MANIFEST))
    changed = mutant.changed()
    if tokenizer in changed and config not in changed:
        _seal_tokenizer(mutant, config, mutant.seen(tokenizer))
        if draw.random() < 0.5:
            mutant.files["corpus/tokenizer.model"] = mutant.files.get(tokenizer, b"")
            _seal_tokenizer(mutant, CORPUS, mutant.seen(tokenizer))
    if manifest in changed and mutant.entries is None:
        return
    entries = mutant.entries
    if entries is None:
        present = [name for name in ckpt.ALL_FILES if mutant.path(name) in mutant.files]
        entries = {name: _entry(mutant.seen(mutant.path(name))) for name in present}
    sealed = {"format": ckpt.FORMAT, "files": entries, "sha256": _digest(entries)}
    mutant.files[manifest] = (json.dumps(sealed, indent=2, sort_keys=True) + "\n").encode()


def _seal_tokenizer(mutant: Mutant, path: str, model: bytes) -> None:
    values = mutant.json(path)
    values["tokenizer"]["sha256"] = hashlib.sha256(model).hexdigest()
    mutant.files[path] = json.dumps(values).encode()


def _entry(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _digest(entries: Any) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _lay_out(mutant: Mutant, run: Path) -> Path:
    """Write the run where nothing of the last one is left."""
    if run.exists():
        shutil.rmtree(run)
    for name, content in mutant.files.items():
        path = run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, Link):
            path.symlink_to(content.target)
        elif content.kind == "pipe":
            os.mkfifo(path)
        else:
            path.mkdir()
    return run


def _step_file(mutant: Mutant, draw: random.Random) -> str:
    """A file of the checkpoint."""
    return draw.choice(sorted(path for path in mutant.files if path.startswith(mutant.step)))


def _any_file(mutant: Mutant, draw: random.Random) -> str:
    """A file of the checkpoint, more rarely another one of the run."""
    if draw.random() < 0.8:
        return _step_file(mutant, draw)
    return draw.choice(sorted(mutant.files))


# ------------------------------------------------------------------------------------------ bytes, files, links


def _flip(mutant: Mutant, draw: random.Random) -> None:
    path = _any_file(mutant, draw)
    data = bytearray(mutant.files[path])
    for _ in range(draw.choice([1, 1, 2, 8, 100]) if data else 0):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    mutant.put(path, bytes(data))


def _overwrite(mutant: Mutant, draw: random.Random) -> None:
    path = _any_file(mutant, draw)
    data = bytearray(mutant.files[path])
    start = draw.randrange(len(data) + 1)
    length = draw.choice([1, 4, 8, 512, 4096])
    data[start : start + length] = draw.choice([draw.randbytes(length), bytes(length), b"\xff" * length])
    mutant.put(path, bytes(data))


def _truncate(mutant: Mutant, draw: random.Random) -> None:
    path = _any_file(mutant, draw)
    data = mutant.files[path]
    mutant.put(path, data[: draw.choice([0, 1, 7, 8, 9, len(data) // 2, max(0, len(data) - 1)])])


def _extend(mutant: Mutant, draw: random.Random) -> None:
    path = _any_file(mutant, draw)
    data = mutant.files[path]
    mutant.put(path, data + draw.choice([b"\0", b" ", b"\n", b"{}", draw.randbytes(1000), bytes(5_000_000), data]))


def _swap(mutant: Mutant, draw: random.Random) -> None:
    one, other = _step_file(mutant, draw), _any_file(mutant, draw)
    contents = mutant.files[one], mutant.files[other]
    mutant.put(one, contents[1])
    mutant.put(other, contents[0])


def _delete(mutant: Mutant, draw: random.Random) -> None:
    path = _any_file(mutant, draw)
    del mutant.files[path]
    mutant.what.append(f"no {path}")
    mutant.codes |= {66, 74}


def _link(mutant: Mutant, draw: random.Random) -> None:
    path = _any_file(mutant, draw)
    own = path.rpartition("/")[2]
    others = [ckpt.CONFIG, "../" * 12 + "etc/passwd", "/dev/null", "/proc/self/mem", "/proc/self/environ", ".", "gone"]
    mutant.put(path, Link(draw.choice(["/etc/passwd", own, "/dev/zero", "/dev/zero", *others])))


def _no_file(mutant: Mutant, draw: random.Random) -> None:
    mutant.put(_any_file(mutant, draw), Odd(draw.choice(["pipe", "pipe", "folder"])))


def _leftovers(mutant: Mutant, draw: random.Random) -> None:
    """What stands in a run beside its step: links out of it, pipes, other steps."""
    victim = str(mutant.marker.parent / "victim")
    content = draw.choice([Link(victim), Link(victim + "/thesis.txt"), Link("."), Odd("pipe"), Odd("folder"), b"x"])
    names = [LOCK, f".unfinished-{mutant.step}", f".aside-{mutant.step}", ".deleted-step-3", "step-99", "step-5",
             ".unfinished-metrics.jsonl", METRICS, "step-999999999999999", "step-1/manifest.json"]  # fmt: skip
    name = draw.choice(names)
    mutant.put(name, content)
    mutant.codes |= {73}


# ------------------------------------------------------------------------------------------ JSON

_HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 10**4000, 0.0, 0.5, -0.5,
    1e-320, 1e308, -1e308, math.nan, math.inf, -math.inf, "", "inf", "nan", "x", "cuda", "a\nb", "\x1b[2J", "\0",
    "\ud800", "\udce9", "1" * 5000, "x" * 300_000, "../../../etc/passwd", "/dev/zero", [], {}, [[]], [1, 2], ["a"] * 9,
    {"a": 1}, [{}], {"": {"": None}}, [0.5] * 1000,
)  # fmt: skip


def _places(values: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON value: what holds it, and under which key or number."""
    keys = list(values) if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else []
    return [(values, key) for key in keys] + [place for key in keys for place in _places(values[key])]


def _is_no_number_of_ours(value: Any) -> bool:
    """Whether strict JSON has no such number: NaN, infinities, integers that become no float."""
    if type(value) is float:
        return not math.isfinite(value)
    return type(value) is int and abs(value) > 10**400


def _json_value(mutant: Mutant, draw: random.Random) -> None:
    name = draw.choice([ckpt.CONFIG, ckpt.CONFIG, ckpt.CONFIG, ckpt.STATE, ckpt.STATE, ckpt.MANIFEST, CORPUS])
    path = name if name == CORPUS else mutant.path(name)
    values = mutant.json(path)
    holder, key = draw.choice(_places(values))
    value = draw.choice(_HOSTILE)
    if key == "sources" or (isinstance(holder, list) and name == CORPUS):
        value = draw.choice([None, 5, "x", [], [5], [[5]], [["/dev/zero"]], [["\0"]], [["\ud800"]], [[]], {"a": 1}])
    holder[key] = value
    if key == "device" and isinstance(value, str):
        mutant.codes.add(2)  # a device that this machine lacks
    resealed_away = name == ckpt.MANIFEST and holder is values
    mutant.put_json(path, values, refused=_is_no_number_of_ours(value) and not resealed_away)
    mutant.what.append(f"{key} = {value!r:.40}")


def _json_keys(mutant: Mutant, draw: random.Random) -> None:
    path = draw.choice([mutant.path(ckpt.CONFIG), mutant.path(ckpt.STATE), mutant.path(ckpt.MANIFEST), CORPUS])
    values = mutant.json(path)
    holder, key = draw.choice([place for place in _places(values) if isinstance(place[0], dict)])
    mutant.what.append(f"key {key}")
    if draw.random() < 0.7:
        value = holder.pop(key)
        if draw.random() < 0.3:
            holder[draw.choice(["", "\0", "\n", "\ud800", key.upper(), "x" * 10_000])] = value
    else:
        holder[draw.choice(["more", "__class__", "step", "self", "vocabulary_size"])] = draw.choice(_HOSTILE)
    mutant.put_json(path, values)


def _json_whole(mutant: Mutant, draw: random.Random) -> None:
    """JSON that is no object, or that no parser should follow to its end."""
    path = draw.choice([mutant.path(ckpt.CONFIG), mutant.path(ckpt.STATE), mutant.path(ckpt.MANIFEST), CORPUS])
    deep = 100_000
    whole = draw.choice(
        [
            b"[" * deep, b"[" * deep + b"]" * deep, b'{"a":' * deep + b"1" + b"}" * deep, b"null", b"[]", b"{}", b'""',
            b"0", b"NaN", b"\xff\xfe{}", b"\xef\xbb\xbf{}", b"{} {}", b'"' + b"x" * 999_990 + b'"', b"1" * 999_999,
            b"-", b"[" + b"0," * 400_000 + b"0]", b'{"format": 1e999}', b'{"a": "\\ud800"}', b"{" * 900_000,
            b'{"format": 1, "step": 1}', b" " * 2_000_000, b"[" * 900 + b"]" * 900,
        ]
    )  # fmt: skip
    mutant.put(path, whole, refused=True)


def _json_deep(mutant: Mutant, draw: random.Random) -> None:
    """Nesting that a parser's stack just holds, in an otherwise whole file."""
    path = draw.choice([mutant.path(ckpt.CONFIG), mutant.path(ckpt.STATE), CORPUS, mutant.path(ckpt.MANIFEST)])
    depth = draw.choice([40, 200, 480, 900, 970, 985, 990, 100_000])
    nested = (b"[" * depth + b"]" * depth) if draw.random() < 0.5 else (b'{"a":' * depth + b"1" + b"}" * depth)
    mutant.put(path, mutant.files[path].replace(b"{", b'{"more": ' + nested + b",", 1), refused=True)


def _json_twice(mutant: Mutant, draw: random.Random) -> None:
    """A key that stands twice."""
    path = draw.choice([mutant.path(ckpt.CONFIG), mutant.path(ckpt.STATE), CORPUS, mutant.path(ckpt.MANIFEST)])
    lines = mutant.files[path].decode().splitlines()
    places = [number for number, line in enumerate(lines) if '": ' in line and line[-1] not in "{["]
    place = draw.choice(places)
    lines.insert(place, lines[place].rstrip(",") + ",")
    mutant.put(path, "\n".join(lines).encode(), refused=True)


def _giant(mutant: Mutant, draw: random.Random) -> None:
    """Sizes that no machine has the memory for, and some that it just has."""
    path = mutant.path(ckpt.CONFIG)
    values = mutant.json(path)
    sizes = [64, 300, 4096, 8192, 65_535, 65_536, 65_537, 10**6, 1_200_000, 2**31 - 1, 10**9, 2**40, 2**62]
    if draw.random() < 0.6:
        names = draw.choice([["layers"], ["hidden"], ["hidden", "embedding"], ["vocabulary_size"], ["embedding"],
                             ["layers", "hidden", "embedding"]])  # fmt: skip
        values["model"].update({name: draw.choice(sizes) for name in names})
        if len(names) == 2:
            values["model"]["embedding"] = values["model"]["hidden"]
        mutant.put_json(path, values, refused=True)
    else:
        names = draw.choice([["batch"], ["bptt"], ["batch", "bptt"], ["threads"], ["eval_every"], ["warmup"], ["seed"]])
        values["training"].update({name: draw.choice(sizes) for name in names})
        mutant.put_json(path, values)
    mutant.what.append(str({name: {**values["model"], **values["training"]}[name] for name in names}))


def _manifest(mutant: Mutant, draw: random.Random) -> None:
    """What a manifest may claim: names out of the folder, sizes that are none."""
    path = mutant.path(ckpt.MANIFEST)
    values = mutant.json(path)
    entries = values["files"]
    name = draw.choice(sorted(entries))
    passwd = _entry(Path("/etc/passwd").read_bytes())
    if draw.random() < 0.5:
        for odd in draw.sample(["../../../../etc/passwd", "/etc/passwd", "..", "", ".", "\0", "a\nb", "\ud800"], 3):
            entries[odd] = draw.choice([passwd, {}, None, entries[name]])
    else:
        sizes = [-1, 0, 2**62, 1.0, float(entries[name]["bytes"]), True, "1", None, [], {}, math.nan]
        digests = ["", None, 0, [], "0" * 64, entries[name]["sha256"].upper(), passwd["sha256"]]
        wrong = [*({"bytes": size} for size in sizes), *({"sha256": digest} for digest in digests)]
        entries[name] = draw.choice([*({**entries[name], **one} for one in wrong), None, [], "x", 0, {}])
    values["files"] = draw.choice([entries, entries, entries, list(entries), [], None, "x"])
    mutant.put_json(path, values)


def _metrics(mutant: Mutant, draw: random.Random) -> None:
    lines = [
        b'{"step": 1e999, "kind": "train"}', b'{"step": NaN, "kind": "train"}', b"[" * 100_000, b"null", b"[]", b"5",
        b'{"step": "5", "kind": []}', b'{"step": 5}', b"\xff\xfe\0", b'{"step": ' + b"9" * 5000 + b', "kind": "valid"}',
        b'{"step": [], "kind": 1}', b'{"a":' * 1500, b'{"step": 3, "kind": "train", "more": "' + b"x" * 100_000 + b'"}',
        b"\x0b\x1c\xe2\x80\xa8", b"", b'{"step": 1, "kind": "train"}' * 1000,
    ]  # fmt: skip
    chosen = [draw.choice(lines) for _ in range(draw.randint(1, 5))]
    mutant.put(METRICS, mutant.files.get(METRICS, b"") + b"\n".join(chosen) + draw.choice([b"", b"\n"]))


# ------------------------------------------------------------------------------------------ tensors

Tensors = dict[str, tuple[str, list[int], bytes]]
"""Name -> dtype, shape and bytes, so that files can be made which the safetensors library would not write."""
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U16": 2, "U8": 1, "BOOL": 1, "C64": 8,
          "F8_E4M3": 1, "F4": 1, "F33": 4, "": 4}  # fmt: skip


def _unpack(data: bytes) -> Tensors:
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {
        name: (
            entry["dtype"],
            entry["shape"],
            data[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]],
        )
        for name, entry in header.items()
    }


def _pack(tensors: Tensors, **more: Any) -> bytes:
    header: dict[str, Any] = {}
    payload = io.BytesIO()
    for name, (dtype, shape, data) in tensors.items():
        begin = payload.tell()
        payload.write(data)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, payload.tell()]}
    return _framed(json.dumps({**header, **more}).encode(), payload.getvalue())


def _framed(header: bytes, payload: bytes) -> bytes:
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + payload


def _tensor_file(mutant: Mutant, draw: random.Random) -> tuple[str, Tensors, str]:
    """One of the files of tensors, what is in it, and the name of one that is checked."""
    path = mutant.path(draw.choice([ckpt.MODEL, ckpt.STATE_TENSORS]))
    tensors = _unpack(mutant.files[path])
    name = draw.choice(sorted(name for name in tensors if name != "generator"))
    mutant.what.append(name)
    return path, tensors, name


def _tensor_type(mutant: Mutant, draw: random.Random) -> None:
    path, tensors, name = _tensor_file(mutant, draw)
    if draw.random() < 0.1 and "generator" in tensors:
        name = "generator"
    dtype = draw.choice([dtype for dtype in _SIZES if dtype != tensors[name][0]])
    shape = tensors[name][1]
    data = draw.choice([bytes, draw.randbytes])(math.prod(shape) * _SIZES[dtype])
    tensors[name] = dtype, shape, data
    half = dtype == "F16" and path.endswith(ckpt.MODEL)
    mutant.put(path, _pack(tensors), refused=name.startswith(("optimizer", "embedding", "lstm", "dec")) and not half)


def _tensor_shape(mutant: Mutant, draw: random.Random) -> None:
    path, tensors, name = _tensor_file(mutant, draw)
    dtype, shape, data = tensors[name]
    count = math.prod(shape)
    shapes = [[count], [1, *shape], [*shape, 1], shape[::-1], [2 * count], [0], [], [count // 2], [2**31, 2**31],
              [2**62, 4], [0, 2**63], [2**64, 0], [0] * 60, [1] * 70, [-1], [count + 0.5], ["x"], None]  # fmt: skip
    shape_now: Any = draw.choice([one for one in shapes if one != shape])
    numbers = [n for n in shape_now or [] if isinstance(n, int)]
    wanted = 4 * math.prod(numbers) if shape_now is not None and 0 <= math.prod(numbers) < 10**6 else len(data)
    tensors[name] = dtype, shape_now, (data + bytes(wanted))[:wanted]
    mutant.put(path, _pack(tensors), refused=True)
    mutant.what.append(f"shape {shape_now}")


def _tensor_names(mutant: Mutant, draw: random.Random) -> None:
    path, tensors, name = _tensor_file(mutant, draw)
    how = draw.choice(["missing", "renamed", "more", "many"])
    if how in ("missing", "renamed"):
        gone = tensors.pop(name)
        if how == "renamed":
            tensors[
                draw.choice(["", "a\nb", "\ud800", "../x", "__class__", name.upper(), "optimizer.", "x" * 9999])
            ] = gone
    elif how == "more":
        tensors[draw.choice(["more", "optimizer.99.exp_avg", "state.7.h", "embedding", "a\nb"])] = tensors[name]
    else:
        count = draw.choice([2_000, 15_000, 200_000])
        tensors.update({f"{number}": ("F32", [0], b"") for number in range(count)})
    mutant.put(path, _pack(tensors), refused=path.endswith(ckpt.MODEL))


def _tensor_values(mutant: Mutant, draw: random.Random) -> None:
    path, tensors, name = _tensor_file(mutant, draw)
    dtype, shape, data = tensors[name]
    array = np.frombuffer(data, np.float32).copy()
    if draw.random() < 0.5:
        array[draw.randrange(len(array))] = draw.choice([math.nan, math.inf, -math.inf])
        mutant.put(path, _pack({**tensors, name: (dtype, shape, array.tobytes())}), refused=True)
        return
    everywhere = draw.random() < 0.5
    for name_ in tensors if everywhere else [name]:
        if name_ != "generator":
            dtype, shape, data = tensors[name_]
            array = np.frombuffer(data, np.float32).copy()
            array[:] = draw.choice([3.4e38, -3.4e38, 1e20, -1e20, 1e-45, 0.0, -1.0, 100.0])
            tensors[name_] = dtype, shape, array.tobytes()
    mutant.put(path, _pack(tensors))


def _tensor_header(mutant: Mutant, draw: random.Random) -> None:
    path, _, name = _tensor_file(mutant, draw)
    whole = mutant.files[path]
    size = int.from_bytes(whole[:8], "little")
    header, payload = json.loads(whole[8 : 8 + size]), whole[8 + size :]
    how = draw.choice(["length", "length", "offsets", "offsets", "entry", "text", "metadata"])
    if how == "length":
        length = draw.choice([2**63, 2**64 - 1, 2**32, 100_000_000, 0, 1, 2, size - 1, size + 1, len(whole), 10**6 + 1])
        mutant.put(path, struct.pack("<Q", length) + whole[8:], refused=True)
        return
    if how == "offsets":
        begin, end = header[name]["data_offsets"]
        header[name]["data_offsets"] = draw.choice([[0, 2**63], [2**64 - 4, 2**64], [end, begin], [begin + 1, end + 1],
                                                    [-4, 0], [begin], [], None, [begin, end + 4], [0.5, 4], "x",
                                                    [begin, begin]])  # fmt: skip
    elif how == "entry":
        header[name] = draw.choice([None, [], 5, "x", {}, {"dtype": "F32"}, {**header[name], "more": 1}])
    elif how == "metadata":
        header["__metadata__"] = draw.choice([5, [], {"a": 5}, {"a": "x" * 2_000_000}, {"a": {"b": {}}}])
    text = json.dumps(header).encode()
    if how == "text":
        twice = text[:-1] + b", " + json.dumps({name: header[name]}).encode()[1:]
        text = draw.choice([b"", b"{}", b"null", b"[" * 100_000, b'{"a":' * 100_000, b"\xff" * 64, text[:-1], twice])
    # The library takes some of these, a key that it does not know or twice the same, for what they mean.
    mutant.put(path, _framed(text, payload))


# ------------------------------------------------------------------------------------------ other programs' files


class _Evil:
    """Pickled, it is a call that makes the marker when it is unpickled."""

    def __init__(self, marker: Path, by: str) -> None:
        self.marker, self.by = marker, by

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        if self.by == "eval":
            return eval, (f"open({str(self.marker)!r}, 'w').close()",)
        return (os.system, (f"touch {self.marker}",)) if self.by == "system" else (Path.touch, (self.marker,))


def _foreign(mutant: Mutant, draw: random.Random) -> None:
    """Pickles, torch.save's archives and numpy's, under our names."""
    path = _step_file(mutant, draw)
    evil = _Evil(mutant.marker, draw.choice(["eval", "system", "touch"]))
    kind = draw.choice(["pickle", "pickle", "torch", "torch evil", "torch old", "numpy", "behind"])
    mutant.what.append(kind)
    saved = io.BytesIO()
    if kind == "pickle":
        saved.write(pickle.dumps(evil, protocol=draw.randrange(6)))
    elif kind == "numpy":
        np.save(saved, np.array([evil], object), allow_pickle=True)
    elif kind == "behind":
        saved.write(mutant.files[path] + pickle.dumps(evil))
    else:
        weights = {"lstm.weight": torch.zeros(3, 4)}
        torch.save({"model": weights, "evil": evil} if kind == "torch evil" else weights, saved,
                   _use_new_zipfile_serialization=kind != "torch old")  # fmt: skip
    mutant.put(path, saved.getvalue(), refused=kind != "behind")


# ------------------------------------------------------------------------------------------ vocabularies

_PIECE, _NORMAL, _CONTROL, _BYTE = 1, 1, 3, 6
"""A field and some types of SentencePiece's protocol buffer."""


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return number, place


def _message(field_number: int, data: bytes) -> bytes:
    return _varint(field_number << 3 | 2) + _varint(len(data)) + data


def _piece(text: bytes, kind: int = _NORMAL) -> bytes:
    return _message(_PIECE, _message(1, text) + b"\x15" + struct.pack("<f", -1.0) + b"\x18" + _varint(kind))


def _split_vocabulary(data: bytes) -> tuple[list[bytes], bytes]:
    """The messages of the pieces, and whatever else is in a SentencePiece model."""
    pieces, rest, place = [], b"", 0
    while place < len(data):
        tag, after = _read_varint(data, place)
        assert tag & 7 == 2, "SentencePiece's models have nothing but messages at the top"
        length, after = _read_varint(data, after)
        whole, place = data[place : after + length], after + length
        if tag >> 3 == _PIECE:
            pieces.append(whole)
        else:
            rest += whole
    return pieces, rest


def _vocabulary(mutant: Mutant, draw: random.Random) -> None:
    path = mutant.path(ckpt.TOKENIZER)
    if path not in mutant.files:
        mutant.put(path, draw.randbytes(100))
        return
    pieces, rest = _split_vocabulary(mutant.files[path])
    how, make = draw.choice(_VOCABULARIES)
    changed = make(pieces, draw)
    mutant.what.append(f"{how}, {len(changed)} pieces")
    mutant.put(path, b"".join(changed) + draw.choice([rest, rest, rest, b"", rest + rest]))
    if draw.random() < 0.7:
        _fit_model(mutant, len(changed))


def _bytes_first(pieces: list[bytes]) -> list[bytes]:
    """The unknown piece and the 256 byte pieces alone."""
    return [pieces[0], *(piece for piece in pieces if b"<0x" in piece)]


_VOCABULARIES: list[tuple[str, Callable[[list[bytes], random.Random], list[bytes]]]] = [
    ("one less", lambda pieces, draw: [p for p in pieces if p != draw.choice(pieces)]),
    ("one twice", lambda pieces, draw: [*pieces, draw.choice(pieces)]),
    ("shuffled", lambda pieces, draw: draw.sample(pieces, len(pieces))),
    ("no character", lambda pieces, draw: _bytes_first(pieces)),
    ("one control character", lambda pieces, draw: [*_bytes_first(pieces), _piece(b"a", _CONTROL)]),
    ("more", lambda pieces, draw: [*pieces, _piece(draw.choice([b"ab", b"", b"\0", b"\xff", b"z" * 10**6, b"\n"]))]),
    ("a byte more", lambda pieces, draw: [*pieces, _piece(draw.choice([b"<0x41>", b"<0x100>", b"q"]), _BYTE)]),
    ("any type", lambda pieces, draw: [*pieces, _piece(b"q", draw.choice([0, 2, 3, 4, 5, 7, 99, 2**40]))]),
    ("Chinese", lambda pieces, draw: [*pieces, *(_piece(chr(0x4E00 + n).encode()) for n in range(20_000))]),
    ("huge", lambda pieces, draw: [*pieces, *(_piece(chr(0x20000 + n).encode()) for n in range(draw.choice(_HUGE)))]),
    ("nothing", lambda pieces, draw: []),
]
_HUGE = (30_000, 70_000)


def _fit_model(mutant: Mutant, size: int) -> None:
    """Give the model as many rows as the vocabulary has pieces, so that they agree."""
    config = mutant.json(mutant.path(ckpt.CONFIG))
    ids = size + ("documents" in config["tokenizer"])
    path = mutant.path(ckpt.MODEL)
    tensors = _unpack(mutant.files[path])
    for name in ("embedding.weight", "decoder.bias"):
        dtype, shape, data = tensors[name]
        wanted = len(data) // shape[0] * ids
        tensors[name] = dtype, [ids, *shape[1:]], (data * (1 + wanted // len(data)))[:wanted]
    mutant.files[path] = _pack(tensors)
    config["model"]["vocabulary_size"] = ids
    config["tokenizer"]["sha256"] = hashlib.sha256(mutant.seen(mutant.path(ckpt.TOKENIZER))).hexdigest()
    mutant.files[mutant.path(ckpt.CONFIG)] = json.dumps(config).encode()


def _spelt(mutant: Mutant, draw: random.Random) -> None:
    """Characters that are said to be spelt in bytes: at most two may be."""
    path = mutant.path(ckpt.CONFIG)
    values = copy.deepcopy(mutant.json(path))
    values["tokenizer"]["spelt_in_bytes"] = draw.choice(
        [[0], [0x2581], [0, 0x2581], [0, 0, 0], [65], [-1], [2**31], [True], list(range(5000)), [[]], [0.0], {}, "0"]
    )
    if draw.random() < 0.3:
        values["tokenizer"]["kind"] = draw.choice(["byte", "char", "bpe", None, [], {}])
    if draw.random() < 0.3:
        values["tokenizer"]["documents"] = draw.choice(
            ["lines", "blank-lines", "files", "", [], {}, ["lines"], 5, None]
        )
    mutant.put_json(path, values)


# The first of these are many-sided and come more often.
_KINDS: tuple[Callable[[Mutant, random.Random], None], ...] = (
    *[_json_value] * 6, *[_flip] * 2, *[_giant] * 2, *[_link] * 2, *[_no_file] * 2, *[_foreign] * 2, *[_vocabulary] * 2,
    *[_tensor_values] * 2, _overwrite, _truncate, _extend, _swap, _delete, _leftovers, _json_keys, _json_whole,
    _json_deep, _json_twice, _manifest, _metrics, _tensor_type, _tensor_shape, _tensor_names, _tensor_header, _spelt,
)  # fmt: skip
