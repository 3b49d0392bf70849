"""What is checked, and what may change, when a run is resumed."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.step import CONFIG, MANIFEST, STATE, Checkpoint, has_training_state, open_checkpoint
from charlm.config import MAX_GENERATIONS, TrainingConfig, parse_duration, parse_json
from charlm.corpus.prepared import Corpus
from charlm.errors import DataError, MissingInputError, UsageError
from charlm.training.budget import EPOCHS_WITHOUT_LIMIT
from charlm.training.options import ResumeOptions, TrainingOptions, command_line_name, definitions
from charlm.training.recipe import save_every_fields

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("charlm")


def run_of(path: Path) -> tuple[Path, int | None]:
    """The run that ``path``, the folder of a run or of a step, belongs to; and the number of the step, if it is one."""
    if not path.exists():
        raise MissingInputError(f"{path} does not exist; name an existing run, or train one: charlm train FILE")
    has_steps = bool(RunFolder(path).step_numbers())
    if has_steps or not (path / MANIFEST).exists():
        if not has_steps:
            raise MissingInputError(f"{path} has no checkpoint to resume; train again: charlm train FILE")
        return path, None
    if not has_training_state(path):
        raise DataError(
            f"{path} is an exported model and has no training state; resume the run it was exported from, or start "
            f"from its weights with charlm train FILE --init-from {path}"
        )
    return path.parent, open_checkpoint(path, names=[CONFIG]).step


def refuse_fixed_options(options: TrainingOptions) -> None:
    """Raise ``UsageError`` for an option that cannot change when a run is resumed."""
    for name, value in options.items():
        if value is not None and name not in definitions(ResumeOptions):
            raise UsageError(
                f"{command_line_name(name)} cannot change when a run is resumed; leave it out, or start a new run with "
                "--init-from"
            )


def resumed_device(used: str, wanted: str | None) -> torch.device:
    """The device that is ``wanted``; by default the one that was ``used``, or if this machine lacks it, another one."""
    from charlm.system.devices import choose_device  # with torch, which most functions here do not need

    if wanted is not None:
        return choose_device(wanted)
    try:
        return choose_device(used)
    except UsageError:
        device = choose_device("auto")
        logger.warning("the run was trained on %s, which this machine lacks; it continues on %s", used, device)
        return device


def on_device(config: TrainingConfig, device: torch.device) -> TrainingConfig:
    """``config`` for another device, in a precision that it has."""
    from charlm.system.devices import choose_precision  # likewise

    fits = config.precision != "fp16" or device.type == "cuda"
    precision = config.precision if fits else choose_precision("auto", device)
    return dataclasses.replace(config, device=str(device), precision=precision)


def is_extended(options: TrainingOptions) -> bool:
    """Whether ``options`` give the run a new limit."""
    return any(options.get(name) is not None for name in ("epochs", "steps", "time"))


def changed(config: TrainingConfig, options: TrainingOptions, checkpoint: Checkpoint) -> TrainingConfig:
    """``config``, that of ``checkpoint``, with what ``options`` change.

    The speed that was measured when the run began stays in it. With a new limit, the generation that is trained now is
    the last one, so that it gets all that is left.
    """
    if is_extended(options):
        time = options.get("time")
        seconds = None if time is None else parse_duration(time)
        config = dataclasses.replace(config, epochs=options.get("epochs"), steps=options.get("steps"), seconds=seconds)
        if config.generations > 1:
            last = _generation(checkpoint)
            config = dataclasses.replace(config, generations=last, soft_weight=config.soft_weight if last > 1 else 0.0)
    if (threads := options.get("threads")) is not None:
        config = dataclasses.replace(config, threads=threads)
    return dataclasses.replace(config, **save_every_fields(options.get("save_every")))


def _generation(checkpoint: Checkpoint) -> int:
    """The number, from 1, of the generation that ``checkpoint`` is of."""
    state = parse_json(checkpoint.files[STATE], str(checkpoint.path / STATE))
    progress = state.get("progress") if isinstance(state, dict) else None
    number = progress.get("generation", 0) if isinstance(progress, dict) else 0
    if type(number) is not int or not 0 <= number < MAX_GENERATIONS:
        raise DataError(f"{checkpoint.path / STATE}: generation is {number!r:.40}, which is out of range")
    return number + 1


def with_limit(config: TrainingConfig, corpus: Corpus) -> TrainingConfig:
    """``config`` with the limit that a training without validation text has; earlier versions gave it none."""
    if corpus.sizes["valid"].ids or any((config.epochs, config.steps, config.seconds)):
        return config
    return dataclasses.replace(config, epochs=EPOCHS_WITHOUT_LIMIT)


def check_corpus(run: Path, corpus: Corpus, checkpoint: Checkpoint) -> None:
    """Raise ``DataError`` if ``corpus`` is damaged, is not that of ``checkpoint``, or the text on disk has changed."""
    described = checkpoint.config.get("corpus")
    if not isinstance(described, dict) or described.get("sha256") != corpus.sha256:
        raise DataError(
            f"{run / 'corpus'} is not the corpus that {checkpoint.path} was trained on; restore the original "
            "corpus folder"
        )
    # Checked before the sources that it names are opened. The first checkpoints of format 1 do not have it.
    if described.get("description_sha256", corpus.description_sha256) != corpus.description_sha256:
        raise DataError(
            f"{corpus.folder / 'corpus.json'} is damaged; restore it, or train again with --init-from {run}"
        )
    if corpus.changed_sources():
        raise DataError(
            f"the text of {run} has changed since training began; restore the old text to resume, or train on the new "
            f"one with charlm train FILE --init-from {run}"
        )
    corpus.check_ids()
