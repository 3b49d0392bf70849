"""The training loop: truncated backpropagation through time over parallel streams, as a sequence of events.

``Trainer.events()`` trains and yields what happens (a step, an evaluation, a save); whoever listens draws it. The
trainer itself draws and prints nothing. All that changes lives in a few named places, is saved with every
checkpoint, and is put back by ``Trainer.resume``, so that a resumed run ends with the weights of an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import torch

from charlm.checkpoint.model_card import update_card
from charlm.checkpoint.model_parts import read_model_parts
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.step import ALL_FILES, CONFIG, Checkpoint, open_checkpoint, save_step
from charlm.config import ModelConfig, TrainingConfig
from charlm.corpus.batches import IGNORE_INDEX, Chunk, Cursor, make_batches
from charlm.corpus.prepared import Corpus
from charlm.engine import create_engine
from charlm.engine.torch import TorchEngine
from charlm.errors import CharlmError, DivergedError, InputOutputError, OutOfMemoryError
from charlm.evaluation.dynamic import ids_of_gradients
from charlm.evaluation.measure import precision_costs
from charlm.model.char_lm import CharLM, activation_penalty, cross_entropy, detach
from charlm.system.cores import cores
from charlm.system.devices import autocast, keep_freed_memory, memory_bytes, memory_errors
from charlm.training.averaging import Average
from charlm.training.events import Evaluated, Event, Finished, RolledBack, Saved, SaveFailed, Stepped
from charlm.training.gradients import keep_gradients
from charlm.training.memory import need_and_advice, refuse_too_large
from charlm.training.metrics_log import Metrics
from charlm.training.optimizers import make_optimizer
from charlm.training.schedule import Schedule
from charlm.training.state import Progress, restore, snapshot
from charlm.training.validation import Steering, sample

MAX_SKIPPED_IN_A_ROW = 20
MAX_FAILED_SAVES = 3
ROLLBACK_FACTOR = 0.3
"""What the rate is multiplied by when a training that diverged goes on from its last good checkpoint."""
_LOG_EVERY = 50
_RESET_KEY = 0x5E7


class _Interrupted(Exception):
    """Stop was asked for in the middle of an evaluation."""


class _Diverged(Exception):
    """Losses, gradients or weights are no finite numbers any more; the text says which."""


class Trainer:
    """One run being trained. ``run`` is its folder, which the caller has locked."""

    def __init__(self, run: Path, corpus: Corpus, model_config: ModelConfig, config: TrainingConfig) -> None:
        self.run = run
        self.corpus = corpus
        self.config = config
        self.device = torch.device(config.device)
        ids, available = corpus.sizes["train"].ids, memory_bytes(self.device)
        refuse_too_large(model_config, config, ids, available)
        self._memory_advice = need_and_advice(model_config, config, ids, available)
        keep_freed_memory()
        # A run from a larger machine may ask for threads that would only wait for one another here.
        torch.set_num_threads(min(config.threads or torch.get_num_threads(), cores()))
        with memory_errors(self._memory_advice):
            self.model = CharLM(model_config, config.seed).to(self.device)
            self.optimizer = make_optimizer(self.model, config)
        self.average = Average(self.model, config)
        self.batches = make_batches(corpus, config.batch, config.bptt, config.seed, config.bptt_jitter)
        self.schedule = Schedule(config.schedule, config.warmup)
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.progress = Progress(*Cursor())
        self.state = self.model.initial_state(self.batches.carried_rows(self.progress.cursor))
        size = corpus.sizes["train"]
        self._ids_per_character = size.ids / max(1, size.predictions)
        self.steering = Steering(corpus)
        self.metrics = Metrics(run)
        self._stop = False
        self._started = time.monotonic()
        self._last_save = self._started
        self._failed_saves = 0
        self._best_on_disk: tuple[float | None, int | None] = (None, None)

    @classmethod
    def resume(cls, run: Path, corpus: Corpus, checkpoint: Checkpoint, config: TrainingConfig) -> Trainer:
        """A trainer in the state that ``checkpoint`` (with all its files) was saved in. Raises ``DataError``."""
        # First of all, so that no memory is asked for that the weights do not fill.
        parts = read_model_parts(checkpoint)
        trainer = cls(run, corpus, parts.config, config)
        restore(trainer, checkpoint, parts)
        trainer._started = time.monotonic() - trainer.progress.seconds
        trainer._best_on_disk = trainer.progress.best, trainer.progress.best_step
        return trainer

    def stop(self) -> None:
        """Ask the loop to save and finish at the next place where that is clean."""
        self._stop = True

    # ------------------------------------------------------------------------------------------------ the loop

    def events(self) -> Iterator[Event]:
        """Train until the budget is spent, nothing improves, or ``stop`` is called; saved at the end in each case.

        Raises ``DivergedError``, ``OutOfMemoryError`` or ``InputOutputError``; what was learnt is saved first where
        that is possible.
        """
        self._started = time.monotonic() - self.progress.seconds
        self._last_save = time.monotonic()
        self.metrics.forget_after(self.progress.step, self.progress.evaluated_step)
        try:
            while (reason := (yield from self._train())) is None:
                pass  # rolled back; once more
        except _Interrupted:
            reason = "interrupted"
        except OutOfMemoryError:
            if self.progress.step > (self.progress.saved_step or 0):
                yield from self._save(must=True)
            raise
        if self.progress.saved_step != self.progress.step or reason != "interrupted":
            try:
                yield from self._save(finished=reason != "interrupted", must=True)
            except _Diverged as error:
                raise DivergedError(f"{error}; {self._advice()}") from None
        if reason != "interrupted":
            yield from self._keep_gradients()
        yield Finished(self.progress.step, self.seconds, reason, self.progress.best_step, self.progress.best)

    def _train(self) -> Generator[Event, None, str | None]:
        """Train to the end, and say why it is one; None if training must begin again from an earlier step."""
        try:
            return (yield from self._train_on())
        except _Diverged as error:
            yield self._roll_back(str(error))
            return None

    def _train_on(self) -> Generator[Event, None, str]:
        while True:
            if self._evaluation_is_due():
                evaluated = self._evaluate()
                yield evaluated
                if evaluated.is_best:
                    yield from self._save()
            if self._stop:
                return "interrupted"
            budget_spent = self._budget_spent()
            if budget_spent or self._nothing_improves():
                if self.progress.evaluated_step != self.progress.step:
                    yield self._evaluate()
                return "budget" if budget_spent else "early stop"
            yield self._step()
            if self._save_is_due():
                yield from self._save()

    @property
    def seconds(self) -> float:
        """Time spent on this run, evaluations and earlier sessions included."""
        return time.monotonic() - self._started

    def budget_progress(self) -> float | None:
        """How much of the budget is spent, 0 to 1; None without one."""
        config = self.config
        if config.steps is not None:
            return self.progress.step / config.steps
        if config.epochs is not None:
            return self.batches.epochs(self.progress.cursor) / config.epochs
        if config.seconds is not None:
            # The last evaluation, the gradients and the saves belong to the budget, too.
            reserved = min(self._evaluation_seconds() + self._gradients_seconds() + 0.5, 0.2 * config.seconds)
            return self.seconds / (config.seconds - reserved)
        return None

    def _evaluation_seconds(self) -> float:
        """What an evaluation takes: as long as the last one; before the first, a third of learning as many ids."""
        if self.progress.evaluation_seconds or not self.progress.ids_seen:
            return self.progress.evaluation_seconds
        return self.seconds / self.progress.ids_seen * len(self.steering.ids) / 3

    def _gradients_seconds(self) -> float:
        """What ``keep_gradients`` may take: a stream by itself is read at about a fifth of the speed of many."""
        return 5 * self.seconds / max(1, self.progress.ids_seen) * ids_of_gradients(self.progress.step)

    def _budget_spent(self) -> bool:
        progress = self.budget_progress()
        return progress is not None and progress >= 1.0

    def _nothing_improves(self) -> bool:
        return self.config.steps is None and self.config.epochs is None and self.schedule.exhausted

    def _evaluation_is_due(self) -> bool:
        step = self.progress.step
        return step > 0 and step % self.config.eval_every == 0 and self.progress.evaluated_step != step

    def _save_is_due(self) -> bool:
        if self.config.save_every_unit == "steps":
            return self.progress.step % int(self.config.save_every) == 0
        return time.monotonic() - self._last_save >= self.config.save_every

    # ------------------------------------------------------------------------------------------------ one step

    def _step(self) -> Stepped:
        chunk = self.batches.chunk(self.progress.cursor)
        self._bring_state(chunk)
        factor = self.schedule.factor(self.progress.step, self.budget_progress()) * self.progress.rate_factor
        rate = self.progress.rate = self.config.lr * factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with memory_errors(self._memory_advice):
            loss, norm = self._learn(chunk)
        skipped = not (math.isfinite(loss) and math.isfinite(norm))
        self.progress.note_step(loss * self._ids_per_character, norm > self.config.clip, skipped, chunk.predictions)
        self.progress.part, self.progress.chunk = self.batches.next_cursor(self.progress.cursor)
        if self.progress.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise _Diverged(f"the loss or its gradient was no finite number for {MAX_SKIPPED_IN_A_ROW} steps in a row")
        stepped = Stepped(
            self.progress.step,
            loss * self._ids_per_character,
            norm,
            rate,
            skipped,
            int(chunk.predictions / self._ids_per_character),
            self.budget_progress(),
        )
        if self.progress.step % _LOG_EVERY == 0:
            self.metrics.write(
                "train", self.progress.step, self.seconds, train_nats_per_char=self.progress.mean_loss(), rate=rate
            )
        return stepped

    def _bring_state(self, chunk: Chunk) -> None:
        """Let all rows begin anew with a fresh chunk; and now and then one, so that a cold start is learnt, too."""
        rows = chunk.inputs_TB.shape[1]
        if chunk.fresh:
            self.state = self.model.initial_state(rows)
            return
        self.state = tuple((h_BH[:rows], c_BH[:rows]) for h_BH, c_BH in self.state)
        random = np.random.Generator(np.random.Philox(key=[self.config.seed ^ _RESET_KEY, self.progress.step]))
        forgets = np.asarray(random.random(rows) < self.config.state_reset)
        if forgets.any():
            keep_B1 = torch.from_numpy(~forgets).to(self.device)[:, None]
            self.state = tuple((h_BH * keep_B1, c_BH * keep_B1) for h_BH, c_BH in self.state)

    def _learn(self, chunk: Chunk) -> tuple[float, float]:
        """One update: the mean loss in nats per id and the gradient norm. If one is not finite, no weight changes."""
        inputs_TB = torch.from_numpy(chunk.inputs_TB).to(self.device)
        targets_TB = torch.from_numpy(chunk.targets_TB).to(self.device)
        lengths_B = None if chunk.lengths_B is None else torch.from_numpy(chunk.lengths_B)
        with autocast(self.device.type, self.config.precision):
            output_TBE, dropped_TBE, state = self.model.read(inputs_TB, self.state, self.generator, lengths_B)
            logits_TBV = self.model.decoder(dropped_TBE)
        loss = cross_entropy(logits_TBV, targets_TB).sum() / chunk.predictions
        self.optimizer.zero_grad(set_to_none=True)
        (loss + self._penalty(output_TBE, dropped_TBE, targets_TB)).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        values = loss.item(), norm.item()
        if all(map(math.isfinite, values)):
            self.optimizer.step()
            self.average.update()
            self.state = detach(state)
        else:
            self.state = self.model.initial_state(inputs_TB.shape[1])
        return values

    def _penalty(
        self, output_TBE: torch.Tensor, dropped_TBE: torch.Tensor, targets_TB: torch.Tensor
    ) -> torch.Tensor | float:
        weights = self.config.ar, self.config.tar
        return (
            activation_penalty(output_TBE, dropped_TBE, targets_TB != IGNORE_INDEX, *weights) if any(weights) else 0.0
        )

    def _roll_back(self, reason: str) -> RolledBack:
        """Go on from the best checkpoint (the latest, if none is) at a lower rate; the second time, give up.

        Raises ``DivergedError``; weights that are finite are saved first.
        """
        finite, diverged_at = self._weights_are_finite(), self.progress.step
        if self.progress.rate_factor < 1.0 or self.progress.saved_step is None:
            if finite:
                self.progress.skipped_in_a_row = 0
                list(self._save(must=True))
            raise DivergedError(f"{reason}; {self._advice()}")
        try:
            restore(self, open_checkpoint(self.run, "best", ALL_FILES))
        except CharlmError as error:
            raise DivergedError(f"{reason}, and no checkpoint could be gone back to ({error})") from None
        self.progress.rate_factor = ROLLBACK_FACTOR
        self._best_on_disk = self.progress.best, self.progress.best_step
        self.metrics.forget_after(self.progress.step, self.progress.evaluated_step)
        return RolledBack(self.progress.step, ROLLBACK_FACTOR, f"{reason}, up to step {diverged_at}")

    def _advice(self) -> str:
        steps = RunFolder(self.run).step_numbers()
        kept = f"step {steps[-1]} in {self.run} is the last good one" if steps else "nothing was saved"
        return f"{kept}; train again with a lower --lr (now {self.config.lr:g})"

    # ------------------------------------------------------------------------------------------------ evaluation

    def _evaluate(self) -> Evaluated:
        """Measure the averaged weights, where there is an average, and let the loss steer."""
        with self.average.applied():
            return self._evaluate_weights()

    def _evaluate_weights(self) -> Evaluated:
        began = time.monotonic()
        progress = self.progress
        train_loss, clipped = progress.mean_loss(), progress.clipped_share()
        loss = self._validation_loss()
        if loss is not None and not math.isfinite(loss):
            loss = math.inf  # for the schedule as bad as can be, and never the best
        steering = loss if loss is not None else train_loss
        is_best = loss is not None and loss < (math.inf if progress.best is None else progress.best)
        if is_best:
            progress.best, progress.best_step = loss, progress.step
        if steering is not None:
            self.schedule.observe(steering)
            self.average.observe(steering)
        progress.note_evaluation(loss)
        self._note_precision_costs(wanted=is_best or loss is None)
        rate = progress.rate
        self.metrics.write(
            "valid",
            self.progress.step,
            self.seconds,
            train_nats_per_char=train_loss,
            valid_nats_per_char=loss,
            rate=rate,
            clipped=clipped,
            skipped_steps=progress.skipped_steps,
        )
        epoch = max(0, math.ceil(self.batches.epochs(progress.cursor)) - 1)
        sample = self._sample()
        progress.evaluation_seconds = time.monotonic() - began
        return Evaluated(progress.step, epoch, self.seconds, train_loss, loss, is_best, clipped, rate, sample)

    def _validation_loss(self) -> float | None:
        with memory_errors(self._memory_advice):
            return self.steering.loss(TorchEngine(self.model, self.config.precision), self._stop_between_chunks)

    def _note_precision_costs(self, wanted: bool) -> None:
        """Find out, for weights that people will write with, which precision is safe to write in."""
        costs: dict[str, float] = {}
        if wanted:
            weights, loss = self.model.weights(), self.steering.precision_loss
            costs = precision_costs(self.model.config, weights, loss, torch.get_num_threads())
        self.progress.int8_cost, self.progress.bf16_cost = costs.get("int8"), costs.get("bf16")

    def _stop_between_chunks(self, predictions: int) -> None:
        if self._stop:
            raise _Interrupted

    def _sample(self) -> str:
        weights, threads = self.model.weights(), torch.get_num_threads()
        engine = create_engine(self.model.config, weights, str(self.device), threads=threads)
        return sample(engine, self.corpus.tokenizer, self.config.seed ^ self.progress.step)

    # ------------------------------------------------------------------------------------------------ keeping

    def _save(self, finished: bool = False, must: bool = False) -> Iterator[Event]:
        self.progress.seconds = self.seconds
        self._last_save = time.monotonic()
        if not self._weights_are_finite():
            raise _Diverged("the weights are no finite numbers any more")
        step = self.progress.step
        try:
            files = snapshot(self, finished)
            path = save_step(self.run, step, files)
        except InputOutputError as error:
            self._failed_saves += 1
            if must or self._failed_saves >= MAX_FAILED_SAVES:
                raise
            if self.progress.best_step == step:
                # These weights will be gone: the best is again the one on disk.
                self.progress.best, self.progress.best_step = self._best_on_disk
            yield SaveFailed(step, str(error))
            return
        self._failed_saves = 0
        self.progress.saved_step = step
        self._best_on_disk = self.progress.best, self.progress.best_step
        RunFolder(self.run).keep_only({step, self.progress.best_step or step})
        update_card(self.run, files[CONFIG], self._best_on_disk)
        yield Saved(step, path)

    def _keep_gradients(self) -> Iterator[Event]:
        """Put beside the best weights what dynamic evaluation needs; without it, that must read the corpus again."""
        try:
            with memory_errors(self._memory_advice):
                keep_gradients(self.run, self.corpus, lambda: self._stop)
        except (InputOutputError, OutOfMemoryError) as error:
            yield SaveFailed(self.progress.step, str(error))

    def _weights_are_finite(self) -> bool:
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.model.parameters())
