"""Saves the state of a training as checkpoints of its run, and goes back to an earlier one."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import charlm
from charlm.checkpoint.model_card import update_card
from charlm.checkpoint.model_parts import ModelParts, read_model_parts
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.step import (
    ALL_FILES,
    CONFIG,
    FORMAT,
    GRADIENTS,
    MODEL,
    STATE,
    STATE_TENSORS,
    TOKENIZER,
    Checkpoint,
    open_checkpoint,
    save_step,
)
from charlm.checkpoint.tensors import tensors_to_bytes
from charlm.checkpoint.weights import weights_to_bytes
from charlm.config import dump_json, parse_json, to_dict
from charlm.corpus.batches import Batches
from charlm.corpus.prepared import Corpus, SplitSize
from charlm.corpus.soft_targets import SoftTargets
from charlm.engine import create_engine
from charlm.errors import CharlmError, DataError, DivergedError, InputOutputError
from charlm.evaluation.calibration import MAX_CALIBRATION_IDS, MIN_CALIBRATION_IDS, fit_temperature
from charlm.evaluation.dynamic import compute_gradient_rms, gradient_rms_segments, make_network
from charlm.evaluation.percentiles import MAX_IDS, measure_percentiles
from charlm.model.char_lm import CharLM
from charlm.plots.characters import card_plot
from charlm.system.processes import ALONE, Group
from charlm.training.events import Saved, SaveFailed
from charlm.training.state import TrainingState
from charlm.training.validation_text import ValidationText

MAX_FAILED_SAVES = 3
MIN_GRADIENT_SEGMENTS = 10
"""Fewer segments of the text do not tell the size of the gradients."""


class NonFiniteError(Exception):
    """The loss, its gradient or the weights are NaN or infinite; the text says which."""


class Saver:
    """Saves the run in the folder ``run``, which the caller has locked. The best and the latest step are kept.

    ``clock`` counts seconds. Of a ``group`` the first process writes; the others learn what became of it.
    """

    def __init__(
        self,
        run: Path,
        corpus: Corpus,
        clock: Callable[[], float] = time.monotonic,
        group: Group = ALONE,
        soft_targets: SoftTargets | None = None,
    ) -> None:
        self._run = run
        self.soft_targets = soft_targets
        """What the model learns from; their digest is saved."""
        self._group = group
        self._corpus = corpus
        self._clock = clock
        self._failed_saves = 0
        self._written_config = b""
        self._best_on_disk: tuple[float | None, int | None] = (None, None)
        self._evaluated_on_disk: int | None = None
        """The last good step that was saved at an evaluation; without validation text, there is no best one."""

    def save(self, state: TrainingState, *, finished: bool = False, must: bool = False) -> Saved | SaveFailed:
        """Save ``state`` as a step.

        A failure is returned as ``SaveFailed``; it is raised if ``must`` is set or it is the third in a row.

        Raises ``NonFiniteError`` for non-finite weights and ``InputOutputError``.
        """
        if not state.weights_are_finite():
            raise NonFiniteError("the weights are not finite")
        progress = state.progress
        try:
            path = Path(self._group.on_first(lambda: str(self._write(state, finished))))
        except InputOutputError as error:
            self._failed_saves += 1
            if must or self._failed_saves >= MAX_FAILED_SAVES:
                raise
            if progress.best_step == progress.step:
                # These weights will be lost: the best step is again the one on disk.
                progress.best, progress.best_step = self._best_on_disk
            return SaveFailed(progress.step, str(error).partition(";")[0])
        self._failed_saves = 0
        progress.saved_step = progress.step
        self._best_on_disk = progress.best, progress.best_step
        if progress.is_good_evaluation:
            self._evaluated_on_disk = progress.step
        self._group.on_first(lambda: self._tidy(state))
        return Saved(progress.step, path)

    def _write(self, state: TrainingState, finished: bool) -> Path:
        files = checkpoint_files(state, self._corpus, finished, self.soft_targets)
        self._written_config = files[CONFIG]
        return save_step(self._run, state.progress.step, files)

    def _tidy(self, state: TrainingState) -> str:
        """After a save, delete older steps and describe the run in its card."""
        step = state.progress.step
        RunFolder(self._run).keep_only({step, self.step_to_roll_back(state) or step})
        plot = card_plot(self._run, parse_json(self._written_config, CONFIG))
        update_card(self._run, self._written_config, self._best_on_disk, plot)
        return ""

    def restore(self, state: TrainingState, checkpoint: Checkpoint, batches: Batches) -> None:
        """Put ``checkpoint``, opened with all its files, back into ``state``. Raises ``DataError``."""
        parts = read_model_parts(checkpoint)
        if parts.tokenizer.description() != self._corpus.tokenizer.description():
            raise DataError(f"{checkpoint.path} does not match the tokenizer of the run's corpus; use another step")
        state.restore(checkpoint, parts, batches)
        self._best_on_disk = state.progress.best, state.progress.best_step
        # Besides the latest step, only the one to go back to is kept.
        step, is_good = state.progress.step, state.progress.is_good_evaluation
        steps = [kept for kept in RunFolder(self._run).step_numbers() if kept < step or (kept == step and is_good)]
        self._evaluated_on_disk = max(steps, default=None)

    def step_to_roll_back(self, state: TrainingState) -> int | None:
        """The best step on disk; without validation text, the last one that was saved at an evaluation.

        None if there is none. A step that was saved because of the time does not count, so that a training depends on
        its steps alone.
        """
        if state.progress.best_step is not None:
            return state.progress.best_step
        if self._evaluated_on_disk is not None:
            return self._evaluated_on_disk
        return state.progress.saved_step if state.config.save_every_unit == "steps" else None

    def roll_back(self, state: TrainingState, batches: Batches, reason: str) -> None:
        """Restore ``step_to_roll_back``, or if the best step is damaged, another one. Raises ``DivergedError``."""
        has_best = state.progress.best_step is not None
        path = self._run if has_best else self._run / f"step-{self.step_to_roll_back(state)}"
        try:
            self.restore(state, open_checkpoint(path, "best", ALL_FILES), batches)
        except CharlmError as error:
            raise DivergedError(f"{reason}, and no checkpoint could be restored ({error})") from None

    def advice(self, lr: float) -> str:
        """Which checkpoint remains after divergence, and what to do."""
        steps = RunFolder(self._run).step_numbers()
        kept = f"the last good checkpoint is step {steps[-1]} in {self._run}" if steps else "nothing was saved"
        return f"{kept}; train again with a lower --lr (now {lr:g})"

    def save_measurements(
        self,
        device: torch.device,
        seconds: float,
        stop: Callable[[], bool],
        calibration_ids: int = MAX_CALIBRATION_IDS,
        percentile_ids: int = MAX_IDS,
    ) -> float | None:
        """Save the best step again with its temperature and what ``eval --dynamic`` and ``score --percentile`` need.

        The temperature is fitted on ``calibration_ids`` of the validation text at most, and returned; None without
        enough of it. The others are the rms of the gradients, computed on ``device``, and the percentiles of held-out
        documents, from ``percentile_ids`` ids at most; without them, both commands read the corpus again. The rms is
        computed from as much text as is possible in ``seconds``, and left out if that is too little. ``stop()`` ends it
        early, and nothing is saved then. Raises ``InputOutputError``.
        """
        end = self._clock() + seconds
        best = open_checkpoint(self._run, "best", ALL_FILES)
        raw = read_model_parts(best)
        temperature = self._fit_temperature(raw, calibration_ids, stop)
        parts = (raw if temperature is None else dataclasses.replace(raw, temperature=temperature)).calibrated()
        model = make_network(parts.config, parts.weights).to(device)
        engine = create_engine(parts.config, parts.weights, str(device), threads=torch.get_num_threads())
        percentiles = measure_percentiles(engine, parts.tokenizer, self._corpus, stop, percentile_ids)
        measured = {
            **({} if percentiles is None else {"percentiles": percentiles.as_dict()}),
            **({} if temperature is None else {"temperature": temperature}),
        }
        files = {CONFIG: dump_json({**best.config, **measured})} if measured else {}
        segments = gradient_rms_segments(best.step)
        if math.isfinite(end):
            segments = min(segments, self._affordable_segments(model, end))
        if segments >= MIN_GRADIENT_SEGMENTS:
            files[GRADIENTS] = tensors_to_bytes(compute_gradient_rms(model, self._corpus, segments, stop))
        if stop():
            return None
        if files:
            save_step(self._run, best.step, {**best.files, **files})
            config = files.get(CONFIG, best.files[CONFIG])
            update_card(self._run, config, self._best_on_disk, card_plot(self._run, parse_json(config, CONFIG)))
        return temperature

    def _fit_temperature(self, parts: ModelParts, max_ids: int, stop: Callable[[], bool]) -> float | None:
        text = ValidationText(self._corpus)
        # From a part of a short text, the temperature could be worse than none.
        if max_ids < min(MAX_CALIBRATION_IDS, len(text.ids)) or len(text.ids) < MIN_CALIBRATION_IDS:
            return None

        def loss(temperature: float) -> float:
            scaled = dataclasses.replace(parts, temperature=temperature).calibrated()
            engine = create_engine(scaled.config, scaled.weights, "cpu", threads=torch.get_num_threads())
            return math.nan if stop() else text.sample_loss(engine, max_ids)

        temperature = fit_temperature(loss)
        return None if stop() or math.isnan(temperature) else temperature

    def _affordable_segments(self, model: CharLM, end: float) -> int:
        """How many segments there is time for until ``end``; one is computed to know."""
        began = self._clock()
        if began >= end:
            return 0
        compute_gradient_rms(model, self._corpus, 1)
        now = self._clock()
        return int(min(1e6, (end - now) / max(now - began, 1e-6)))


def checkpoint_files(
    state: TrainingState, corpus: Corpus, finished: bool, soft_targets: SoftTargets | None = None
) -> dict[str, bytes]:
    """The files of a checkpoint of ``state``; ``finished`` says that training has ended."""
    snapshot = state.snapshot()
    files = {
        CONFIG: dump_json({**_description(state, corpus), **_described_teachers(soft_targets)}),
        MODEL: weights_to_bytes(snapshot.weights, "f32"),
        STATE_TENSORS: tensors_to_bytes(snapshot.tensors),
        STATE: dump_json({**snapshot.values, "finished": finished}),
    }
    tokenizer = corpus.tokenizer.to_bytes()
    return files if tokenizer is None else {**files, TOKENIZER: tokenizer}


def _description(state: TrainingState, corpus: Corpus) -> dict[str, Any]:
    progress = state.progress
    evaluated = progress.evaluated_step == progress.step
    table = corpus.description.get("table")
    validation = progress.last_validation if evaluated else None
    return {
        "format": FORMAT,
        "charlm": charlm.__version__,
        "torch": str(torch.__version__),
        "step": progress.step,
        "model": to_dict(state.model.config),
        "weights": "f32",
        "training": to_dict(state.config),
        "tokenizer": corpus.tokenizer.description(),
        **({} if table is None else {"table": table}),
        "corpus": {
            "name": corpus.name,
            "sha256": corpus.sha256,
            "description_sha256": corpus.description_sha256,
            "splits": {name: _size(size) for name, size in corpus.sizes.items()},
            "shares": corpus.description.get("shares"),
            "distinct": corpus.description.get("distinct"),
        },
        "validation": validation if validation is not None and math.isfinite(validation) else None,
        "precision_costs": progress.precision_costs() if evaluated else {},
        "seconds": round(progress.seconds, 3),
        "ids_seen": progress.ids_seen,
    }


def _described_teachers(soft_targets: SoftTargets | None) -> dict[str, Any]:
    if soft_targets is None:
        return {}
    return {"soft_targets": {"teachers": soft_targets.teachers, "sha256": soft_targets.sha256}}


def _size(size: SplitSize) -> dict[str, int]:
    return {name: value for name, value in dataclasses.asdict(size).items() if value or name != "prefix_ids"}
