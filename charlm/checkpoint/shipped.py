"""The trained models that come with charlm, which are opened by name."""

from __future__ import annotations

from pathlib import Path

from charlm.errors import MissingInputError

SHIPPED = ("shakespeare",)
"""Their names. Each is a folder in ``checkpoints`` of the repository, which the wheel contains as ``charlm/models``."""

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = (_PACKAGE / "models", _PACKAGE.parent / "checkpoints")


def find_checkpoint(path: Path) -> Path:
    """``path`` itself if it exists or has several parts; otherwise the folder of the shipped model of this name.

    Raises ``MissingInputError`` if there is no such model.
    """
    if path.exists() or len(path.parts) != 1 or path.is_absolute():
        return path
    if path.name in SHIPPED:
        for folder in _FOLDERS:
            if (folder / path.name).is_dir():
                return folder / path.name
    raise MissingInputError(
        f"{path} does not exist; name a run, one of its steps or a model that comes with charlm "
        f"({', '.join(SHIPPED)}), or train one: charlm train FILE"
    )
