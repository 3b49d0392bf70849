"""Runs: a corpus is prepared in a folder, and a model is trained there. ``charlm.train`` and ``charlm.resume``.

    checkpoints/<run>/corpus/      the prepared ids, the vocabulary, corpus.json
    checkpoints/<run>/step-N/      checkpoints: the best and the latest
    checkpoints/<run>/metrics.jsonl

A run is locked while it is trained. It is never overwritten, and it is removed if it fails before its first checkpoint.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from charlm.arguments import check_callable, check_flags, check_path, check_paths
from charlm.checkpoint.model_parts import read_model_parts
from charlm.checkpoint.run_folder import RUNS, RunFolder
from charlm.checkpoint.step import (
    ALL_FILES,
    Checkpoint,
    open_checkpoint,
)
from charlm.checkpoint.transfer import transfer_weights
from charlm.config import ModelConfig, TrainingConfig, from_dict, parse_duration
from charlm.corpus.documents import check_document_kind
from charlm.corpus.preparation import prepare
from charlm.corpus.prepared import Corpus, open_corpus, parse_split
from charlm.corpus.splitting import DocumentOptions
from charlm.corpus.tables import TableOptions, open_texts
from charlm.corpus.text import TextSource, check_encoding
from charlm.errors import DataError, InputOutputError, UsageError
from charlm.system.devices import avoid_lost_threads, choose_device, choose_precision
from charlm.system.disk import naming, sync_folders
from charlm.system.signals import StopSignals
from charlm.training.events import Event, Finished
from charlm.training.keywords import takes_options
from charlm.training.options import (
    ResumeOptions,
    TrainingOptions,
    check_options,
    check_type,
    definitions,
)
from charlm.training.recipe import Recipe, resolve, validate
from charlm.training.resuming import (
    changed,
    check_corpus,
    is_extended,
    on_device,
    refuse_fixed_options,
    resumed_device,
    run_of,
    with_limit,
)
from charlm.training.speed import MachineSpeed
from charlm.training.state import is_finished
from charlm.training.trainer import Trainer

if TYPE_CHECKING:
    from typing_extensions import Unpack

TOKENIZERS = ("char", "byte")
MIN_CHARACTERS = 100
DEFAULT_SPLIT = "90/5/5"

ProgressCallback = Callable[[int], None]


@dataclass(frozen=True)
class TextOptions:
    """The text to train on. ``corpus``, ``valid`` and ``test`` are paths of files or folders, or "-" for stdin."""

    corpus: Sequence[str] = ()
    valid: str | None = None
    test: str | None = None
    demo: bool = False
    tokenizer: str = "char"
    encoding: str = "utf-8"
    split: str | None = None
    documents: str | None = None
    """A key of ``DOCUMENT_SEPARATORS``; None for running text, and for a table, whose documents are its rows."""
    distinct: bool = False
    """Whether duplicate documents are dropped."""
    column: str | None = None
    """The column of a table that is the text."""
    given: str | None = None
    """The column of a table that is the condition of its text."""
    delimiter: str | None = None
    as_text: bool = False
    """Whether a table is read as it stands, without a column."""

    @property
    def has_documents(self) -> bool:
        """Whether the text consists of documents."""
        return self.documents is not None or self.column is not None

    def table(self) -> TableOptions | None:
        """What is read of a table; None for a plain text."""
        return None if self.column is None else TableOptions(self.column, self.delimiter, self.given)

    def __post_init__(self) -> None:
        for name in ("tokenizer", "encoding", "split", "documents", "column", "given", "delimiter"):
            if (value := getattr(self, name)) is not None:
                check_type(name, value, (str,), DEFAULT_SPLIT if name == "split" else "")
        for name in ("valid", "test"):
            if getattr(self, name) == "":
                raise UsageError(f"--{name} '' is not the name of a text; name a file, or leave it out")


@dataclass(frozen=True)
class RunOptions:
    """Where to save and what to run on. The model starts with the weights of the checkpoint ``init_from``."""

    out: Path | None = None
    init_from: Path | None = None
    device: str = "auto"
    precision: str = "auto"
    progress: ProgressCallback = field(default=lambda characters: None)
    """Called while the corpus is prepared, with the number of characters read since the last call."""


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to train. ``recipe`` is None for a resumed run."""

    trainer: Trainer
    recipe: Recipe | None
    finished: bool = False
    """Whether nothing is left to do, because a resumed run has reached its limit already."""


@dataclass(frozen=True, repr=False)
class TrainingResult:
    """What ``charlm.train`` and ``charlm.resume`` return.

    ``run`` is the folder, for ``charlm.load``. ``reason`` is why training ended: "budget", "early stop", "interrupted",
    or "finished before" if there was nothing to resume. ``best_nats_per_char`` is the lowest validation loss.
    """

    run: Path
    step: int
    seconds: float
    reason: str
    best_nats_per_char: float | None

    def __repr__(self) -> str:
        loss = "none" if self.best_nats_per_char is None else f"{self.best_nats_per_char:.4f} nats/char"
        ended = f"{self.step} steps in {self.seconds:.1f} s, {self.reason}"
        return f"<TrainingResult {self.run}: {ended}, best validation loss {loss}>"


