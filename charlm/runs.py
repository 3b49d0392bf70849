"""Runs: the folder of a training, made, found again, and trained. ``charlm.train`` lives here.

    checkpoints/<run>/corpus/      the prepared ids, the vocabulary, corpus.json
    checkpoints/<run>/step-N/      checkpoints: the best and the latest
    checkpoints/<run>/metrics.jsonl

A run is locked while it is trained, never overwritten, and removed again if it fails before its first checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from charlm import native
from charlm.checkpoint.model_parts import read_model_parts
from charlm.checkpoint.run_folder import RUNS, RunFolder
from charlm.checkpoint.step import (
    ALL_FILES,
    CONFIG,
    MANIFEST,
    Checkpoint,
    has_training_state,
    open_checkpoint,
)
from charlm.checkpoint.transfer import transfer_weights
from charlm.config import ModelConfig, TrainingConfig, from_dict, parse_duration
from charlm.corpus.documents import check_document_kind
from charlm.corpus.preparation import prepare
from charlm.corpus.prepared import Corpus, SplitSize, open_corpus, parse_split
from charlm.corpus.splitting import DocumentOptions
from charlm.corpus.text import TextSource, check_encoding, open_source
from charlm.errors import DataError, MissingInputError, UsageError
from charlm.system.devices import choose_device, choose_precision
from charlm.system.disk import sync_folders
from charlm.system.signals import StopSignals
from charlm.training.events import Event, Finished
from charlm.training.recipe import Recipe, Request, resolve, save_every_fields
from charlm.training.state import is_finished
from charlm.training.trainer import Trainer

TOKENIZERS = ("char", "byte")
MIN_CHARACTERS = 100
DEFAULT_SPLIT = "90/5/5"
# What may be changed when a run is resumed; everything else it remembers.
RESUME_WISHES = ("epochs", "steps", "time", "save_every", "threads")

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Texts:
    """Which texts to learn from: ``corpus`` and perhaps ``valid`` and ``test`` are names of files, folders or "-"."""

    corpus: Sequence[str] = ()
    valid: str | None = None
    test: str | None = None
    demo: bool = False
    tokenizer: str = "char"
    encoding: str = "utf-8"
    split: str | None = None
    documents: str | None = None
    """A key of ``DOCUMENT_SEPARATORS``; None where text runs on."""
    distinct: bool = False
    """Whether documents that stand in the text again are left out."""


@dataclass(frozen=True)
class Trained:
    """What ``charlm.train`` returns. Losses are in nats per character; ``reason`` is why training ended."""

    run: Path
    step: int
    seconds: float
    reason: str
    best_nats_per_char: float | None


@dataclass(frozen=True)
class Prepared:
    """A run ready to train, and what was chosen for it."""

    trainer: Trainer
    recipe: Recipe | None
    finished: bool = False


@dataclass(frozen=True)
class Where:
    """Where a run goes and what it runs on; ``init_from`` is a checkpoint whose weights it begins with."""

    out: Path | None = None
    init_from: Path | None = None
    device: str = "auto"
    precision: str = "auto"
    progress: Progress = field(default=lambda characters: None)


def train(
    corpus: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    valid: str | Path | None = None,
    test: str | Path | None = None,
    tokenizer: str = "char",
    encoding: str = "utf-8",
    split: str | None = None,
    documents: str | None = None,
    distinct: bool = False,
    init_from: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    on_event: Callable[[Event], None] = lambda event: None,
    **wishes: Any,
) -> Trained:
    """Train on a file, a folder or several of them, as ``charlm train`` does, and return where the run is.

    ``wishes`` are the fields of ``charlm.training.recipe.Request``: ``time="10m"``, ``steps``, ``size``, ``lr`` and so
    on. Every event of the training is passed to ``on_event``. Ctrl-C saves and returns with the reason "interrupted".
    Prints nothing. Raises the errors of ``charlm.errors``.
    """
    names = [str(corpus)] if isinstance(corpus, (str, Path)) else [str(name) for name in corpus]
    texts = Texts(names, _name(valid), _name(test), False, tokenizer, encoding, split, documents, distinct)
    where = Where(_path(out), _path(init_from), device, precision)
    known = {field.name for field in dataclasses.fields(Request)}
    if unknown := sorted(set(wishes) - known):
        raise UsageError(f"train() has no option {unknown[0]!r}; it has {', '.join(sorted(known))}")
    with new_run(texts, Request(**wishes), where) as prepared:
        return _run_to_end(prepared.trainer, on_event)


def resume(
    run: str | Path, *, device: str | None = None, on_event: Callable[[Event], None] = lambda event: None, **wishes: Any
) -> Trained:
    """Go on with a run, as ``charlm train --resume`` does; ``steps``, ``epochs`` or ``time`` extend it."""
    with resumed_run(Path(run), Request(**wishes), device) as prepared:
        if prepared.finished:
            progress = prepared.trainer.progress
            return Trained(Path(run), progress.step, progress.seconds, "finished before", progress.best)
        return _run_to_end(prepared.trainer, on_event)


def _name(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _run_to_end(trainer: Trainer, on_event: Callable[[Event], None]) -> Trained:
    last: Finished | None = None
    with StopSignals() as signals, signals.deferred(trainer.stop):
        for event in trainer.events():
            on_event(event)
            last = event if isinstance(event, Finished) else last
    assert last is not None, "a training ends with Finished or an error"
    return Trained(trainer.run, last.step, last.seconds, last.reason, last.best_nats_per_char)


@contextlib.contextmanager
def new_run(texts: Texts, request: Request, where: Where) -> Iterator[Prepared]:
    """Prepare the corpus in a new run and hold it, locked, ready to train."""
    device = choose_device(where.device)
    precision = choose_precision(where.precision, device)
    base = None if where.init_from is None else open_checkpoint(where.init_from)
    architecture = None if base is None else from_dict(ModelConfig, base.config.get("model"), str(base.path))
    _check_early(texts, request, str(device), base, architecture)
    source = None if texts.demo or texts.corpus == ["-"] else _open(texts, texts.corpus)
    run = RunFolder.claim(where.out, "demo" if texts.demo else source.name if source else "stdin")
    with run.lock():
        try:
            run.clear_beginning()
            corpus = _prepare(run.path, source, texts, _document_choices(texts, request), where.progress)
            sync_folders([corpus.folder, *run.created])
            recipe = resolve(
                request,
                corpus.sizes["train"],
                corpus.sizes["valid"],
                corpus.tokenizer.vocabulary_size,
                device=str(device),
                precision=precision,
                instruction_set=native.instruction_set(),
                architecture=architecture,
            )
            trainer = Trainer(run.path, corpus, recipe.model, recipe.training)
            if base is not None:
                trainer.model.load_weights(
                    transfer_weights(read_model_parts(base), trainer.model.weights(), corpus.tokenizer)
                )
            yield Prepared(trainer, recipe)
        finally:
            run.discard_without_steps()


def _check_early(
    texts: Texts, request: Request, device: str, base: Checkpoint | None, architecture: ModelConfig | None
) -> None:
    """Find contradictions before minutes are spent on a corpus."""
    if texts.tokenizer not in TOKENIZERS:
        raise UsageError(f"--tokenizer must be one of {', '.join(TOKENIZERS)}, not {texts.tokenizer!r}")
    if base is not None:
        kind = read_model_parts(base).tokenizer.kind
        if kind != texts.tokenizer:
            raise UsageError(f"{base.path} was trained with --tokenizer {kind}; use the same here")
    check_encoding(texts.encoding)
    if texts.documents is not None:
        check_document_kind(texts.documents)
    elif texts.distinct:
        raise UsageError("--distinct leaves out documents that come again; say what a document is with --documents")
    parse_split(texts.split or DEFAULT_SPLIT)
    if texts.valid is not None and texts.split is not None:
        raise UsageError("with --valid all of the corpus is training text; leave out --split")
    large = SplitSize(10**9, 10**9, 10**9, 0 if texts.documents is None else 10**6)
    resolve(request, large, large, 300, device=device, precision="fp32", instruction_set="", architecture=architecture)


def _open(texts: Texts, names: Sequence[str], spool: Path | None = None) -> TextSource:
    return open_source(names, texts.encoding, spool, any_file=texts.tokenizer == "byte")


def _document_choices(texts: Texts, request: Request) -> DocumentOptions | None:
    if texts.documents is None:
        return None
    seed = TrainingConfig.seed if request.seed is None else request.seed
    return DocumentOptions(texts.documents, seed, texts.distinct)


def _prepare(
    run: Path, source: TextSource | None, texts: Texts, documents: DocumentOptions | None, progress: Progress
) -> Corpus:
    folder = run / "corpus"
    folder.mkdir()
    spool = folder / "text"
    if texts.demo:
        spool.write_text(demo_text(), encoding="utf-8", newline="")
        source = TextSource(["-"], [spool], "utf-8", "demo")
    elif source is None:
        source = _open(texts, ["-"], spool)
    named = {"valid": texts.valid, "test": texts.test}
    others = {name: _open(texts, [path]) for name, path in named.items() if path is not None}
    shares = parse_split(texts.split or DEFAULT_SPLIT)
    corpus = prepare(folder, source, texts.tokenizer, shares, others, progress, documents)
    spool.unlink(missing_ok=True)
    characters = corpus.sizes["train"].characters
    if characters < MIN_CHARACTERS:
        raise DataError(
            f"the training part of the text has {characters} characters, too few to learn from; it needs at least "
            f"{MIN_CHARACTERS}, better some hundred thousand"
        )
    return corpus


def demo_text() -> str:
    """The Python language reference that ships inside every CPython: English and code, half a million characters."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name].strip("\n") for name in sorted(topics)) + "\n"


