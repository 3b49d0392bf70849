"""Preparing a corpus: a text becomes files of ids.

The text is read in three passes in constant memory: measure it (``splitting``), count the characters of the training
split, write the ids. The vocabulary comes from the training split alone, so that the other splits are really unseen.
With byte fallback, some characters of the training split are encoded as bytes (``byte_fallback``).
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.config import dump_json
from charlm.corpus.byte_fallback import encode_with_fallback, fallback_rates
from charlm.corpus.conditions import ConditionCounts, prefix_codes, values_of, without_prefixes
from charlm.corpus.prepared import FINGERPRINTS, SPLITS, Corpus, content_digest, open_corpus, source_stamp
from charlm.corpus.split_writer import Encoded, SplitWriter, encoded, write_bytes
from charlm.corpus.splitting import Block, DocumentOptions, Fractions, ProgressCallback, Splitter, make_splitter
from charlm.corpus.tables import TableSource
from charlm.corpus.text import TextSource
from charlm.corpus.trained_table import TrainedTable
from charlm.corpus.workers import Workers
from charlm.errors import CannotCreateError, DataError
from charlm.tokenizer.bytes import ByteTokenizer
from charlm.tokenizer.characters import CharTokenizer
from charlm.tokenizer.documents import DocumentTokenizer
from charlm.tokenizer.protocol import Tokenizer

logger = logging.getLogger("charlm")

_ALL_TRAIN: Fractions = (1.0, 0.0, 0.0)
_WORDS = {"train": "training", "valid": "validation", "test": "test"}


def prepare(
    folder: Path,
    source: TextSource,
    kind: str = "char",
    split: Fractions = (0.9, 0.05, 0.05),
    others: dict[str, TextSource] | None = None,
    progress: ProgressCallback = lambda characters: None,
    documents: DocumentOptions | None = None,
    threads: int | None = None,
) -> Corpus:
    """Write the corpus ``folder`` from ``source`` for the tokenizer ``kind``.

    ``others`` are separate texts for "valid" and "test". With a "valid" text, all of ``source`` is training text; with
    only a "test" text, its test fraction is. ``progress`` is called with the number of characters read since the last
    call, in total three times the length of the text. ``threads`` is that of ``Workers``; it changes no file.

    Raises ``DataError`` where the text cannot be read or is too short, ``CannotCreateError`` where the folder cannot be
    written.
    """
    others = others or {}
    choices: dict[str, Any] = {
        "shares": None if others else split,
        "distinct": documents is not None and documents.distinct,
    }
    groups = [source, *others.values()]
    stamp = source_stamp(groups)
    if "valid" in others:
        split = _ALL_TRAIN
    elif "test" in others:
        split = (split[0] + split[2], split[1], 0.0)
    with Workers(threads) as workers:
        digest = workers.begin(partial(content_digest, groups))
        splitter = make_splitter(source, kind, split, documents, workers, progress)
        conditions = ConditionCounts() if documents is not None and documents.conditional else None
        counts = _count(splitter, kind, workers, progress, conditions)
        tokenizer = _build_tokenizer(counts, kind, documents, conditions, source.decoding.normalization)
        splitters = [splitter]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as stack:
                is_documents, has_prefixes = documents is not None, conditions is not None
                writers = {name: SplitWriter(folder, name, is_documents, has_prefixes, stack) for name in SPLITS}
                _write(list(writers.values()), splitter, _Encoder(tokenizer, counts), workers, progress)
                for name, other in others.items():
                    splitters.append(make_splitter(other, kind, _ALL_TRAIN, documents, workers))
                    _write([writers[name]], splitters[-1], _Encoder(tokenizer), workers)
                choices |= _changes(groups, sum(each.skipped for each in splitters))
                if isinstance(source, TableSource):
                    values = {} if conditions is None else conditions.values
                    choices["table"] = TrainedTable(source.options.column, source.options.given, values).as_dict()
                choices |= {"fingerprint": stamp, "sha256": digest()}
                _write_description(folder, tokenizer, counts, writers, groups, choices)
        except OSError as error:
            raise CannotCreateError(
                f"{error.filename or folder} cannot be written ({error.strerror}); choose another place with --out"
            ) from None
    if source_stamp(groups) != stamp:
        raise DataError("the text was changed while it was read; try again, or train on a copy of it")
    return open_corpus(folder)


def _changes(groups: list[TextSource], skipped: int) -> dict[str, Any]:
    """What reading has changed in the texts, for corpus.json; nothing where nothing was asked for."""
    decoding = groups[0].decoding
    changed: dict[str, Any] = {}
    if decoding.errors != "strict":
        changed["errors"] = decoding.errors
        changed["replaced"] = sum(group.changes.replaced for group in groups)
        changed["skipped_documents"] = skipped + sum(group.changes.skipped for group in groups)
    if decoding.normalization != "none":
        changed["normalized"] = sum(group.changes.normalized for group in groups)
    return changed


def log_warnings(corpus: Corpus) -> None:
    """Log a warning of what a user may not expect of a corpus that was just prepared."""
    description, sizes, kind = corpus.description, corpus.sizes, corpus.tokenizer.document_kind
    if replaced := description.get("replaced"):
        logger.warning("invalid bytes replaced by U+FFFD: %s", f"{replaced:,}")
    if skipped := description.get("skipped_documents"):
        logger.warning("documents skipped for invalid bytes: %s", f"{skipped:,}")
    if kind is not None and sum(size.documents for size in sizes.values()) == 1:
        if kind == "rows":
            logger.warning("the whole text is one row, so there is none to validate on; use a table with more rows")
            return
        logger.warning(
            "the whole text is one document (%s), so there is none to validate on; say what a document is with another "
            "--documents or with --document-start", "--document-start" if kind == "start" else f"--documents {kind}"
        )  # fmt: skip
        return
    shares = zip(_WORDS.items(), description["shares"] or (0.0, 0.0, 0.0), strict=True)
    empty = [word for (name, word), share in shares if share and not sizes[name].ids]
    if empty:
        unit = "characters" if kind is None else "documents"
        logger.warning(
            "the text has too few %s for a %s part; use a longer text or another --split", unit, " and a ".join(empty)
        )


def _count(
    splitter: Splitter, kind: str, workers: Workers, progress: ProgressCallback, conditions: ConditionCounts | None
) -> NDArray[np.int64]:
    """[codes] how often each occurs in the training split; those of conditions are counted by ``conditions``."""
    counts = np.zeros(256 if kind == "byte" else 0x110000, np.int64)

    def count(block: Block) -> tuple[int, NDArray[np.int64], list[str]]:
        pieces = block()
        text, values = pieces[0], list[str]()
        if conditions is not None:
            text, values = without_prefixes(text), values_of(text, kind)
        found = np.bincount(text.codes) if len(text.codes) else np.zeros(0, np.int64)
        return sum(len(piece.codes) for piece in pieces), found, values

    for read, found, values in workers.map(count, splitter.blocks()):
        progress(read)
        counts[: len(found)] += found
        if conditions is not None:
            conditions.add(values)
    distinct = int(np.count_nonzero(counts))
    if distinct < 2:
        raise DataError(
            f"the training text has {'no character' if not distinct else 'one distinct character'}, so there is "
            "nothing to learn; choose a longer or more varied text"
        )
    return counts


def _build_tokenizer(
    counts: NDArray[np.int64],
    kind: str,
    documents: DocumentOptions | None,
    conditions: ConditionCounts | None,
    normalization: str,
) -> Tokenizer:
    occurring = Counter({int(code): int(counts[code]) for code in np.flatnonzero(counts)})
    if conditions is not None:
        occurring.update(conditions.characters())
    inner: Tokenizer = ByteTokenizer() if kind == "byte" else CharTokenizer.build(occurring, normalization)
    if documents is None:
        return inner
    return DocumentTokenizer(inner, documents.document_kind, conditions is not None, documents.start)


class _Encoder:
    """Encodes blocks for ``tokenizer``. With the ``counts`` of the training text, its pieces get byte fallback."""

    def __init__(self, tokenizer: Tokenizer, counts: NDArray[np.int64] | None = None) -> None:
        self._tokenizer = tokenizer
        self._rates = None if counts is None or not tokenizer.has_byte_fallback else fallback_rates(counts)

    def encode(self, numbered: tuple[int, Block]) -> tuple[int, list[Encoded]]:
        """The number of codes of a block, which comes with its number, and its pieces."""
        number, block = numbered
        train, *others = pieces = block()
        tokenizer = self._tokenizer
        if self._rates is None:
            ids = tokenizer.encode_codes(train.codes)
        else:
            fixed = None if tokenizer.separator_id is None else prefix_codes(train)
            ids = encode_with_fallback(train.codes, tokenizer, self._rates, number, fixed)
        done = [encoded(train, ids, tokenizer)]
        done += [encoded(piece, tokenizer.encode_codes(piece.codes), tokenizer) for piece in others]
        return sum(len(piece.codes) for piece in pieces), done


def _write(
    writers: list[SplitWriter],
    splitter: Splitter,
    encoder: _Encoder,
    workers: Workers,
    progress: ProgressCallback = lambda characters: None,
) -> None:
    """Write the pieces of each block with ``writers``."""

    def write(block: tuple[int, list[Encoded]]) -> int:
        read, pieces = block
        for writer, piece in zip(writers, pieces, strict=False):  # only one writer where all is of one split
            writer.write(piece)
        return read

    for read in workers.map_in_order(write, workers.map(encoder.encode, enumerate(splitter.blocks()))):
        progress(read)


def _utf8_size(counts: NDArray[np.int64], kind: str) -> int:
    if kind == "byte":
        return int(counts.sum())
    return int(sum(counts[start:].sum() for start in (0, 0x80, 0x800, 0x10000)))


def _write_description(
    folder: Path,
    tokenizer: Tokenizer,
    counts: NDArray[np.int64],
    writers: dict[str, SplitWriter],
    groups: list[TextSource],
    choices: dict[str, Any],
) -> None:
    splits = {name: writer.finish() for name, writer in writers.items()}
    # The size of the text itself, which byte fallback has made longer.
    splits["train"].update(characters=int(counts.sum()), bytes=_utf8_size(counts, tokenizer.kind))
    model = tokenizer.to_bytes()
    if model is not None:
        write_bytes(folder / "tokenizer.model", model)
    if tokenizer.document_kind:
        fingerprints = writers["train"].fingerprints()
        write_bytes(folder / FINGERPRINTS, fingerprints.astype("<u8").tobytes())
        for name in SPLITS[1:]:
            own = writers[name].fingerprints()
            first, last = (np.searchsorted(fingerprints, own, side) for side in ("left", "right"))
            splits[name]["repeated"] = int(np.count_nonzero(first < last))
    symbol_counts = np.append(counts, splits["train"]["documents"] if tokenizer.document_kind else 0)
    probabilities = symbol_counts[symbol_counts > 0] / symbol_counts.sum()
    description = {
        "format": 1,
        "name": groups[0].name,
        "encoding": groups[0].encoding,
        "sources": [group.names for group in groups],
        "tokenizer": tokenizer.description(),
        "distinct_characters": int(np.count_nonzero(counts)),
        "unigram_nats": float(-(probabilities * np.log(probabilities)).sum()),
        "splits": splits,
        **choices,
    }
    write_bytes(folder / "corpus.json", dump_json(description))
