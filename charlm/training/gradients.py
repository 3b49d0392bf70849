"""Keeps with the best step of a run what dynamic evaluation needs of its gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from charlm.checkpoint.model_parts import checkpoint_parts
from charlm.checkpoint.step import ALL_FILES, GRADIENTS, open_checkpoint, save_step
from charlm.checkpoint.tensors import tensors_to_bytes
from charlm.corpus.prepared import Corpus
from charlm.evaluation.dynamic import compute_gradient_rms, gradient_rms_segments, make_network


def keep_gradients(run: Path, corpus: Corpus, stop: Callable[[], bool]) -> None:
    """Save the best step of ``run`` once more, with the rms of its gradients, unless ``stop()`` says to leave off.

    Call it while holding the run's lock. Raises ``InputOutputError``.
    """
    best = open_checkpoint(run, "best", ALL_FILES)
    config, _, weights = checkpoint_parts(best)
    rms = compute_gradient_rms(make_network(config, weights), corpus, gradient_rms_segments(best.step), stop)
    if not stop():
        save_step(run, best.step, {**best.files, GRADIENTS: tensors_to_bytes(rms)})