@takes_options(TrainingOptions)
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
    column: str | None = None,
    given: str | None = None,
    delimiter: str | None = None,
    as_text: bool = False,
    init_from: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    on_event: Callable[[Event], object] | None = None,
    **options: Unpack[TrainingOptions],
) -> TrainingResult:
    """Train on a file, a folder or several of them, as ``charlm train`` does, and return where the run is.

    Of tables, ``column`` names the text; each row is a document. ``given`` names the column of its condition.
    ``on_event`` is called with every event of the training. Ctrl-C saves and returns with the reason "interrupted".
    Prints nothing. Raises the errors of ``charlm.errors``.
    """
    names = [str(path) for path in check_paths("corpus", corpus)]
    check_callable("on_event", on_event)
    check_flags(distinct=distinct, as_text=as_text)
    texts = TextOptions(
        names,
        None if valid is None else str(check_path("valid", valid)),
        None if test is None else str(check_path("test", test)),
        tokenizer=tokenizer,
        encoding=encoding,
        split=split,
        documents=documents,
        distinct=distinct,
        column=column,
        given=given,
        delimiter=delimiter,
        as_text=as_text,
    )
    run_options = RunOptions(
        None if out is None else check_path("out", out),
        None if init_from is None else check_path("init_from", init_from),
        str(device),
        precision,
    )
    with new_run(texts, check_options(options, TrainingOptions, "train"), run_options) as prepared:
        return _run_to_end(prepared.trainer, on_event)


@takes_options(ResumeOptions)
def resume(
    run: str | Path,
    *,
    device: str | None = None,
    on_event: Callable[[Event], object] | None = None,
    **options: Unpack[ResumeOptions],
) -> TrainingResult:
    """Continue a run exactly where it stopped, as ``charlm train --resume`` does.

    ``steps``, ``epochs`` or ``time`` extend it. All other options are those that the run was started with.
    Raises the errors of ``charlm.errors``.
    """
    path = check_path("run", run)
    known = TrainingOptions if options.keys() <= definitions(TrainingOptions).keys() else ResumeOptions
    checked = check_options(options, known, "resume")
    check_callable("on_event", on_event)
    with resumed_run(path, checked, None if device in (None, "auto") else str(device)) as prepared:
        if prepared.finished:
            progress = prepared.trainer.progress
            return TrainingResult(path, progress.step, progress.seconds, "finished before", progress.best)
        return _run_to_end(prepared.trainer, on_event)


def _run_to_end(trainer: Trainer, on_event: Callable[[Event], object] | None) -> TrainingResult:
    last: Finished | None = None
    with StopSignals() as signals, signals.deferred(trainer.stop):
        for event in trainer.events():
            if on_event is not None:
                on_event(event)
            last = event if isinstance(event, Finished) else last
    assert last is not None, "a training ends with Finished or an error"
    return TrainingResult(trainer.run, last.step, last.seconds, last.reason, last.best_nats_per_char)


@contextlib.contextmanager
def new_run(texts: TextOptions, options: TrainingOptions, run_options: RunOptions) -> Iterator[PreparedRun]:
    """Prepare the corpus in a new run and hold the run, locked and ready to train."""
    avoid_lost_threads(options.get("threads"))
    device = choose_device(run_options.device)
    precision = choose_precision(run_options.precision, device)
    base = None if run_options.init_from is None else open_checkpoint(run_options.init_from)
    architecture = None if base is None else from_dict(ModelConfig, base.config.get("model"), str(base.path))
    # Fail early: preparing the corpus may take minutes.
    _validate_texts(texts, base)
    validate(options, documents=texts.has_documents, architecture=architecture)
    source = None if texts.demo or texts.corpus == ["-"] else _open(texts, texts.corpus)
    run = RunFolder.claim(run_options.out, "demo" if texts.demo else source.name if source else "stdin")
    with run.lock():
        try:
            run.clear_beginning()
            try:
                corpus = _prepare(run.path, source, texts, _document_options(texts, options), run_options.progress)
                sync_folders([corpus.folder, *run.created])
            except OSError as error:
                where = error.filename or run.path
                raise InputOutputError(f"{where} could not be written ({error.strerror}); fix the disk") from None
            seconds = options.get("time")
            speedometer = None if seconds is None else MachineSpeed(corpus, parse_duration(seconds))
            began = time.monotonic()
            recipe = resolve(
                options,
                corpus.sizes["train"],
                corpus.sizes["valid"],
                corpus.tokenizer.vocabulary_size,
                device=str(device),
                precision=precision,
                speedometer=speedometer,
                architecture=architecture,
            )
            trainer = Trainer(run.path, corpus, recipe.model, recipe.training)
            if base is not None:
                fresh = trainer.model.weights()
                trainer.model.load_weights(transfer_weights(read_model_parts(base), fresh, corpus.tokenizer))
            if speedometer is not None:
                trainer.begin(time.monotonic() - began, recipe.evaluation_seconds)
            yield PreparedRun(trainer, recipe)
        finally:
            run.discard_without_steps()


