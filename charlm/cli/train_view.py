"""What a person sees of a training: who learns what, a bar, a line and a sample at each evaluation, how it ended."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import Any

from charlm.cli.output import bits, duration, progress_bar, say, write_json
from charlm.corpus.prepared import Corpus
from charlm.errors import InterruptedBySignal
from charlm.model.lstm import recurrence_name
from charlm.runs import Prepared
from charlm.system.signals import StopSignals
from charlm.training.events import Evaluated, Event, Finished, RolledBack, Saved, SaveFailed, Stepped
from charlm.training.trainer import Trainer

_PLAIN_LINE_EVERY = 15.0


class Preparing:
    """Says now and then how far the preparation of a corpus is; called with the characters that were read since."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._seen = 0
        self._began = self._said = math.inf

    def __call__(self, characters: int) -> None:
        now = time.monotonic()
        self._began, self._said = min(self._began, now), min(self._said, now)
        self._seen += characters
        if not self._quiet and now - self._said > 2.0:
            self._said = now
            millions = self._seen / 3e6  # the text is read three times
            say(f"preparing: {millions:.0f} million characters, {millions / (now - self._began):.0f} million/s")


def run_training(prepared: Prepared, signals: StopSignals, quiet: bool, as_json: bool) -> None:
    """Train to the end, drawing as it goes; raises ``InterruptedBySignal`` after saving if a signal came."""
    trainer = prepared.trainer
    if prepared.finished:
        step, spent = trainer.progress.step, duration(trainer.progress.seconds)
        say(
            f"{trainer.run} is finished already, at step {step} after {spent}; "
            "to extend it give --steps, --epochs or --time beyond that"
        )
        _report(trainer, "finished before", as_json)
        return
    if not quiet:
        _introduce(prepared)
    total = 1.0 if trainer.budget_progress() is not None else None
    with signals.deferred(trainer.stop), progress_bar(_bar_format(trainer), total, quiet) as bar:
        view = _View(trainer, bar, quiet)
        for event in trainer.events():
            view.show(event)
    if view.reason == "interrupted" and signals.received is not None:
        raise InterruptedBySignal(
            f"stopped and saved at step {trainer.progress.step}; go on with: charlm train --resume --out {trainer.run}",
            signals.received,
        )
    if not quiet:
        _conclude(trainer, view.reason)
    _report(trainer, view.reason, as_json)


def _introduce(prepared: Prepared) -> None:
    trainer, corpus = prepared.trainer, prepared.trainer.corpus
    sizes, model = corpus.sizes, trainer.model.config
    parts = ", ".join(f"{sizes[name].characters:,} {word}" for name, word in _SPLIT_WORDS if sizes[name].characters)
    distinct = int(corpus.description["distinct_characters"])
    say(f"{corpus.name}: {parts} characters; {distinct} distinct, {model.vocabulary_size} ids")
    if corpus.tokenizer.document_kind:
        _introduce_documents(corpus)
    narrowed = f", embedding {model.embedding}" if model.embedding != model.hidden else ""
    say(
        f"model: {model.layers} x {model.hidden}{narrowed}, {model.parameter_count():,} parameters "
        f"(tying the decoder to the embedding saves {model.saved_by_tying():,}); {_machinery(trainer)}"
    )
    if prepared.recipe is not None and prepared.recipe.reasons:
        say(f"chosen: {'; '.join(prepared.recipe.reasons)}; {_batch(trainer)}")
    uniform, unigram = (
        math.log(distinct + (corpus.tokenizer.document_kind is not None)),
        float(corpus.description["unigram_nats"]),
    )
    say(
        f"to beat: {uniform:.3f} nats/char ({bits(uniform):.2f} bits) knowing only the alphabet, "
        f"{unigram:.3f} ({bits(unigram):.2f} bits) knowing how often each character occurs"
    )
    if sizes["valid"].ids > len(trainer.steering.ids):
        say(f"evaluations during training read the first {len(trainer.steering.ids):,} validation characters")
    verb = "going on from" if trainer.progress.step else "run:"
    say(f"{verb} {trainer.run}" + (f" at step {trainer.progress.step}" if trainer.progress.step else ""))


def _introduce_documents(corpus: Corpus) -> None:
    sizes = corpus.sizes
    parts = ", ".join(f"{sizes[name].documents:,} {word}" for name, word in _SPLIT_WORDS if sizes[name].documents)
    say(f"documents ({corpus.tokenizer.document_kind}): {parts}; their end is one more symbol to predict")
    for name, word in _SPLIT_WORDS[1:]:
        if repeated := int(corpus.description["splits"][name].get("repeated", 0)):
            say(
                f"{repeated:,} of the {sizes[name].documents:,} {word} documents stand in the training part, too, and "
                "flatter the figures; --distinct takes each document once"
            )


