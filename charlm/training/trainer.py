"""The training loop: truncated backpropagation through time over parallel streams, as a sequence of events.

``Trainer.events()`` trains and yields what happens: a step, an evaluation, a save. The caller displays it; the trainer
prints nothing. Everything that changes is in ``Trainer.state``, which is saved with every checkpoint and restored by
``Trainer.resume``, so that a resumed run ends with the weights of an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import torch

from charlm.checkpoint.model_parts import read_model_parts
from charlm.checkpoint.step import Checkpoint
from charlm.config import ModelConfig, TrainingConfig
from charlm.corpus.batches import make_batches
from charlm.corpus.prepared import Corpus
from charlm.corpus.soft_targets import SoftTargets
from charlm.errors import CharlmError, DivergedError, InputOutputError, MissingInputError, OutOfMemoryError
from charlm.evaluation.calibration import MAX_CALIBRATION_IDS
from charlm.evaluation.percentiles import MAX_IDS
from charlm.model.char_lm import CharLM
from charlm.system.devices import keep_freed_memory, make_reproducible, memory_bytes, memory_errors
from charlm.system.processes import ALONE, Group
from charlm.training.carried import CarriedRows
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
from charlm.training.memory import need_and_advice, refuse_too_large
from charlm.training.metrics_log import MetricsLog
from charlm.training.saving import NonFiniteError, Saver
from charlm.training.spending import Spending
from charlm.training.state import Progress, TrainingState
from charlm.training.teachers import check_soft_targets, open_soft_targets, remove_soft_targets, write_of_best
from charlm.training.threads import use_threads
from charlm.training.time_limit import TimeLimit
from charlm.training.update import UpdateResult, make_update
from charlm.training.validation import StoppedError, Validator

MAX_SKIPPED_IN_A_ROW = 20
ROLLBACK_FACTOR = 0.3
"""The learning rate is multiplied by this after a rollback to the last good checkpoint."""
_LOG_EVERY = 50


class Trainer:
    """Trains one run. ``run`` is its folder, which the caller has locked. ``clock`` counts seconds.

    The processes of a ``group`` train it together: each has a trainer, and each makes the same decisions, from losses
    that are summed and from the clock of the first process.
    """

    def __init__(
        self,
        run: Path,
        corpus: Corpus,
        model_config: ModelConfig,
        config: TrainingConfig,
        clock: Callable[[], float] = time.monotonic,
        group: Group = ALONE,
    ) -> None:
        self.run = run
        self.group = group
        clock = clock if group.size == 1 else group.clock
        self.corpus = corpus
        self.device = torch.device(config.device)
        ids, available = corpus.sizes["train"].ids, memory_bytes(self.device)
        refuse_too_large(model_config, config, ids, available)
        self._memory_advice = need_and_advice(model_config, config, ids, available)
        keep_freed_memory()
        make_reproducible(self.device)
        use_threads(config, group.size, group.local_size)
        with memory_errors(self._memory_advice):
            self.state = TrainingState.create(model_config, config, group.size)
        self.batches = make_batches(corpus, config.batch, config.bptt, config.seed, config.bptt_jitter)
        self.soft_targets = self._needed_soft_targets()
        self._carried = CarriedRows(self.state, self.batches, group)
        self.validator = Validator(corpus, config.validation_ids, self._memory_advice, group)
        self.saver = Saver(run, corpus, clock, group, self.soft_targets)
        self.metrics_log = MetricsLog(run, writes=group.is_first)
        self._update = make_update(self.state, group, self.soft_targets)
        size = corpus.sizes["train"]
        self._ids_per_character = (size.ids - size.prefix_ids) / max(1, size.predictions)
        self._limit = TimeLimit.of(config, model_config.parameter_count(), len(self.validator.text.ids))
        self._spending = Spending(config, self.batches, self._limit, self.state)
        self._asked_to_stop = self._stop = False
        self._clock = clock
        self._started = self._last_save = clock()
        self._queued_seconds = 0.0

    @classmethod
    def resume(
        cls,
        run: Path,
        corpus: Corpus,
        checkpoint: Checkpoint,
        config: TrainingConfig,
        clock: Callable[[], float] = time.monotonic,
        group: Group = ALONE,
    ) -> Trainer:
        """A trainer in the state of ``checkpoint``, opened with all its files. Raises ``DataError``."""
        # The weights are checked first, so that a forged config cannot make us allocate more memory than they take.
        trainer = cls(run, corpus, read_model_parts(checkpoint).config, config, clock, group)
        # A run that has finished needs its soft targets only where it goes on.
        with contextlib.suppress(*([MissingInputError] if checkpoint.is_finished else [])):
            trainer._restore(checkpoint)
            check_soft_targets(trainer.soft_targets, checkpoint)
        trainer._started = trainer._clock() - trainer.progress.seconds
        return trainer

    def begin(self, seconds: float, evaluation_seconds: float) -> None:
        """Count ``seconds`` before the first step as part of the run, and expect an evaluation to take so long."""
        progress = self.progress
        progress.seconds = progress.preparation_seconds = seconds
        progress.evaluation_seconds = evaluation_seconds

    @property
    def config(self) -> TrainingConfig:
        """The settings of the training."""
        return self.state.config

    @property
    def model(self) -> CharLM:
        """The model being trained, with its last weights."""
        return self.state.model

    @property
    def progress(self) -> Progress:
        """How far training has come."""
        return self.state.progress

    @property
    def seconds(self) -> float:
        """Time spent on this run, evaluations and earlier sessions included, until the steps begun so far are done."""
        return self._clock() - self._started + self._queued_seconds

    def stop(self) -> None:
        """Ask the loop to save and end as soon as possible, on all processes."""
        self._asked_to_stop = True
        if self.group.size == 1:
            self._stop = True

    def _stop_requested(self) -> bool:
        return self._stop

    def _agree(self) -> None:
        """Let all processes have the same time, and know whether any of them is to stop."""
        self._stop = self.group.agree(self._asked_to_stop)

    # ------------------------------------------------------------------------------------------------ loop

    def events(self) -> Iterator[Event]:
        """Train until the budget is spent, the loss stops improving, or ``stop`` is called; save at the end.

        Raises ``DivergedError``, ``OutOfMemoryError`` or ``InputOutputError``, after saving where that is possible.
        """
        if self.soft_targets is None and self._needed_soft_targets():  # a finished run that goes on may have lost them
            self._after_restoring()
        self._agree()
        self._copy_weights()
        self._started = self._clock() - self.progress.seconds
        self._last_save = self._clock()
        self.metrics_log.forget_after(self.progress.step, self.progress.evaluated_step)
        try:
            while (reason := (yield from self._train_or_roll_back())) is None:
                pass  # rolled back; train again
        except StoppedError:
            reason = "interrupted"
        except OutOfMemoryError:
            if self.progress.step > (self.progress.saved_step or 0):
                with contextlib.suppress(NonFiniteError):
                    yield self._save(must=True)
            raise
        if self.progress.saved_step != self.progress.step or reason != "interrupted":
            try:
                yield self._save(finished=reason != "interrupted", must=True)
            except NonFiniteError as error:
                raise DivergedError(f"{error}; {self.saver.advice(self.config.lr)}") from None
        if reason != "interrupted" and self.group.is_first:
            yield from self._save_measurements()
        yield Finished(self.progress.step, self.seconds, reason, self.progress.best_step, self.progress.best)

    def _copy_weights(self) -> None:
        """Give the other processes the weights of the first one, which may come from another run."""
        if self.group.size == 1 or self.progress.step:
            return
        with torch.no_grad():
            for weight in self.model.parameters():
                copied = weight.clone() if self.group.is_first else torch.zeros_like(weight)
                self.group.add(copied)
                weight.copy_(copied)

    def _train_or_roll_back(self) -> Generator[Event, None, str | None]:
        """Train to the end and return the reason why it ended; None after a rollback to an earlier step."""
        try:
            return (yield from self._train())
        except NonFiniteError as error:
            yield self._roll_back(str(error))
            return None

    def _train(self) -> Generator[Event, None, str]:
        while True:
            if self._evaluation_is_due():
                yield from self._evaluate_and_save()
            if self._stop:
                return "interrupted"
            budget_spent = self._spending.is_complete(self.seconds)
            if not budget_spent and self._generation_ends():
                yield from self._next_generation()
                continue
            if budget_spent or self._stops_early():
                if self.progress.evaluated_step != self.progress.step:
                    yield self._evaluate()
                return "budget" if budget_spent else "early stop"
            yield from self._steps()
            if self._save_is_due():
                yield self._save()

    def _evaluate_and_save(self) -> Iterator[Event]:
        """Evaluate, and save the best step so far; without validation text, every good one."""
        evaluated = self._evaluate()
        yield evaluated
        if evaluated.is_best or (evaluated.valid_nats_per_char is None and self.progress.is_good_evaluation):
            yield self._save()

    def _evaluation_is_due(self) -> bool:
        step = self.progress.step
        if step == 0 or step % self.config.eval_every or self.progress.evaluated_step == step:
            return False
        return self._limit is None or self._limit.allows_evaluation(self.seconds, self.progress)

    def _stops_early(self) -> bool:
        return self.config.steps is None and self.config.epochs is None and self.state.schedule.exhausted

    def _save_is_due(self) -> bool:
        if self.config.save_every_unit == "steps":
            return self.progress.step % int(self.config.save_every) == 0
        return self._clock() - self._last_save >= self.config.save_every

    def budget_progress(self) -> float | None:
        """The share of the budget that is spent, 0 to 1; None without a budget."""
        return self._spending.share(self.seconds)

    # ------------------------------------------------------------------------------------------------ generations

    def _generation_ends(self) -> bool:
        """Whether this generation is complete, or no longer improves, and another one follows."""
        progress = self.progress
        follows = progress.generation + 1 < self.config.generations and progress.step > progress.generation_step
        return follows and (self._stops_early() or self._spending.generation_is_complete(self.seconds))

    def _next_generation(self) -> Iterator[Event]:
        """Save the model, and go on with a new one that learns from what the best one predicts."""
        progress = self.progress
        if progress.evaluated_step != progress.step:
            yield from self._evaluate_and_save()
        if progress.saved_step != progress.step:
            yield self._save()
        if self._stop:
            return
        yield GenerationEnded(progress.step, progress.best_step or progress.step)
        teacher_step = self.group.on_first(self._write_soft_targets)
        self._agree()
        if not teacher_step:  # stopped, or no time is left
            return
        self.state.begin_generation(self.batches.carried_rows(progress.cursor), self.seconds)
        self._after_restoring()
        yield GenerationBegan(progress.step, progress.generation, int(teacher_step))

    def _write_soft_targets(self) -> str:
        """Let the best model read the training text for the next one; its step, or "" if a stop or the limit came."""
        try:
            return str(write_of_best(self.run, self.corpus, self.progress.generation + 1, self.config, self._check))
        except StoppedError:
            return ""

    def _check(self, ids: int) -> None:
        """Called while the teacher reads the text."""
        if self._asked_to_stop or self._stop or (self._limit is not None and self._spending.is_complete(self.seconds)):
            raise StoppedError

    def _remove_soft_targets(self) -> str:
        """Delete those that neither the latest step nor the best one needs."""
        remove_soft_targets(self.run, {self.progress.generation, self.progress.best_generation})
        return ""

    # ------------------------------------------------------------------------------------------------ step

    def _steps(self) -> Iterator[Stepped]:
        """Take a step; on a GPU several, up to where something else is due, and read their results together."""
        began = self._clock()
        steps = [self._begin_step()]
        while len(steps) < self._update.queue_length and not self._must_read_results():
            steps.append(self._begin_step())
            if self._limit is not None:
                self._queued_seconds = max(0.0, len(steps) * self._limit.step_seconds - (self._clock() - began))
        with memory_errors(self._memory_advice):
            results = self._update.results()
        self._queued_seconds = 0.0
        self._agree()
        if self._limit is not None:
            self._limit.note_step((self._clock() - began) / len(steps))
        yield from [self._end_step(step, result) for step, result in zip(steps, results, strict=True)]
        if self.progress.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise NonFiniteError(f"the loss or its gradient was not finite for {MAX_SKIPPED_IN_A_ROW} steps in a row")

    def _must_read_results(self) -> bool:
        """Whether what follows the last step may be something other than another step."""
        due = self._evaluation_is_due() or self._save_is_due() or self._generation_ends()
        return self._stop or due or self._spending.is_complete(self.seconds)

    def _begin_step(self) -> Stepped:
        """Queue the next update. What it returns lacks the update's result."""
        progress, config = self.progress, self.config
        chunk = self.batches.chunk(progress.cursor)
        self._carried.prepare(chunk)
        factor = self.state.schedule.factor(
            progress.step - progress.generation_step,
            self._spending.share_of_generation(self.seconds),
            self._spending.share_of_generation_after_step(self.seconds),
        )
        lr = progress.rate = config.lr * (factor * progress.rate_factor)
        with memory_errors(self._memory_advice):
            state = self._update.apply(chunk, self.state.carried, lr)
        self.state.average.update(self._update.skipped)
        progress.begin_step(chunk.predictions, self.batches.next_cursor(progress.cursor))
        self._carried.keep(state)
        return Stepped(
            step=progress.step,
            nats_per_char=math.nan,
            grad_norm=math.nan,
            lr=lr,
            skipped=False,
            characters=int(chunk.predictions / self._ids_per_character),
            budget_spent=self.budget_progress(),
        )

    def _end_step(self, step: Stepped, result: UpdateResult) -> Stepped:
        """Record the result of a step and return it with the step."""
        loss, progress = result.loss * self._ids_per_character, self.progress
        progress.note_result(loss, result.grad_norm, result.grad_norm > self.config.clip, not result.is_finite)
        if step.step % _LOG_EVERY == 0:
            means = {"train_nats_per_char": progress.mean_loss(), "grad_norm": progress.mean_grad_norm()}
            self.metrics_log.write("train", step.step, self.seconds, **means, rate=step.lr)
        return dataclasses.replace(step, nats_per_char=loss, grad_norm=result.grad_norm, skipped=not result.is_finite)

    # ------------------------------------------------------------------------------------------------ evaluation

    def _evaluate(self) -> Evaluated:
        began = self._clock()
        progress = self.progress
        measured = self.validator.evaluate(self.state, self._stop_requested)
        self._agree()
        self.metrics_log.write(
            "valid",
            progress.step,
            self.seconds,
            train_nats_per_char=measured.train_loss,
            valid_nats_per_char=measured.valid_loss,
            rate=progress.rate,
            grad_norm=measured.grad_norm,
            clipped=measured.clipped_share,
            skipped_steps=progress.skipped_steps,
        )
        # Where the loss was not the lowest, the precisions were not compared; the next time they may be.
        seconds, before = self._clock() - began, progress.evaluation_seconds
        progress.evaluation_seconds = seconds if measured.is_best else max(seconds, before)
        return Evaluated(
            step=progress.step,
            epoch=max(0, math.ceil(self.batches.epochs(progress.cursor)) - 1),
            seconds=self.seconds,
            train_nats_per_char=measured.train_loss,
            valid_nats_per_char=measured.valid_loss,
            is_best=measured.is_best,
            grad_norm=measured.grad_norm,
            clipped_share=measured.clipped_share,
            lr=progress.rate,
            sample=measured.sample,
        )

    # ------------------------------------------------------------------------------------------------ saving

    def _save(self, finished: bool = False, must: bool = False) -> Event:
        self.progress.seconds = self.seconds
        began = self._last_save = self._clock()
        with self._carried.of_all():
            saved = self.saver.save(self.state, finished=finished, must=must)
        if self.config.generations > 1 and isinstance(saved, Saved):
            self.group.on_first(self._remove_soft_targets)
        self._agree()
        if self._limit is not None:
            self._limit.save_seconds = self._clock() - began
        return saved

    def _save_measurements(self) -> Iterator[Event]:
        try:
            with memory_errors(self._memory_advice):
                temperature = self.saver.save_measurements(
                    self.device,
                    self._gradient_seconds(),
                    self._stop_requested,
                    self._calibration_ids(),
                    self._percentile_ids(),
                )
            if temperature is not None:
                yield Calibrated(self.progress.step, temperature)
        except CharlmError as error:
            lost = "the model is not calibrated, and dynamic evaluation and percentiles will have to read the corpus"
            reason = f"{lost} ({str(error).partition(';')[0]})"
            yield SaveFailed(self.progress.step, reason, will_retry=False)

    def _gradient_seconds(self) -> float:
        """How long computing the size of the gradients may take."""
        return math.inf if self._limit is None else self._limit.left_for_gradients(self.seconds)

    def _calibration_ids(self) -> int:
        """From how many ids the temperature is fitted."""
        return MAX_CALIBRATION_IDS if self._limit is None else self._limit.calibration_ids(self.progress)

    def _percentile_ids(self) -> int:
        """From how many ids the percentiles of held-out documents are measured."""
        return MAX_IDS if self._limit is None else self._limit.percentile_ids(self.seconds, self.progress)

    def _roll_back(self, reason: str) -> RolledBack:
        """Continue from an earlier checkpoint at a lower learning rate; the second time, or without one, give up.

        Raises ``DivergedError``, after saving weights that are finite.
        """
        progress = self.progress
        if progress.rate_factor < 1.0 or self.saver.step_to_roll_back(self.state) is None:
            if self.state.weights_are_finite():
                progress.skipped_in_a_row = 0
                with contextlib.suppress(InputOutputError):
                    self._save(must=True)
            raise DivergedError(f"{reason}; {self.saver.advice(self.config.lr)}")
        diverged_at = progress.step
        self.saver.roll_back(self.state, self.batches, reason)
        self._after_restoring()
        self.progress.rate_factor = ROLLBACK_FACTOR
        self.metrics_log.forget_after(self.progress.step, self.progress.evaluated_step)
        return RolledBack(self.progress.step, ROLLBACK_FACTOR, f"{reason}, up to step {diverged_at}")

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.saver.restore(self.state, checkpoint, self.batches)
        self._after_restoring()

    def _needed_soft_targets(self) -> SoftTargets | None:
        return open_soft_targets(self.run, self.corpus, self.config, self.progress.generation)

    def _after_restoring(self) -> None:
        self._carried.take_own()
        self.saver.soft_targets = self.soft_targets = self._needed_soft_targets()
        # An update may hold tensors that restoring has replaced.
        self._update = make_update(self.state, self.group, self.soft_targets)
