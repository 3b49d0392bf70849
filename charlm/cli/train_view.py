"""What ``charlm train`` shows: corpus and model, a progress bar, a line and a sample per evaluation, the result."""

from __future__ import annotations

import dataclasses
import math
import shlex
import signal
import sys
import time
from contextlib import suppress
from typing import Any

from charlm.cli.advice import shell_command
from charlm.cli.output import bits, indented, progress_bar, say, terminal_width, write_json
from charlm.config import format_duration
from charlm.corpus.line_hint import looks_like_lines
from charlm.corpus.prepared import Corpus
from charlm.errors import InterruptedBySignal
from charlm.model.lstm import recurrence_name
from charlm.runs import PreparedRun
from charlm.system.signals import StopSignals
from charlm.training.events import (
    Calibrated,
    Evaluated,
    Event,
    Finished,
    GenerationBegan,
    GenerationEnded,
    RolledBack,
    Saved,
    SaveFailed,
    Stepped,
)
from charlm.training.observers import ObserverOptions, observing
from charlm.training.trainer import Trainer

_SECONDS_BETWEEN_LINES = 15.0
_MIN_BAR_WIDTH = 17
"""Columns for the percentage, the bar and what separates them."""
_CORPUS_PASSES = 3
"""Preparation reads the text this many times."""


class PreparationProgress:
    """Reports the preparation of a corpus every two seconds; called with the number of characters just read."""

    _what, _passes = "preparing", _CORPUS_PASSES

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._read = 0
        self._start = self._last_line = math.inf

    def __call__(self, characters: int) -> None:
        now = time.monotonic()
        self._start, self._last_line = min(self._start, now), min(self._last_line, now)
        self._read += characters
        if not self._quiet and now - self._last_line > 2.0:
            self._last_line = now
            read = self._read / self._passes
            say(f"{self._what}: {_rounded(read)} characters, {_rounded(read / (now - self._start))} per second")


class TeacherProgress(PreparationProgress):
    """The same while a teacher reads the training text."""

    _what, _passes = "teacher", 1


def _rounded(number: float) -> str:
    return f"{number / 1e6:.1f} million" if number >= 1e6 else f"{number:,.0f}"


def run_training(
    prepared: PreparedRun, signals: StopSignals, observers: ObserverOptions, quiet: bool, as_json: bool
) -> None:
    """Train to the end and show the progress. Raises ``InterruptedBySignal``, after saving, if a signal came."""
    trainer = prepared.trainer
    if not trainer.group.is_first:
        _follow(prepared, signals)
        return
    if prepared.finished:
        step, spent = trainer.progress.step, format_duration(trainer.progress.seconds)
        say(
            f"{trainer.run} has already finished, at step {step} after {spent}; extend it with a higher --steps, "
            "--epochs or --time"
        )
        _report(trainer, "finished before", as_json)
        return
    if not quiet:
        _show_setup(prepared)
    total = 1.0 if trainer.budget_progress() is not None else None

    postponed: list[str] = []

    def stop() -> None:
        trainer.stop()
        if not quiet and sys.stderr.isatty():
            words = "stopping after this step and saving; a second Ctrl-C quits without saving"
            try:
                say(words)
            except RuntimeError:  # the signal has interrupted another output
                postponed.append(words)

    with (
        observing(trainer.run, trainer.progress.step, observers) as observe,
        signals.deferred(stop),
        progress_bar(_bar_format(trainer), total, quiet) as bar,
    ):
        view = _View(trainer, bar, quiet)
        for event in trainer.events():
            while postponed:
                say(postponed.pop())
            observe(event)
            view.show(event)
    if view.reason == "interrupted":
        _raise_interrupted(trainer, signals)
    _show_result(trainer, view.reason, view.temperature)
    _report(trainer, view.reason, as_json)


def _follow(prepared: PreparedRun, signals: StopSignals) -> None:
    """Train with the process that shows and saves everything."""
    if prepared.finished:
        return
    reason = None
    with signals.deferred(prepared.trainer.stop):
        for event in prepared.trainer.events():
            reason = event.reason if isinstance(event, Finished) else None
    if reason == "interrupted":
        _raise_interrupted(prepared.trainer, signals)


def _raise_interrupted(trainer: Trainer, signals: StopSignals) -> None:
    # Another process of the group may have received the signal.
    received = signal.SIGTERM if signals.received is None else signals.received
    group = trainer.group
    processes = None if group.size == 1 else group.local_size
    command = shell_command("train", "--resume", "--out", trainer.run, processes=processes)
    elsewhere = ", on every machine," * (group.size > group.local_size)
    raise InterruptedBySignal(
        f"stopped and saved at step {trainer.progress.step}; continue{elsewhere} with: {command}", received
    )


