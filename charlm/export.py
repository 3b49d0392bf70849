"""Export: the best step of a run as a small folder without the training state.

DIR/config.json        as in the run, with the format of the weights
DIR/model.safetensors  the weights as 16-bit floats, or as 8-bit integers with scales
DIR/tokenizer.model, DIR/manifest.json
DIR/README.md          the model card, which may be edited
DIR/curve.svg          the losses in training, which the card shows; only where matplotlib is installed
"""

from __future__ import annotations

import errno
import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from charlm.arguments import check_path, names_keywords
from charlm.checkpoint.model_card import CARD, generate_part
from charlm.checkpoint.model_parts import ModelParts, read_model_parts
from charlm.checkpoint.run_folder import CURVE
from charlm.checkpoint.step import ALL_FILES, CONFIG, MANIFEST, MODEL, has_step_name, open_checkpoint, with_manifest
from charlm.checkpoint.weights import weights_to_bytes
from charlm.config import dump_json
from charlm.corpus.prepared import find_corpus
from charlm.corpus.trained_table import TrainedTable
from charlm.engine import create_engine
from charlm.errors import CannotCreateError, CharlmError, InputOutputError, MissingInputError, UsageError
from charlm.plots.characters import card_plot
from charlm.plots.figure import run_picture
from charlm.system.disk import sync_folders, write_folder
from charlm.training.validation_text import ValidationText

logger = logging.getLogger("charlm")

EXPORT_FORMATS = ("f16", "int8")
"""The formats in which an export stores its weights."""


@dataclass(frozen=True)
class Exported:
    """The exported folder, its step, sizes in bytes, and validation losses in nats per character before and after.

    The losses are measured on a sample of up to 16,384 ids; None if the run has no validation text.
    """

    path: Path
    step: int
    bytes_before: int
    bytes_after: int
    nats_before: float | None = None
    nats_after: float | None = None
    given: tuple[str, ...] = ()
    """The options with which ``charlm generate`` uses the model: a value of its condition, if it has one."""


@names_keywords
def export(run: str | Path, out: str | Path, weights: str = "f16") -> Exported:
    """Write the best step of a run, or a step, as the new folder ``out`` with its weights in "f16" or "int8".

    The export is opened and measured after it is written. Raises ``CannotCreateError`` where ``out`` exists,
    ``InputOutputError`` where writing fails, ``UsageError`` for other ``weights``, and the errors of ``charlm.load``.
    """
    return export_run(check_path("run", run), check_path("out", out), weights)


def export_run(run: Path, out: Path, weights: str) -> Exported:
    """``export``, with errors that name the options of the command."""
    if weights not in EXPORT_FORMATS:
        raise UsageError(f"--weights must be one of {', '.join(EXPORT_FORMATS)}, not {weights!r:.40}")
    _refuse_taken(out)
    checkpoint = open_checkpoint(run)
    parts = read_model_parts(checkpoint)
    config = {**checkpoint.config, "weights": weights}
    files = {
        **checkpoint.files,
        MODEL: weights_to_bytes(parts.weights, weights),
        CONFIG: dump_json(config),
    }
    origin = checkpoint.path.parent if has_step_name(checkpoint.path) else checkpoint.path
    curve = card_plot(origin, config)
    picture = _picture(origin) if curve else {}
    card = generate_part(config, (checkpoint.validation, checkpoint.step), curve, bool(picture)) + "\n"
    _write(out, {CARD: card.encode(), **picture, **with_manifest(files)})
    written = read_model_parts(open_checkpoint(out))
    losses = _losses(checkpoint.path, parts.calibrated(), written.calibrated())
    table = TrainedTable.of(config, CONFIG)
    given = () if table is None or table.given is None else ("--given", table.frequent()[0][0])
    return Exported(out, checkpoint.step, _size(checkpoint.path), _size(out), *losses, given)


def _picture(run: Path) -> dict[str, bytes]:
    """The picture of the training of ``run`` as a file of the export; empty where it cannot be drawn."""
    try:
        return {CURVE: run_picture(run)}
    except MissingInputError:  # matplotlib, which is optional
        return {}
    except Exception as error:  # a picture is never worth an export
        logger.warning("%s could not be drawn (%s); the model card shows the curve in characters", CURVE, error)
        return {}


def _refuse_taken(out: Path) -> None:
    if has_step_name(out):
        raise CannotCreateError(f"{out} has the name of a step of a run; choose another name")
    if out.exists() or out.is_symlink():
        raise CannotCreateError(f"{out} exists already; name another folder, so that nothing is overwritten")


def _write(out: Path, files: dict[str, bytes]) -> None:
    created = [folder for folder in out.parents if not folder.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sync_folders(created)
        write_folder(out, files, replace=False)
    except OSError as error:
        for folder in created:
            with suppress(OSError):
                folder.rmdir()
        reason = f"{out} could not be written ({error.strerror or error})"
        if error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
            raise InputOutputError(f"{reason}; make room or fix the disk, then export again") from None
        raise CannotCreateError(f"{reason}; name another folder") from None


def _size(folder: Path) -> int:
    """The size of a step or an export in bytes, without the picture."""
    names = (*ALL_FILES, MANIFEST, CARD)
    return sum((folder / name).stat().st_size for name in names if (folder / name).is_file())


def _losses(path: Path, before: ModelParts, after: ModelParts) -> tuple[float | None, float | None]:
    """The losses of two versions of a model on the validation text of the run with the checkpoint ``path``."""
    try:
        corpus = find_corpus(path)
        if corpus is None or not corpus.sizes["valid"].ids:
            return None, None
        if corpus.tokenizer.description() != before.tokenizer.description():
            return None, None
        text = ValidationText(corpus)
        engines = [create_engine(parts.config, parts.weights, "cpu") for parts in (before, after)]
        first, second = map(text.precision_loss, engines)
    except CharlmError as error:
        logger.warning("the loss could not be measured: %s", error)
        return None, None
    return first, second
