"""The tokenizer that a checkpoint or a corpus was saved with."""

from __future__ import annotations

import hashlib
from typing import Any

from charlm.errors import DataError
from charlm.tokenizer.bytes import ByteTokenizer
from charlm.tokenizer.characters import CharTokenizer
from charlm.tokenizer.documents import DocumentTokenizer
from charlm.tokenizer.protocol import SEPARATORS, Tokenizer


def load_tokenizer(description: Any, model: bytes | None) -> Tokenizer:
    """The tokenizer of a checkpoint. Raises ``DataError`` where its parts are missing or disagree."""
    inner = _load_inner(description, model)
    documents = description.get("documents")
    if documents is None:
        return inner
    if not isinstance(documents, str) or documents not in SEPARATORS:
        raise DataError(
            f"config.json names documents {documents!r:.40}, which this charlm does not have; update charlm"
        )
    return DocumentTokenizer(inner, documents)


def _load_inner(description: Any, model: bytes | None) -> Tokenizer:
    kind = description.get("kind") if isinstance(description, dict) else None
    if kind == "byte":
        return ByteTokenizer()
    if kind != "char":
        raise DataError(f"config.json names the tokenizer {kind!r:.40}, which this charlm does not have; update charlm")
    if model is None:
        raise DataError("tokenizer.model is missing; restore it from a backup")
    spelt = description.get("spelt_in_bytes")
    if not isinstance(spelt, list) or not all(type(code) is int for code in spelt):
        raise DataError("config.json: the tokenizer's spelt_in_bytes is no list of code points")
    if description.get("sha256") != hashlib.sha256(model).hexdigest():
        raise DataError("tokenizer.model is not the one config.json was written with; restore it from a backup")
    return CharTokenizer(model, tuple(spelt))