def _show_setup(prepared: PreparedRun) -> None:
    trainer, corpus = prepared.trainer, prepared.trainer.corpus
    sizes, model = corpus.sizes, trainer.model.config
    parts = ", ".join(f"{sizes[name].characters:,} {word}" for name, word in _SPLIT_WORDS if sizes[name].characters)
    distinct = int(corpus.description["distinct_characters"])
    unknown = " (256 for unknown characters)" if corpus.tokenizer.has_byte_fallback else ""
    say(
        f"{corpus.name}: {parts} characters; {distinct} distinct characters, "
        f"vocabulary of {model.vocabulary_size} ids{unknown}"
    )
    if corpus.tokenizer.normalization != "none":
        changed, form = int(corpus.description.get("normalized", 0)), corpus.tokenizer.normalization.upper()
        say(f"normalized ({form}): {changed:,} characters changed; prompts and scored texts will be, too")
    if corpus.tokenizer.document_kind:
        _show_documents(corpus)
    elif prepared.recipe is not None and looks_like_lines(corpus):
        say("the lines look like texts of their own; if they are, such as names or log lines, add --documents lines")
    narrowed = f", embedding {model.embedding}" if model.embedding != model.hidden else ""
    say(
        f"model: {model.layers} x {model.hidden}{narrowed}, {model.parameter_count():,} parameters "
        f"(tying the decoder to the embedding saves {model.saved_by_tying():,}); {_hardware(trainer)}"
    )
    if prepared.recipe is not None and prepared.recipe.reasons:
        say(f"chosen: {'; '.join(prepared.recipe.reasons)}; {_batch(trainer)}")
    if (soft_targets := trainer.soft_targets) is not None:
        names = ", ".join(soft_targets.teachers)
        say(f"learns from {names}: the {soft_targets.width} most likely characters at each position")
    uniform, unigram = (
        math.log(distinct + (corpus.tokenizer.document_kind is not None)),
        float(corpus.description["unigram_nats"]),
    )
    say(
        f"baselines: {uniform:.3f} nats/char ({bits(uniform):.2f} bits/char) with all characters equally "
        f"likely, {unigram:.3f} nats/char ({bits(unigram):.2f} bits/char) with their frequencies"
    )
    if sizes["valid"].ids > len(trainer.validator.text.ids):
        say(f"evaluations during training read the first {len(trainer.validator.text.ids):,} validation characters")
    verb = "continuing" if trainer.progress.step else "run:"
    say(f"{verb} {trainer.run}" + (f" at step {trainer.progress.step}" if trainer.progress.step else ""))


def _show_documents(corpus: Corpus) -> None:
    sizes = corpus.sizes
    parts = ", ".join(f"{sizes[name].documents:,} {word}" for name, word in _SPLIT_WORDS if sizes[name].documents)
    kind, start, table = corpus.tokenizer.document_kind, corpus.tokenizer.document_start, corpus.table
    if start is not None:
        kind = f"each from a line with {shlex.quote(start)} on"
    elif table is not None:
        kind = f"rows, {table.columns()}"
    say(f"documents ({kind}): {parts}; the end of a document is predicted like a character")
    for name, word in _SPLIT_WORDS[1:]:
        if repeated := int(corpus.description["splits"][name].get("repeated", 0)):
            say(
                f"{repeated:,} of the {sizes[name].documents:,} {word} documents also occur in the training split, so "
                f"the {word} loss is too optimistic; --distinct drops duplicate documents"
            )


def _batch(trainer: Trainer) -> str:
    config = trainer.config
    if trainer.corpus.tokenizer.document_kind:
        return f"up to {config.batch * config.bptt:,} characters per step, documents of similar length together"
    return f"{config.batch} stream{'s' * (config.batch != 1)}, chunks of {config.bptt}"


def _hardware(trainer: Trainer) -> str:
    processes = "" if trainer.group.size == 1 else f", {trainer.group.size} processes"
    return f"{trainer.config.device}, {recurrence_name(trainer.device)}, {trainer.config.precision}{processes}"


_SPLIT_WORDS = (("train", "training"), ("valid", "validation"), ("test", "test"))


def _bar_format(trainer: Trainer) -> str:
    return "{percentage:3.0f}%|{bar}|{desc}" if trainer.budget_progress() is not None else "{elapsed}{desc}"


