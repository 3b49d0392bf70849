"""Runs: a corpus is prepared in a folder, and a model is trained there. ``charlm.train`` and ``charlm.resume``.

    checkpoints/<run>/corpus/      the prepared ids, the vocabulary, corpus.json
    checkpoints/<run>/soft-targets/  what a teacher predicts of the training text
    checkpoints/<run>/step-N/      checkpoints: the best and the latest
    checkpoints/<run>/metrics.jsonl

A run is locked while it is trained. It is never overwritten, and it is removed if it fails before its first checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from charlm.arguments import check_callable, check_flags, check_path, check_paths
from charlm.checkpoint.model_parts import read_model_parts
from charlm.checkpoint.run_folder import RUNS, RunFolder
from charlm.checkpoint.shipped import find_checkpoint
from charlm.checkpoint.step import (
    ALL_FILES,
    Checkpoint,
    open_checkpoint,
)
from charlm.checkpoint.transfer import transfer_weights
from charlm.config import ModelConfig, TrainingConfig, from_dict, parse_duration
from charlm.corpus.preparation import log_warnings, prepare
from charlm.corpus.prepared import Corpus, open_corpus, parse_split
from charlm.corpus.splitting import DocumentOptions
from charlm.corpus.text import TextSource
from charlm.errors import DataError, InputOutputError, UsageError
from charlm.notebook import html_table, in_notebook
from charlm.system.devices import avoid_lost_threads, choose_device, choose_precision
from charlm.system.disk import naming, sync_folders
from charlm.system.processes import ALONE, Launch, launched
from charlm.system.signals import StopSignals
from charlm.training import together
from charlm.training.device_check import trusted_device
from charlm.training.events import Event, Finished
from charlm.training.keywords import takes_options
from charlm.training.observers import ObserverOptions, observing
from charlm.training.options import (
    DEFAULT_OPTIMIZER,
    ResumeOptions,
    TrainingOptions,
    check_options,
    definitions,
)
from charlm.training.recipe import Recipe, refuse_generations, resolve, validate
from charlm.training.regularization import warn_of_high_rate
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
from charlm.training.teachers import open_teacher, prepare_soft_targets
from charlm.training.text_options import (
    DEFAULT_SPLIT,
    TextOptions,
    check_texts,
    demo_text,
    document_options,
    open_text,
)
from charlm.training.trainer import Trainer

if TYPE_CHECKING:
    from typing_extensions import Unpack

MIN_CHARACTERS = 100

ProgressCallback = Callable[[int], None]


@dataclass(frozen=True)
class RunOptions:
    """Where to save and what to run on. The model starts with the weights of the checkpoint ``init_from``.

    It learns from the predictions of ``teachers``, if there are any: from the mean of their probabilities.
    """

    out: Path | None = None
    init_from: Path | None = None
    device: str = "auto"
    precision: str = "auto"
    progress: ProgressCallback = field(default=lambda characters: None)
    """Called while the corpus is prepared, with the number of characters read since the last call."""
    teachers: Sequence[Path] = ()
    teacher_progress: ProgressCallback = field(default=lambda ids: None)
    """Called while they read the training text, with the number of ids read since the last call."""


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

    def _repr_html_(self) -> str:
        loss = "none" if self.best_nats_per_char is None else f"{self.best_nats_per_char:.4f} nats per character"
        rows = [("run", str(self.run)), ("steps", f"{self.step:,}"), ("seconds", f"{self.seconds:,.1f}"),
                ("ended by", self.reason), ("best validation loss", loss)]  # fmt: skip
        return html_table((), rows)


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
    document_start: str | None = None,
    errors: str = "strict",
    normalize: str = "none",
    init_from: str | Path | None = None,
    teacher: str | Path | Sequence[str | Path] | None = None,
    device: str = "auto",
    precision: str = "auto",
    on_event: Callable[[Event], object] | None = None,
    plot: bool = False,
    tensorboard: bool | str | Path = False,
    progress: bool | None = None,
    **options: Unpack[TrainingOptions],
) -> TrainingResult:
    """Train on a file, a folder or several of them, as ``charlm train`` does, and return where the run is.

    Of tables, ``column`` names the text; each row is a document. ``given`` names the column of its condition.
    ``teacher`` is a run, or several, whose predictions the model learns from.
    ``on_event`` is called with every event of the training. Ctrl-C, or the interruption of a notebook's cell, saves and
    returns with the reason "interrupted"; a second one raises ``KeyboardInterrupt`` without saving.

    ``plot`` draws RUN/curve.svg at each evaluation. ``tensorboard`` writes to RUN/tensorboard, or to the folder NAME of
    the run in the folder given. ``progress`` shows a progress bar, by default in a notebook only; otherwise nothing is
    printed. Raises the errors of ``charlm.errors``.
    """
    observers = _observers(plot, tensorboard, progress)
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
        document_start=document_start,
        errors=errors,
        normalize=normalize,
    )
    run_options = RunOptions(
        None if out is None else check_path("out", out),
        None if init_from is None else check_path("init_from", init_from),
        str(device),
        precision,
        teachers=[] if teacher is None else check_paths("teacher", teacher),
    )
    with new_run(texts, check_options(options, TrainingOptions, "train"), run_options) as prepared:
        return _run_to_end(prepared.trainer, on_event, observers)


@takes_options(ResumeOptions)
def resume(
    run: str | Path,
    *,
    device: str | None = None,
    on_event: Callable[[Event], object] | None = None,
    plot: bool = False,
    tensorboard: bool | str | Path = False,
    progress: bool | None = None,
    **options: Unpack[ResumeOptions],
) -> TrainingResult:
    """Continue a run exactly where it stopped, as ``charlm train --resume`` does.

    ``steps``, ``epochs`` or ``time`` extend it. All other options are those that the run was started with; ``plot``,
    ``tensorboard`` and ``progress`` are those of ``train``. Raises the errors of ``charlm.errors``.
    """
    observers = _observers(plot, tensorboard, progress)
    path = check_path("run", run)
    known = TrainingOptions if options.keys() <= definitions(TrainingOptions).keys() else ResumeOptions
    checked = check_options(options, known, "resume")
    check_callable("on_event", on_event)
    with resumed_run(path, checked, None if device in (None, "auto") else str(device)) as prepared:
        if prepared.finished:
            done = prepared.trainer.progress
            return TrainingResult(path, done.step, done.seconds, "finished before", done.best)
        return _run_to_end(prepared.trainer, on_event, observers)


def _observers(plot: bool, tensorboard: bool | str | Path, progress: bool | None) -> ObserverOptions:
    """The checked options of what else follows a training."""
    check_flags(plot=plot)
    if not isinstance(tensorboard, bool):
        tensorboard = check_path("tensorboard", tensorboard)
    if progress is None:
        progress = in_notebook()
    check_flags(progress=progress)
    options = ObserverOptions(plot, tensorboard, progress)
    options.require()
    return options


def _run_to_end(
    trainer: Trainer, on_event: Callable[[Event], object] | None, options: ObserverOptions
) -> TrainingResult:
    last: Finished | None = None
    with (
        StopSignals(exits=False) as signals,
        observing(
            trainer.run, trainer.progress.step, options if trainer.group.is_first else ObserverOptions()
        ) as observe,
        signals.deferred(trainer.stop),
    ):
        for event in trainer.events():
            observe(event)
            if on_event is not None:
                on_event(event)
            last = event if isinstance(event, Finished) else last
    assert last is not None, "a training ends with Finished or an error"
    return TrainingResult(trainer.run, last.step, last.seconds, last.reason, last.best_nats_per_char)


@contextlib.contextmanager
def new_run(texts: TextOptions, options: TrainingOptions, run_options: RunOptions) -> Iterator[PreparedRun]:
    """Prepare the corpus in a new run and hold the run, locked and ready to train.

    Of several processes, the first one does that, and the others join it. If they were restarted, they go on.
    """
    launch = launched()
    with together.taking_part(launch):
        if launch is not None and not launch.is_first:
            yield _joined_run(launch)
            return
        before = None if launch is None else launch.run_before()
        if before is not None and RunFolder(Path(before)).step_numbers():
            with _resumed_run(Path(before), TrainingOptions(), None, launch) as prepared:
                yield prepared
        else:
            where = run_options if before is None else dataclasses.replace(run_options, out=Path(before))
            with _new_run(texts, options, where, launch) as prepared:
                yield prepared


@contextlib.contextmanager
def _new_run(
    texts: TextOptions, options: TrainingOptions, run_options: RunOptions, launch: Launch | None = None
) -> Iterator[PreparedRun]:
    avoid_lost_threads(options.get("threads"))
    together.check_batch(launch, options.get("batch"))
    device = trusted_device(choose_device(run_options.device), run_options.device)
    precision = choose_precision(run_options.precision, device)
    base = None if run_options.init_from is None else open_checkpoint(find_checkpoint(run_options.init_from))
    architecture = None if base is None else from_dict(ModelConfig, base.config.get("model"), str(base.path))
    # Fail early: preparing the corpus may take minutes.
    check_texts(texts, base)
    validate(options, documents=texts.document_kind is not None, architecture=architecture)
    refuse_generations(options, starts_from_model=base is not None or bool(run_options.teachers))
    teacher = open_teacher(run_options.teachers, str(device), options.get("threads"))
    warn_of_high_rate(options.get("optimizer") or DEFAULT_OPTIMIZER, options.get("lr"))
    source = None if texts.demo or texts.corpus == ["-"] else open_text(texts, texts.corpus)
    run = RunFolder.claim(run_options.out, "demo" if texts.demo else source.name if source else "stdin")
    with run.lock():
        try:
            run.clear_beginning()
            try:
                documents, threads = document_options(texts, options), options.get("threads")
                corpus = _prepare(run.path, source, texts, documents, run_options.progress, threads)
                sync_folders([corpus.folder, *run.created])
            except OSError as error:
                where = error.filename or run.path
                raise InputOutputError(f"{where} could not be written ({error.strerror}); fix the disk") from None
            seconds = options.get("time")
            processes, local_processes = (1, 1) if launch is None else (launch.size, launch.local_size)
            speedometer = None
            if seconds is not None:
                speedometer = MachineSpeed(corpus, parse_duration(seconds), processes, local_processes)
            began = time.monotonic()
            if teacher is not None:
                seed = options.get("seed")
                prepare_soft_targets(
                    run.path,
                    corpus,
                    teacher,
                    TrainingConfig.seed if seed is None else seed,
                    _within(seconds, began, run_options.teacher_progress),
                )
            recipe = resolve(
                options,
                corpus.sizes["train"],
                corpus.sizes["valid"],
                corpus.tokenizer.vocabulary_size,
                device=str(device),
                precision=precision,
                speedometer=speedometer,
                architecture=architecture,
                processes=processes,
                has_teacher=teacher is not None,
            )
            group, begin = ALONE, None
            if launch is not None:
                if speedometer is not None:
                    begin = time.monotonic() - began, recipe.evaluation_seconds
                group = together.form_group(launch, run.path, recipe.training, model=recipe.model, begin=begin)
            trainer = Trainer(run.path, corpus, recipe.model, recipe.training, group=group)
            if base is not None:
                fresh = trainer.model.weights()
                trainer.model.load_weights(transfer_weights(read_model_parts(base), fresh, corpus.tokenizer))
            if speedometer is not None:
                trainer.begin(*(begin or (time.monotonic() - began, recipe.evaluation_seconds)))
            yield PreparedRun(trainer, recipe)
        finally:
            run.discard_without_steps()


def _within(time_limit: str | None, began: float, progress: ProgressCallback) -> ProgressCallback:
    """``progress``, which raises ``UsageError`` when a teacher has taken half of the time for the training."""
    if time_limit is None:
        return progress
    end = began + parse_duration(time_limit) / 2

    def check(ids: int) -> None:
        if time.monotonic() > end:
            raise UsageError("the teachers take more than half of --time to read the text; give a longer --time")
        progress(ids)

    return check


def _prepare(
    run: Path,
    source: TextSource | None,
    texts: TextOptions,
    documents: DocumentOptions | None,
    progress: ProgressCallback,
    threads: int | None,
) -> Corpus:
    folder = run / "corpus"
    folder.mkdir()
    spool = folder / "text"
    if texts.demo:
        with naming(spool):
            spool.write_text(demo_text(), encoding="utf-8", newline="")
        source = TextSource(["-"], [spool], name="demo")
    elif source is None:
        source = open_text(texts, ["-"], spool)
    named = {"valid": texts.valid, "test": texts.test}
    others = {name: open_text(texts, [path]) for name, path in named.items() if path is not None}
    shares = parse_split(texts.split or DEFAULT_SPLIT)
    corpus = prepare(folder, source, texts.tokenizer, shares, others, progress, documents, threads)
    spool.unlink(missing_ok=True)
    characters = corpus.sizes["train"].characters
    if characters < MIN_CHARACTERS:
        raise DataError(
            f"the training part of the text has only {characters} characters; use a text of at least {MIN_CHARACTERS}, "
            "preferably several hundred thousand"
        )
    log_warnings(corpus)
    return corpus


@contextlib.contextmanager
def resumed_run(run: Path | None, options: TrainingOptions, device: str | None = None) -> Iterator[PreparedRun]:
    """Open a run (by default the newest) at its latest checkpoint and hold it, locked and ready to continue.

    Of several processes, the first one chooses the checkpoint, and the others join it.
    """
    launch = launched()
    with together.taking_part(launch):
        if launch is not None and not launch.is_first:
            yield _joined_run(launch)
            return
        with _resumed_run(run, options, device, launch) as prepared:
            yield prepared


@contextlib.contextmanager
def _resumed_run(
    run: Path | None, options: TrainingOptions, device: str | None = None, launch: Launch | None = None
) -> Iterator[PreparedRun]:
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
        config = from_dict(TrainingConfig, checkpoint.config.get("training"), str(checkpoint.path))
        config = changed(config, options, checkpoint)
        config = on_device(config, resumed_device(config.device, device))
        corpus = open_corpus(run / "corpus")
        check_corpus(run, corpus, checkpoint)
        config = with_limit(config, corpus)
        together.check_batch(launch, config.batch)
        group = ALONE
        if launch is not None:
            extended = is_extended(options)
            group = together.form_group(launch, run, config, step=checkpoint.step, is_extended=extended)
        trainer = Trainer.resume(run, corpus, checkpoint, config, group=group)
        yield PreparedRun(trainer, None, _has_finished(trainer, checkpoint, is_extended(options)))


def _joined_run(launch: Launch) -> PreparedRun:
    trainer, checkpoint, extended = together.join(launch)
    return PreparedRun(trainer, None, checkpoint is not None and _has_finished(trainer, checkpoint, extended))


def _has_finished(trainer: Trainer, checkpoint: Checkpoint, extended: bool) -> bool:
    progress = trainer.budget_progress()
    return checkpoint.is_finished and (not extended or (progress is not None and progress >= 1.0))
