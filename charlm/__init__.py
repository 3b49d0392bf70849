"""charlm: a character-level LSTM language model.

``charlm.train`` trains on any text, ``charlm.load`` opens what was trained as a ``LanguageModel`` that writes and
measures text. Nothing here prints; notices go to the logger "charlm". Names load what they need on first use.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from charlm.language_model import LanguageModel, load
    from charlm.runs import train

__version__ = "0.1.0"
__all__ = ["LanguageModel", "__version__", "load", "train"]

# Without this, Python would print the warnings of a library whose user set up no logging.
logging.getLogger("charlm").addHandler(logging.NullHandler())

_HOMES = {"train": "charlm.runs", "load": "charlm.language_model", "LanguageModel": "charlm.language_model"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'charlm' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
