"""Export: a small folder that generates, scores, evaluates and informs, without the state of a training.

DIR/config.json        as in the run, and how the weights are stored
DIR/model.safetensors  the weights in 16-bit floats, or in 8-bit integers with scales
DIR/tokenizer.model, DIR/manifest.json
DIR/README.md          the model card, which may be edited
"""

from __future__ import annotations

import errno
import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from charlm.checkpoint.model_card import CARD, generated_part
from charlm.checkpoint.model_parts import Parts, checkpoint_parts
from charlm.checkpoint.step import ALL_FILES, CONFIG, MANIFEST, MODEL, is_step, open_checkpoint, with_manifest
from charlm.checkpoint.weights import weights_to_bytes
from charlm.config import dump_json
from charlm.corpus.prepared import corpus_beside
from charlm.engine import create_engine
from charlm.errors import CannotCreateError, CharlmError, InputOutputError, UsageError
from charlm.system.disk import sync_made, write_folder
from charlm.training.validation import ValidationText

logger = logging.getLogger("charlm")

FORMS = ("f16", "int8")
"""How an export may store its weights."""


@dataclass(frozen=True)
class Exported:
    """What ``export`` made, of which step, sizes in bytes, and losses in nats per character on validation text.

    The losses are of a sample of up to 16,384 ids; None where no validation text was beside the model.
    """

    path: Path
    step: int
    bytes_before: int
    bytes_after: int
    nats_before: float | None = None
    nats_after: float | None = None


def export(run: str | Path, out: str | Path, weights: str = "f16") -> Exported:
    """Write the best step of a run, or a step, as the new folder ``out`` with its weights in "f16" or "int8".

    What was written is opened again and measured. Raises ``CannotCreateError`` where ``out`` exists,
    ``InputOutputError`` where the disk refuses, ``UsageError`` for other ``weights``, and as ``charlm.load``.
    """
    run, out = Path(run), Path(out)
    if weights not in FORMS:
        raise UsageError(f"--weights must be one of {', '.join(FORMS)}, not {weights!r:.40}")
    _refuse_taken(out)
    checkpoint = open_checkpoint(run)
    parts = checkpoint_parts(checkpoint)
    config = {**checkpoint.config, "weights": weights}
    files = {
        **checkpoint.files,
        MODEL: weights_to_bytes(parts[2], weights),
        CONFIG: dump_json(config),
    }
    card = generated_part(config, (checkpoint.validation, checkpoint.step)) + "\n"
    _write(out, {CARD: card.encode(), **with_manifest(files)})
    written = checkpoint_parts(open_checkpoint(out))
    losses = _losses(checkpoint.path, parts, written)
    return Exported(out, checkpoint.step, _size(checkpoint.path), _size(out), *losses)


def _refuse_taken(out: Path) -> None:
    if is_step(out):
        raise CannotCreateError(f"{out} has a name that only the steps of a run have; choose another")
    if out.exists() or out.is_symlink():
        raise CannotCreateError(f"{out} exists already; name another folder, so that nothing is overwritten")


def _write(out: Path, files: dict[str, bytes]) -> None:
    made = [folder for folder in out.parents if not folder.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sync_made(made)
        write_folder(out, files, replace=False)
    except OSError as error:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        reason = f"{out} could not be written ({error.strerror or error})"
        if error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
            raise InputOutputError(f"{reason}; make room or mend the disk, then export again") from None
        raise CannotCreateError(f"{reason}; name another folder") from None


def _size(folder: Path) -> int:
    """Bytes of all that a step or an export consists of."""
    names = (*ALL_FILES, MANIFEST, CARD)
    return sum((folder / name).stat().st_size for name in names if (folder / name).is_file())


def _losses(home: Path, before: Parts, after: Parts) -> tuple[float | None, float | None]:
    """Of two versions of a model, on the validation text of the run that they come from."""
    try:
        corpus = corpus_beside(home)
        if corpus is None or not corpus.sizes["valid"].ids:
            return None, None
        if corpus.tokenizer.description() != before[1].description():
            return None, None
        text = ValidationText(corpus)
        engines = [create_engine(config, weights, "cpu") for config, _, weights in (before, after)]
        first, second = map(text.precision_loss, engines)
    except CharlmError as error:
        logger.warning("the loss could not be measured: %s", error)
        return None, None
    return first, second