def _validate_texts(texts: TextOptions, base: Checkpoint | None) -> None:
    """Raise ``UsageError`` for values out of range and contradictions."""
    if texts.tokenizer not in TOKENIZERS:
        raise UsageError(f"--tokenizer must be one of {', '.join(TOKENIZERS)}, not {texts.tokenizer!r}")
    if base is not None:
        kind = read_model_parts(base).tokenizer.kind
        if kind != texts.tokenizer:
            raise UsageError(f"{base.path} was trained with --tokenizer {kind}; use the same here")
    check_encoding(texts.encoding)
    _validate_table(texts)
    if texts.documents is not None:
        check_document_kind(texts.documents)
    elif texts.distinct and texts.column is None:
        raise UsageError("--distinct drops duplicate documents; define what a document is with --documents")
    parse_split(DEFAULT_SPLIT if texts.split is None else texts.split)
    if texts.valid is not None and texts.split is not None:
        raise UsageError("with --valid the whole corpus is training text; leave out --split")


def _validate_table(texts: TextOptions) -> None:
    """Raise ``UsageError`` for contradictions among the options of a table."""
    if texts.column is None:
        if texts.delimiter is not None:
            raise UsageError("--delimiter is for a column of a table; add --column NAME, or leave it out")
        if texts.given is not None:
            raise UsageError("--given is the condition of a column; name that, too: --column NAME")
        return
    texts.table()
    if texts.documents is not None:
        raise UsageError("with --column each row is a document; leave out --documents")
    if texts.as_text or texts.demo:
        raise UsageError(f"--{'as-text' if texts.as_text else 'demo'} is not a column of a table; leave out --column")


def _open(texts: TextOptions, names: Sequence[str], spool: Path | None = None) -> TextSource:
    any_file = texts.tokenizer == "byte"
    return open_texts(names, texts.encoding, spool, any_file, texts.table(), texts.as_text)


def _document_options(texts: TextOptions, options: TrainingOptions) -> DocumentOptions | None:
    if not texts.has_documents:
        return None
    given = options.get("seed")
    seed = TrainingConfig.seed if given is None else given
    return DocumentOptions(texts.documents or "rows", seed, texts.distinct, conditional=texts.given is not None)


def _prepare(
    run: Path,
    source: TextSource | None,
    texts: TextOptions,
    documents: DocumentOptions | None,
    progress: ProgressCallback,
) -> Corpus:
    folder = run / "corpus"
    folder.mkdir()
    spool = folder / "text"
    if texts.demo:
        with naming(spool):
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
            f"the training part of the text has only {characters} characters; use a text of at least {MIN_CHARACTERS}, "
            "preferably several hundred thousand"
        )
    return corpus


def demo_text() -> str:
    """The Python language reference, which CPython contains: English and code, half a million characters."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name].strip("\n") for name in sorted(topics)) + "\n"


@contextlib.contextmanager
def resumed_run(run: Path | None, options: TrainingOptions, device: str | None = None) -> Iterator[PreparedRun]:
    """Open a run (by default the newest) at its latest checkpoint and hold it, locked and ready to continue."""
    refuse_fixed_options(options)
    run, named_step = run_of(RunFolder.newest(RUNS, to_resume=True).path if run is None else run)
    folder = RunFolder(run)
    with folder.lock():
        folder.clean()
        checkpoint = open_checkpoint(run, "latest", ALL_FILES)
        if named_step is not None and named_step != checkpoint.step:
            raise UsageError(
                f"{run} has a newer checkpoint (step {checkpoint.step}); resume the run, or start a new run from the "
                f"older step with --init-from {run / f'step-{named_step}'}"
            )
        config = changed(from_dict(TrainingConfig, checkpoint.config.get("training"), str(checkpoint.path)), options)
        config = on_device(config, resumed_device(config.device, device))
        corpus = open_corpus(run / "corpus")
        check_corpus(run, corpus, checkpoint)
        trainer = Trainer.resume(run, corpus, checkpoint, with_limit(config, corpus))
        extended = is_extended(options)
        progress = trainer.budget_progress()
        finished = is_finished(checkpoint) and (not extended or (progress is not None and progress >= 1.0))
        yield PreparedRun(trainer, None, finished)
