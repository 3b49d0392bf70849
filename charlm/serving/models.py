"""``ServedModels``: which models a server has, by name, and those of them that are loaded.

A client chooses among the names; what it sends is never part of a path. Folders of runs are read again for each list,
so that new runs appear. A run in training is opened again when its steps have changed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from charlm import __version__
from charlm.checkpoint.shipped import find_checkpoint
from charlm.checkpoint.step import CONFIG, MANIFEST, Checkpoint, has_step_name, open_checkpoint, step_folders
from charlm.errors import CharlmError, MissingInputError, UsageError
from charlm.language_model import LanguageModel
from charlm.serving.errors import ApiError
from charlm.serving.tokens import token_names

logger = logging.getLogger("charlm")

MAX_LOADED = 4
"""Models that are kept in memory. Another one takes the place of the one that was not used for longest."""
MAX_LISTED_VALUES = 100
_SECONDS_BETWEEN_LOOKS = 2.0


class ServedModel(NamedTuple):
    """A model that is loaded."""

    name: str
    model: LanguageModel
    names: list[str]
    """Of its ids, see ``token_names``."""
    fingerprint: str
    """Changes with the weights and with what computes: where it is the same, so is the text of a seed."""


class ServedModels:
    """The models in ``places``: runs, steps, exported models, folders of runs, names of models that come with charlm.

    Raises ``MissingInputError`` if there is none, ``UsageError`` if two have one name.
    """

    def __init__(self, places: Iterable[Path], precision: str = "auto", threads: int | None = None) -> None:
        self._places = [find_checkpoint(place) for place in places]
        self._options = precision, threads
        self._loaded: OrderedDict[str, tuple[tuple[object, ...], ServedModel]] = OrderedDict()
        self._locks: dict[str, asyncio.Lock] = {}
        self._paths: dict[str, Path] = {}
        self._looked_at = -_SECONDS_BETWEEN_LOOKS
        if not self.paths():
            listed = ", ".join(map(str, self._places))
            raise MissingInputError(f"there is no model in {listed}; train one (charlm train FILE), or name another")

    def paths(self) -> Mapping[str, Path]:
        """Name -> folder of every model there is now; the first is used by requests that name none."""
        if time.monotonic() - self._looked_at >= _SECONDS_BETWEEN_LOOKS:
            self._looked_at = time.monotonic()
            try:
                self._paths = dict(_models(self._places))
            except UsageError as error:
                if not self._paths:
                    raise
                logger.warning("new models are not served: %s", error)
        return self._paths

    @property
    def loaded(self) -> int:
        """How many are in memory."""
        return len(self._loaded)

    def path(self, name: str | None) -> tuple[str, Path]:
        """The name and the folder of a model. Raises ``ApiError`` 404."""
        paths = self.paths()
        name = next(iter(paths), "") if name is None else name
        if name not in paths:
            raise ApiError(
                404, f"the model {name!r:.80} does not exist here; /v1/models lists those that do", "model",
                "model_not_found",
            )  # fmt: skip
        return name, paths[name]

    async def get(self, name: str | None) -> ServedModel:
        """A model, which is loaded if it is not. Raises ``ApiError`` for an unknown name and a damaged model."""
        name, path = self.path(name)
        async with self._locks.setdefault(name, asyncio.Lock()):
            version = _version(path)
            kept = self._loaded.get(name)
            if kept is None or kept[0] != version:
                kept = version, await asyncio.to_thread(self._load, name, path)
                self._loaded[name] = kept
            self._loaded.move_to_end(name)
            while len(self._loaded) > MAX_LOADED:
                self._loaded.popitem(last=False)
            return kept[1]

    def _load(self, name: str, path: Path) -> ServedModel:
        precision, threads = self._options
        checkpoint = _opened(name, path)
        try:
            model = LanguageModel.from_checkpoint(checkpoint, "auto", precision, threads)
            engine = model.generation_engine.name  # creates it, and the one for scores, now
            _ = model.engine
            return ServedModel(name, model, token_names(model.tokenizer), _fingerprint(checkpoint, engine))
        except CharlmError as error:
            raise _unusable(name, error) from None

    def describe(self, name: str) -> dict[str, Any]:
        """What /v1/models says of a model. Raises ``ApiError``."""
        name, path = self.path(name)
        checkpoint = _opened(name, path, (CONFIG,))
        model, tokenizer = checkpoint.config.get("model", {}), checkpoint.config.get("tokenizer", {})
        table = checkpoint.config.get("table") or {}
        values = sorted((table.get("values") or {}).items(), key=lambda item: (-item[1], item[0]))
        return {
            "step": checkpoint.step,
            "layers": model.get("layers"),
            "hidden": model.get("hidden"),
            "vocabulary_size": model.get("vocabulary_size"),
            "tokenizer": tokenizer.get("kind"),
            "documents": tokenizer.get("documents"),
            "given": table.get("given"),
            "values": [value for value, _ in values[:MAX_LISTED_VALUES]],
            "validation_nats_per_char": checkpoint.validation,
        }


def created(path: Path) -> int:
    """The time of the newest step of a model, in seconds since 1970."""
    homes = [path, *(step for _, step in _steps(path))]
    times = [(home / MANIFEST).stat().st_mtime for home in homes if (home / MANIFEST).exists()]
    return int(max(times, default=0))


def _models(places: list[Path]) -> Iterator[tuple[str, Path]]:
    names: dict[str, Path] = {}
    for place in places:
        inside = [place] if _is_model(place) else sorted(filter(_is_model, _children(place)), key=created, reverse=True)
        for path in inside:
            resolved = path.resolve()
            name = f"{resolved.parent.name}/{resolved.name}" if has_step_name(resolved) else resolved.name
            if names.get(name, resolved) != resolved:
                raise UsageError(f"{names[name]} and {resolved} would both be named {name}; rename one of them")
            names[name] = resolved
            yield name, resolved


def _children(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError:
        return []


def _is_model(path: Path) -> bool:
    return path.is_dir() and ((path / MANIFEST).exists() or bool(_steps(path)))


def _steps(path: Path) -> list[tuple[int, Path]]:
    try:
        return step_folders(path)
    except CharlmError:
        return []


def _version(path: Path) -> tuple[object, ...]:
    """Differs when another step may be the best."""
    return (*(step for step, _ in _steps(path)), created(path))


def _opened(name: str, path: Path, files: tuple[str, ...] = ()) -> Checkpoint:
    try:
        return open_checkpoint(path, names=files) if files else open_checkpoint(path)
    except CharlmError as error:
        raise _unusable(name, error) from None


def _unusable(name: str, error: CharlmError) -> ApiError:
    logger.warning("the model %s cannot be used: %s", name, error)
    return ApiError(503, f"the model {name!r:.80} cannot be used; the server's log says why", "model")


def _fingerprint(checkpoint: Checkpoint, engine: str) -> str:
    return f"charlm-{__version__} step-{checkpoint.step} {engine}"
