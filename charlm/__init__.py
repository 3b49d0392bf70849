"""charlm: a character-level LSTM language model.

``charlm.train`` trains a model on any text and ``charlm.resume`` continues a training. ``charlm.load`` opens a trained
model as a ``LanguageModel``, which generates and scores text. Nothing here prints; notices go to the logger "charlm".
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from charlm import errors
from charlm.errors import CharlmError

if TYPE_CHECKING:
    from charlm import runs
    from charlm.language_model import LanguageModel, load
    from charlm.runs import resume, train

__version__ = "0.1.0"
__all__ = ["CharlmError", "LanguageModel", "__version__", "errors", "load", "resume", "runs", "train"]

# Without this, Python prints the warnings of a library if the program has set up no logging.
logging.getLogger("charlm").addHandler(logging.NullHandler())

# Imported on first use, because they import numpy and torch.
_LAZY = {
    "LanguageModel": "charlm.language_model",
    "load": "charlm.language_model",
    "resume": "charlm.runs",
    "train": "charlm.runs",
}


def __getattr__(name: str) -> Any:
    if name == "runs":
        return importlib.import_module("charlm.runs")
    if name not in _LAZY:
        raise AttributeError(f"module 'charlm' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