class _View:
    """Shows events: on the progress bar if there is one, otherwise as a line every 15 seconds."""

    def __init__(self, trainer: Trainer, bar: Any, quiet: bool) -> None:
        self.reason = ""
        self.temperature: float | None = None
        self._bar = bar
        self._quiet = quiet
        self._first = trainer.progress.step == 0
        self._vocabulary_size = trainer.model.config.vocabulary_size
        self._start = self._last_line = time.monotonic()
        self._characters = 0
        self._smoothed: float | None = None
        self._generations = trainer.config.generations
        self._start_progress = trainer.budget_progress() or 0.0

    def show(self, event: Event) -> None:
        if isinstance(event, Finished):
            self.reason = event.reason
        elif isinstance(event, SaveFailed):
            say(f"charlm: warning: {event.reason}{'; training continues and will try again' * event.will_retry}")
        elif isinstance(event, RolledBack):
            say(
                f"charlm: warning: {event.reason}; continuing from step {event.step} at {event.factor:g} times the "
                "learning rate"
            )
        elif isinstance(event, GenerationEnded) and not self._quiet:
            say(f"the model of step {event.teacher_step} reads the training text; the next one learns what it predicts")
        elif isinstance(event, GenerationBegan) and not self._quiet:
            say(f"model {event.generation + 1} of {self._generations} begins")
        elif isinstance(event, Stepped):
            self._step(event)
        elif isinstance(event, Evaluated) and not self._quiet:
            self._evaluation(event)
        elif isinstance(event, Calibrated):
            self.temperature = event.temperature
        elif isinstance(event, Saved):
            pass  # only a failure is shown

    def _step(self, event: Stepped) -> None:
        self._characters += event.characters
        if event.skipped:
            say(f"step {event.step}: non-finite loss or gradient; the step was skipped")
            return
        if self._first and not self._quiet:
            self._first = False
            say(
                f"first loss: {event.nats_per_char:.3f} nats/char ({bits(event.nats_per_char):.2f} bits/char), before "
                f"the first update, over {self._vocabulary_size} ids"
            )
        weight = 0.95 if self._smoothed is not None else 0.0
        self._smoothed = weight * (self._smoothed or 0.0) + (1 - weight) * event.nats_per_char
        now = time.monotonic()
        if self._bar is not None:
            with suppress(OSError, ValueError):  # the terminal may be closed; training continues
                self._bar.set_description_str(self._description(event, now), refresh=False)
                spent = event.budget_spent
                self._bar.update(1 if spent is None else max(0.0, min(spent, 1.0) - self._bar.n))
        elif not self._quiet and now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            say(" | ".join(self._status(event, now)))

    def _description(self, event: Stepped, now: float) -> str:
        """The status beside the bar; where the terminal is narrow, without the rate, the speed and the loss."""
        parts = self._status(event, now)
        room = terminal_width() - _MIN_BAR_WIDTH
        while len(parts) > 2 and len(" | ".join(parts)) > room:
            del parts[2 if len(parts) > 3 else 1]
        return " " + " | ".join(parts)

    def _status(self, event: Stepped, now: float) -> list[str]:
        elapsed = now - self._start
        parts = [
            f"step {event.step}",
            f"loss {self._smoothed or 0.0:.3f} nats/char",
            f"lr {event.lr:.1e}",
            f"{self._characters / max(elapsed, 1e-9) / 1000:.1f}k chars/s",
        ]
        done = (event.budget_spent or 0.0) - self._start_progress
        if event.budget_spent is not None and done > 0:
            parts.append(f"{format_duration(elapsed / done * max(0.0, 1 - event.budget_spent))} left")
        return parts

    def _evaluation(self, event: Evaluated) -> None:
        parts = [f"step {event.step}, epoch {event.epoch + 1}, {format_duration(event.seconds)}:"]
        if event.train_nats_per_char is not None:
            parts.append(f"training loss {event.train_nats_per_char:.4f} nats/char (mean since the last evaluation),")
        if event.valid_nats_per_char is not None:
            valid = event.valid_nats_per_char
            parts.append(
                f"validation loss {valid:.4f} nats/char ({bits(valid):.3f} bits/char){', best so far' * event.is_best};"
            )
        parts.append(f"lr {event.lr:.1e}, {event.clipped_share:.0%} of steps clipped")
        say(" ".join(parts))
        say(indented(event.sample.strip()))


def _show_result(trainer: Trainer, reason: str, temperature: float | None) -> None:
    progress = trainer.progress
    why = "the validation loss stopped improving" if reason == "early stop" else "the limit was reached"
    say(f"done after {progress.step} steps in {format_duration(trainer.seconds)}: {why}")
    if progress.best is not None:
        say(
            f"best validation loss: {progress.best:.4f} nats/char ({bits(progress.best):.3f} bits/char) "
            f"at step {progress.best_step}"
        )
    if temperature is not None:
        say(f"calibrated: the logits are divided by {temperature:.2f}, which gives the lowest loss on validation text")
    table = trainer.corpus.table
    given = [] if table is None or table.given is None else ["--given", table.frequent()[0][0]]
    command = shell_command("generate", "--checkpoint", trainer.run, *given)
    example = '--prompt "..."' if trainer.corpus.tokenizer.document_kind is None else "--samples 10"
    say(f"saved in {trainer.run}; next: {command} {example}")


def _report(trainer: Trainer, reason: str, as_json: bool) -> None:
    if not as_json:
        return
    progress = trainer.progress
    write_json(
        {
            "run": str(trainer.run),
            "step": progress.step,
            "seconds": round(progress.seconds if reason == "finished before" else trainer.seconds, 2),
            "reason": reason,
            "best_step": progress.best_step,
            "best_nats_per_char": progress.best,
            "best_bits_per_char": None if progress.best is None else bits(progress.best),
            "parameters": trainer.model.config.parameter_count(),
            "model": dataclasses.asdict(trainer.model.config),
            "training": dataclasses.asdict(trainer.config),
        }
    )
