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
from charlm.system import forks as _forks  # noqa: F401  # notices each fork, before torch is imported

if TYPE_CHECKING:
    from charlm import config, export, runs
    from charlm.language_model import LanguageModel, load
    from charlm.plots.figure import plot
    from charlm.plots.metrics import metrics
    from charlm.plots.run_summary import list_runs
    from charlm.runs import resume, train

__version__ = "0.1.0"
__all__ = [
    "CharlmError", "LanguageModel", "__version__", "config", "errors", "export", "list_runs", "load", "metrics", "plot",
    "resume", "runs", "train",
]  # fmt: skip

# Without this, Python prints the warnings of a library if the program has set up no logging.
logging.getLogger("charlm").addHandler(logging.NullHandler())

# Imported on first use, because they import numpy, torch and matplotlib.
_LAZY = {
    "LanguageModel": "charlm.language_model",
    "list_runs": "charlm.plots.run_summary",
    "load": "charlm.language_model",
    "metrics": "charlm.plots.metrics",
    "plot": "charlm.plots.figure",
    "resume": "charlm.runs",
    "train": "charlm.runs",
}
_MODULES = ("config", "export", "runs")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"charlm.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module 'charlm' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