def _batch(trainer: Trainer) -> str:
    config = trainer.config
    if trainer.corpus.tokenizer.document_kind:
        return f"up to {config.batch * config.bptt:,} characters a step, documents of like length side by side"
    return f"{config.batch} streams, chunks of {config.bptt}"


def _machinery(trainer: Trainer) -> str:
    return f"{trainer.config.device}, {recurrence_name(trainer.device)}, {trainer.config.precision}"


_SPLIT_WORDS = (("train", "training"), ("valid", "validation"), ("test", "test"))


def _bar_format(trainer: Trainer) -> str:
    return "{percentage:3.0f}%|{bar}|{desc}" if trainer.budget_progress() is not None else "{elapsed}{desc}"


class _View:
    """Draws events: on the bar if there is one, else as a plain line now and then."""

    def __init__(self, trainer: Trainer, bar: Any, quiet: bool) -> None:
        self.reason = ""
        self._bar = bar
        self._quiet = quiet
        self._first = trainer.progress.step == 0
        self._began = self._last_line = time.monotonic()
        self._characters = 0
        self._smooth: float | None = None
        self._start_progress = trainer.budget_progress() or 0.0

    def show(self, event: Event) -> None:
        if isinstance(event, Finished):
            self.reason = event.reason
        elif isinstance(event, SaveFailed):
            say(f"charlm: warning: {event.reason}; training goes on and will try again")
        elif isinstance(event, RolledBack):
            say(f"charlm: warning: {event.reason}; going on from step {event.step} at {event.factor:g} times the rate")
        elif isinstance(event, Stepped):
            self._step(event)
        elif isinstance(event, Evaluated) and not self._quiet:
            self._evaluation(event)
        elif isinstance(event, Saved):
            pass  # a save that works is nothing to talk about

    def _step(self, event: Stepped) -> None:
        self._characters += event.characters
        if event.skipped:
            say(f"step {event.step}: the loss or its gradient was no finite number; this step changed nothing")
            return
        if self._first and not self._quiet:
            self._first = False
            say(f"first loss: {event.nats_per_char:.3f} nats/char ({bits(event.nats_per_char):.2f} bits)")
        weight = 0.95 if self._smooth is not None else 0.0
        self._smooth = weight * (self._smooth or 0.0) + (1 - weight) * event.nats_per_char
        now = time.monotonic()
        if self._bar is not None:
            with suppress(OSError, ValueError):  # the terminal may be gone; training goes on
                self._bar.set_description_str(" " + self._status(event, now), refresh=False)
                self._bar.update(max(0.0, min(event.progress, 1.0) - self._bar.n) if event.progress is not None else 1)
        elif not self._quiet and now - self._last_line >= _PLAIN_LINE_EVERY:
            self._last_line = now
            say(self._status(event, now))

    def _status(self, event: Stepped, now: float) -> str:
        elapsed = now - self._began
        status = (
            f"step {event.step} | {bits(self._smooth or 0.0):.3f} bits/char | rate {event.rate:.1e} | "
            f"{self._characters / max(elapsed, 1e-9) / 1000:.1f}k chars/s"
        )
        done = (event.progress or 0.0) - self._start_progress
        if event.progress is not None and done > 0:
            status += f" | {duration(elapsed / done * max(0.0, 1 - event.progress))} left"
        return status

    def _evaluation(self, event: Evaluated) -> None:
        parts = [f"step {event.step}, epoch {event.epoch + 1}, {duration(event.seconds)}:"]
        if event.train_nats_per_char is not None:
            parts.append(f"train {event.train_nats_per_char:.4f},")
        if event.valid_nats_per_char is not None:
            valid = event.valid_nats_per_char
            parts.append(
                f"validation {valid:.4f} nats/char ({bits(valid):.3f} bits){', best' if event.is_best else ''};"
            )
        parts.append(f"rate {event.rate:.1e}, {event.clipped_share:.0%} of steps clipped")
        say(" ".join(parts))
        say("    " + event.sample.strip().replace("\n", "\n    "))


def _conclude(trainer: Trainer, reason: str) -> None:
    progress = trainer.progress
    why = "nothing improved any more" if reason == "early stop" else "the budget is spent"
    say(f"done after {progress.step} steps in {duration(trainer.seconds)}: {why}")
    if progress.best is not None:
        say(f"best: {progress.best:.4f} nats/char ({bits(progress.best):.3f} bits) at step {progress.best_step}")
    say(f'saved in {trainer.run}; now: charlm generate --checkpoint {trainer.run} --prompt "..."')


def _report(trainer: Trainer, reason: str, as_json: bool) -> None:
    if not as_json:
        return
    progress = trainer.progress
    write_json(
        {
            "run": str(trainer.run),
            "step": progress.step,
            "seconds": round(progress.seconds, 2),
            "reason": reason,
            "best_step": progress.best_step,
            "best_nats_per_char": progress.best,
            "best_bits_per_char": None if progress.best is None else bits(progress.best),
            "parameters": trainer.model.config.parameter_count(),
        }
    )
