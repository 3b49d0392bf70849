"""Rebuild the tokenizer that a checkpoint or a corpus was saved with."""

from __future__ import annotations

import hashlib
from typing import Any

from charlm.errors import DataError, UsageError
from charlm.tokenizer.bytes import ByteTokenizer
from charlm.tokenizer.characters import CharTokenizer
from charlm.tokenizer.documents import DocumentTokenizer, compile_start
from charlm.tokenizer.normalization import NORMALIZATIONS
from charlm.tokenizer.protocol import DOCUMENT_SEPARATORS, Tokenizer


def load_tokenizer(description: Any, model: bytes | None) -> Tokenizer:
    """The tokenizer from ``Tokenizer.description()`` and the content of ``tokenizer.model``.

    Raises ``DataError`` where a part is missing or the two disagree.
    """
    inner = _load_inner(description, model)
    document_kind = description.get("documents")
    if document_kind is None:
        return inner
    if not isinstance(document_kind, str) or document_kind not in DOCUMENT_SEPARATORS:
        raise DataError(f"config.json has documents {document_kind!r:.40}, unknown to this charlm; update charlm")
    start = _start(description) if document_kind == "start" else None
    has_separator = description.get("separator", False)
    if not isinstance(has_separator, bool):
        raise DataError("config.json: the tokenizer's separator is not true or false; restore it from a backup")
    return DocumentTokenizer(inner, document_kind, has_separator, start)


def _start(description: Any) -> str:
    expression = description.get("document_start")
    try:
        compile_start(expression if isinstance(expression, str) else "")
    except UsageError as error:
        raise DataError(f"config.json: {str(error).partition(';')[0]}; restore it from a backup") from None
    return str(expression)


def _load_inner(description: Any, model: bytes | None) -> Tokenizer:
    kind = description.get("kind") if isinstance(description, dict) else None
    if kind == "byte":
        return ByteTokenizer()
    if kind != "char":
        raise DataError(f"config.json has the tokenizer {kind!r:.40}, unknown to this charlm; update charlm")
    if model is None:
        raise DataError("tokenizer.model is missing; restore it from a backup")
    in_bytes = description.get("spelt_in_bytes")
    if not isinstance(in_bytes, list) or not all(type(code) is int for code in in_bytes):
        raise DataError(
            "config.json: the tokenizer's spelt_in_bytes is not a list of code points; restore it from a backup"
        )
    if description.get("sha256") != hashlib.sha256(model).hexdigest():
        raise DataError("tokenizer.model is not the one config.json was written with; restore it from a backup")
    normalization = description.get("normalize", "none")
    if normalization not in NORMALIZATIONS:
        raise DataError(f"config.json has the normal form {normalization!r:.40}, unknown to this charlm; update charlm")
    return CharTokenizer(model, tuple(in_bytes), normalization)
