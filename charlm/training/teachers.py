"""Teachers: trained models whose predictions of the training text another model learns from, instead of the text alone.

The targets of the training are then probabilities, not single characters (Hinton, Vinyals and Dean 2015). A model of
the same size may become better than its teacher (Furlanello et al. 2018); a smaller one comes closer to it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from charlm.checkpoint.run_folder import SOFT_TARGETS
from charlm.checkpoint.step import Checkpoint
from charlm.config import TrainingConfig
from charlm.corpus.prepared import Corpus
from charlm.corpus.soft_targets import BYTES_PER_ID, SoftTargets
from charlm.errors import DataError, InputOutputError, UsageError
from charlm.evaluation.comparison import tokenizer_difference
from charlm.evaluation.teaching import write_soft_targets
from charlm.language_model import LanguageModel, open_model
from charlm.system.disk import remove

logger = logging.getLogger("charlm")


def open_teacher(paths: Sequence[Path], device: str, threads: int | None) -> LanguageModel | None:
    """The model at ``paths``, or the mean of several; None for none. Raises the errors of ``charlm.load``."""
    models = [open_model(path, device, threads=threads) for path in paths]
    return None if not models else models[0] if len(models) == 1 else LanguageModel.ensemble(models)


def prepare_soft_targets(
    run: Path, corpus: Corpus, teacher: LanguageModel, seed: int, progress: Callable[[int], None]
) -> None:
    """Write what ``teacher`` predicts of the training split of ``corpus`` to ``run``.

    ``seed`` is that of the run. ``progress`` is called with the number of ids read since the last call. Raises
    ``UsageError`` where the teacher has another vocabulary, ``InputOutputError`` where writing fails.
    """
    if teacher.tokenizer.description() != corpus.tokenizer.description():
        reason = tokenizer_difference(teacher.tokenizer, corpus.tokenizer) or "it has another vocabulary"
        raise UsageError(
            f"{teacher.checkpoint.path} cannot be the teacher of this text: {reason}; train the teacher on the same "
            "text with the same split, --tokenizer, --documents and --seed"
        )
    models = teacher.members or (teacher,)
    for model in models:
        _warn_of_other_split(model.checkpoint, corpus, seed)
    names = [str(model.checkpoint.path) for model in models]
    _write(run / SOFT_TARGETS, teacher, corpus, names, progress)


def _warn_of_other_split(teacher: Checkpoint, corpus: Corpus, seed: int) -> None:
    """Log a warning if ``teacher`` was trained on another part of the same text, perhaps on what validates here."""
    described, training = (teacher.config.get(name) for name in ("corpus", "training"))
    if not isinstance(described, dict) or described.get("sha256") != corpus.sha256:
        return
    has_other_seed = isinstance(training, dict) and training.get("seed") != seed
    shuffled = corpus.tokenizer.document_kind is not None and has_other_seed
    if shuffled or described.get("shares") != corpus.description.get("shares"):
        logger.warning(
            "%s was trained with another %s and may know the validation text; the validation loss will be too low",
            teacher.path,
            "--seed, which shuffles documents before they are split," if shuffled else "--split",
        )


def write_of_best(
    run: Path, corpus: Corpus, generation: int, config: TrainingConfig, progress: Callable[[int], None]
) -> int:
    """Write what the best step of ``run`` predicts, for the model with the number ``generation``; return that step.

    It is computed on the device of ``config``. Raises the errors of ``charlm.load``, and ``InputOutputError`` where
    writing fails.
    """
    best = open_model(run, config.device, threads=config.threads)
    _write(run / _folder(generation), best, corpus, [best.checkpoint.path.name], progress)
    return best.checkpoint.step


def _write(
    folder: Path, teacher: LanguageModel, corpus: Corpus, names: list[str], progress: Callable[[int], None]
) -> None:
    """Write ``folder``, completely or not at all; what an interrupted process wrote there is replaced."""
    try:
        remove(folder)
        try:
            write_soft_targets(folder, teacher.engine, corpus, names, progress)
        except BaseException:
            remove(folder)
            raise
    except OSError as error:
        raise InputOutputError(
            f"{error.filename or folder} could not be written ({error.strerror}); make room, {BYTES_PER_ID} bytes for "
            "each character of the training text, or fix the disk"
        ) from None


def open_soft_targets(run: Path, corpus: Corpus, config: TrainingConfig, generation: int) -> SoftTargets | None:
    """Those that the model with the number ``generation`` learns from; None for one that has no teacher.

    Raises the errors of ``SoftTargets``.
    """
    has_teacher = generation > 0 or (config.soft_weight > 0 and config.generations == 1)
    return SoftTargets(run / _folder(generation), corpus) if has_teacher else None


def remove_soft_targets(run: Path, needed: Collection[int]) -> None:
    """Delete the soft targets of all generations but those ``needed``."""
    kept = {_folder(generation) for generation in needed}
    for folder in run.glob(f"{SOFT_TARGETS}-*"):
        if folder.name not in kept:
            with contextlib.suppress(OSError):
                remove(folder)


def _folder(generation: int) -> str:
    return f"{SOFT_TARGETS}-{generation + 1}" if generation else SOFT_TARGETS


def check_soft_targets(soft_targets: SoftTargets | None, checkpoint: Checkpoint) -> None:
    """Raise ``DataError`` if the soft targets are damaged, or are not those of ``checkpoint``."""
    if soft_targets is None:
        return
    described = checkpoint.config.get("soft_targets")
    if not isinstance(described, dict) or described.get("sha256") != soft_targets.sha256:
        raise DataError(
            f"{soft_targets.folder} does not belong to {checkpoint.path}; restore the folder, or train again"
        )
    soft_targets.check()