@contextlib.contextmanager
def resumed_run(run: Path | None, request: Request, device: str | None = None) -> Iterator[Prepared]:
    """Open a run (the newest one without a name) at its latest checkpoint and hold it, locked, ready to go on."""
    _refuse_new_wishes(request)
    run, named_step = _run_of(RunFolder.newest(RUNS, to_resume=True).path if run is None else run)
    folder = RunFolder(run)
    with folder.lock():
        folder.clean()
        checkpoint = open_checkpoint(run, "latest", ALL_FILES)
        if named_step is not None and named_step != checkpoint.step:
            raise UsageError(
                f"{run} has gone on to step {checkpoint.step}; resume that with --out {run}, or begin a new run from "
                f"the older step with --init-from {run / f'step-{named_step}'}"
            )
        config = _extended(from_dict(TrainingConfig, checkpoint.config.get("training"), str(checkpoint.path)), request)
        config = dataclasses.replace(config, device=str(choose_device(device or config.device)))
        corpus = open_corpus(run / "corpus")
        _check_corpus(run, corpus, checkpoint)
        trainer = Trainer.resume(run, corpus, checkpoint, config)
        extended = any(getattr(request, name) is not None for name in ("epochs", "steps", "time"))
        progress = trainer.budget_progress()
        finished = is_finished(checkpoint) and (not extended or (progress is not None and progress >= 1.0))
        yield Prepared(trainer, None, finished)


def _run_of(path: Path) -> tuple[Path, int | None]:
    """The run that a person means by its folder or by one of its steps, and the number of that step."""
    if not path.exists():
        raise MissingInputError(f"{path} does not exist; name a run with --out, or train one: charlm train FILE")
    if RunFolder(path).step_numbers() or not (path / MANIFEST).exists():
        if not RunFolder(path).step_numbers():
            raise MissingInputError(f"{path} has no checkpoint to go on from; train again: charlm train FILE")
        return path, None
    if not has_training_state(path):
        raise DataError(
            f"{path} is an exported model and has no training state; resume its run, or learn from its weights with "
            f"charlm train FILE --init-from {path}"
        )
    return path.parent, open_checkpoint(path, names=[CONFIG]).step


def _refuse_new_wishes(request: Request) -> None:
    for field_ in dataclasses.fields(Request):
        if getattr(request, field_.name) is not None and field_.name not in RESUME_WISHES:
            option = field_.name.replace("_", "-")
            raise UsageError(f"a resumed run keeps its --{option}; leave it out, or begin a new run with --init-from")


def _extended(config: TrainingConfig, request: Request) -> TrainingConfig:
    if (request.epochs, request.steps, request.time) != (None, None, None):
        seconds = None if request.time is None else parse_duration(request.time)
        config = dataclasses.replace(config, epochs=request.epochs, steps=request.steps, seconds=seconds)
    if request.threads is not None:
        config = dataclasses.replace(config, threads=request.threads)
    return dataclasses.replace(config, **save_every_fields(request.save_every))


def _check_corpus(run: Path, corpus: Corpus, checkpoint: Checkpoint) -> None:
    described = checkpoint.config.get("corpus")
    if not isinstance(described, dict) or described.get("sha256") != corpus.sha256:
        raise DataError(f"{run / 'corpus'} is not the corpus that {checkpoint.path} was trained on; restore it")
    # Before anything that it names is looked for. The first checkpoints of format 1 lack it.
    if described.get("description_sha256", corpus.description_sha256) != corpus.description_sha256:
        raise DataError(
            f"{corpus.folder / 'corpus.json'} is damaged; restore it, or train again with --init-from {run}"
        )
    if corpus.changed_sources():
        raise DataError(
            f"the text of {run} has changed since training began; put the old text back to resume, or learn the new "
            f"one with charlm train FILE --init-from {run}"
        )
    corpus.check_ids()
