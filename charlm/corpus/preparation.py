"""Preparing a corpus: a text becomes files of ids.

The text is read in three passes in constant memory: measure and check it, count the characters of the training part,
write the ids. The vocabulary comes from the training part alone, so that figures on the rest are honest. A text that
runs on is split in order; documents are split whole, shuffled by the seed, and cost some tens of bytes of memory each.

Where the tokenizer is "char", the training ids also teach the byte pieces, which would otherwise never be seen and
turn every unknown character into noise: a rare character is spelt in bytes in about one of its occurrences, and
one character in ``FOREIGN_RATE`` is replaced by one from elsewhere in Unicode. Validation and test stay as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from charlm.config import dump_json
from charlm.corpus.documents import Fingerprints, Piece, shuffled, split_documents
from charlm.corpus.prepared import FINGERPRINTS, SPLITS, Corpus, content_digest, open_corpus, sources_fingerprint
from charlm.corpus.text import TextSource
from charlm.errors import CannotCreateError, DataError
from charlm.tokenizer.bytes import ByteTokenizer
from charlm.tokenizer.characters import CharTokenizer
from charlm.tokenizer.documents import DocumentTokenizer
from charlm.tokenizer.protocol import Codes, Ids, Tokenizer, id_dtype

RARE_COUNT = 20
FOREIGN_RATE = 10_000
# Where the characters that people's prompts bring come from: accents, other alphabets, punctuation, signs, CJK, emoji.
_FOREIGN_RANGES = (
    (0x20, 0x7F), (0xA0, 0x180), (0xC0, 0x100), (0x370, 0x530), (0x2010, 0x2030), (0x20A0, 0x2600),
    (0x3040, 0x3100), (0x4E00, 0x9FFF), (0x1F300, 0x1F650),
)  # fmt: skip
_NOISE_SEED = 0xC4A71
_SPLIT_KEY = 0x5B117
_LEFT_OUT = len(SPLITS)
_NO_ENDS = np.zeros(0, np.int64)

Progress = Callable[[int], None]
Shares = tuple[float, float, float]


@dataclass(frozen=True)
class DocumentChoices:
    """How a text falls into documents: ``form`` is a key of ``SEPARATORS``, ``seed`` shuffles them into the splits.

    With ``distinct`` a document that stands in the text again is left out.
    """

    form: str
    seed: int = 1
    distinct: bool = False


def prepare(
    folder: Path,
    source: TextSource,
    kind: str = "char",
    split: Shares = (0.9, 0.05, 0.05),
    others: dict[str, TextSource] | None = None,
    progress: Progress = lambda characters: None,
    documents: DocumentChoices | None = None,
) -> Corpus:
    """Write the corpus ``folder`` from ``source``; ``others`` gives "valid" and "test" texts of their own.

    With a "valid" text of its own, all of ``source`` is training text; with only a "test" text, its test share is.
    ``progress`` is called with the number of characters read since the last call, three times over the length of the
    text. Raises ``DataError`` where the text cannot be read or is too short, ``CannotCreateError`` where the folder
    cannot be written.
    """
    others = others or {}
    chosen = {"shares": None if others else split, "distinct": documents is not None and documents.distinct}
    if "valid" in others:
        split = (1.0, 0.0, 0.0)
    elif "test" in others:
        split = (split[0] + split[2], split[1], 0.0)
    cutter = _make_cutter(source, kind, split, documents, progress)
    counts = _count(cutter, kind, progress)
    tokenizer = _build_tokenizer(counts, kind, documents)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            writers = {name: _IdWriter(folder, name, tokenizer, opened) for name in SPLITS}
            _write(writers, cutter, tokenizer, counts, progress)
            for name, other in others.items():
                for pieces in _make_cutter(other, kind, (1.0, 0.0, 0.0), documents, lambda count: None).pieces():
                    writers[name].write(_inner(tokenizer).encode_codes(pieces[0].codes), pieces[0])
            _write_description(folder, source, tokenizer, counts, writers, others, chosen)
    except OSError as error:
        raise CannotCreateError(
            f"{folder} cannot be written ({error.strerror}); choose another place with --out"
        ) from None
    return open_corpus(folder)


# ---------------------------------------------------------------------------------------------------- cutting


class _Cutter(Protocol):
    def pieces(self) -> Iterator[tuple[Piece, Piece, Piece]]:
        """The text once more, block by block: what of it is training, validation and test text."""
        ...


def _make_cutter(
    source: TextSource, kind: str, shares: Shares, documents: DocumentChoices | None, progress: Progress
) -> _Cutter:
    """Measure a text and decide which part of it goes where."""
    if documents is None:
        return _InOrder(source, kind, shares, progress)
    return _ByDocument(source, kind, shares, documents, progress)


def _bounds(total: int, shares: Shares) -> list[int]:
    return [0, round(total * shares[0]), round(total * (shares[0] + shares[1])), total]


class _InOrder:
    """A text that runs on: its beginning, its middle and its end."""

    def __init__(self, source: TextSource, kind: str, shares: Shares, progress: Progress) -> None:
        self._source, self._kind = source, kind
        total = 0
        for codes in source.codes(kind):
            progress(len(codes))
            total += len(codes)
        self._bounds = _bounds(total, shares)

    def pieces(self) -> Iterator[tuple[Piece, Piece, Piece]]:
        position = 0
        for codes in self._source.codes(self._kind):
            spans = zip(self._bounds[:-1], self._bounds[1:], strict=True)
            train, valid, test = (
                Piece(codes[max(0, start - position) : max(0, stop - position)], _NO_ENDS) for start, stop in spans
            )
            yield train, valid, test
            position += len(codes)


class _ByDocument:
    """Whole documents, shuffled into the parts."""

    def __init__(
        self, source: TextSource, kind: str, shares: Shares, choices: DocumentChoices, progress: Progress
    ) -> None:
        self._seed = choices.seed
        self._source, self._kind, self._form = source, kind, choices.form
        fingerprints, found = Fingerprints(), []
        total = 0
        for piece in self._found():
            progress(len(piece.codes))
            total += len(piece.ends)
            if choices.distinct:
                found.append(fingerprints.add(piece))
        self._rank = np.arange(total)
        if choices.distinct and total:
            firsts = np.unique(np.concatenate(found), return_index=True)[1]
            self._rank = np.full(total, -1)
            self._rank[np.sort(firsts)] = np.arange(len(firsts))
            total = len(firsts)
        self._bounds = _bounds(total, shares)

    def _found(self) -> Iterator[Piece]:
        return split_documents(self._source.files(self._kind), self._form)

    def pieces(self) -> Iterator[tuple[Piece, Piece, Piece]]:
        done = 0
        for codes, ends in self._found():
            lengths = np.diff(ends, prepend=0, append=len(codes))
            part_of = self._part_of(np.arange(done, done + len(lengths)))
            part_of_code = np.repeat(part_of, lengths)
            done += len(ends)
            train, valid, test = (
                Piece(codes[part_of_code == part], np.cumsum(lengths[:-1][part_of[:-1] == part]))
                for part in range(len(SPLITS))
            )
            yield train, valid, test

    def _part_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        parts = np.full(len(numbers), _LEFT_OUT)
        there = numbers < len(self._rank)  # after the last document nothing is begun
        ranks = self._rank[numbers[there]]
        places = shuffled(np.maximum(ranks, 0), self._bounds[-1], self._seed, _SPLIT_KEY)
        parts[there] = np.where(ranks < 0, _LEFT_OUT, np.searchsorted(self._bounds[1:-1], places, side="right"))
        return parts


# ---------------------------------------------------------------------------------------------------- the vocabulary


def _count(cutter: _Cutter, kind: str, progress: Progress) -> NDArray[np.int64]:
    """[codes] how often each occurs in the training text."""
    counts = np.zeros(256 if kind == "byte" else 0x110000, np.int64)
    for pieces in cutter.pieces():
        progress(sum(len(piece.codes) for piece in pieces))
        codes = pieces[0].codes
        found = np.bincount(codes) if len(codes) else np.zeros(0, np.int64)
        counts[: len(found)] += found
    distinct = int(np.count_nonzero(counts))
    if distinct < 2:
        raise DataError(
            f"the training text has {'no character' if not distinct else 'one distinct character'}: there is nothing "
            "to learn; choose a longer or more varied text"
        )
    return counts


def _build_tokenizer(counts: NDArray[np.int64], kind: str, documents: DocumentChoices | None) -> Tokenizer:
    there = {int(code): int(counts[code]) for code in np.flatnonzero(counts)}
    inner: Tokenizer = ByteTokenizer() if kind == "byte" else CharTokenizer.build(there)
    return inner if documents is None else DocumentTokenizer(inner, documents.form)


def _inner(tokenizer: Tokenizer) -> Tokenizer:
    return tokenizer.inner if isinstance(tokenizer, DocumentTokenizer) else tokenizer


def _spelling_rates(counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """[codes] how often a character is spelt in bytes: rare ones about once each, at most every second time."""
    rates = np.zeros(len(counts), np.float32)
    rare = (counts > 0) & (counts <= RARE_COUNT)
    rates[rare] = np.minimum(0.5, 1.0 / counts[rare])
    return rates


def _with_spellings(codes: Codes, tokenizer: CharTokenizer, rates: NDArray[np.float32], number: int) -> Ids:
    """Ids of block ``number`` of the training text, some characters spelt in bytes and a few replaced by strangers."""
    random = np.random.Generator(np.random.Philox(key=[_NOISE_SEED, number]))
    spell = np.zeros(len(codes), np.bool_)
    rare = np.flatnonzero(rates.take(codes))
    spell[rare] = random.random(len(rare)) < rates[codes[rare]]
    strangers = (
        random.integers(len(codes), size=random.binomial(len(codes), 1.0 / FOREIGN_RATE)) if len(codes) else rare
    )
    if len(strangers):
        codes = codes.astype(np.uint32)
        codes[strangers] = _foreign(random, len(strangers))
        spell[strangers] = True
    return tokenizer.encode_codes(codes, spell)


def _foreign(random: np.random.Generator, count: int) -> NDArray[np.uint32]:
    ranges = np.array(_FOREIGN_RANGES)[random.integers(len(_FOREIGN_RANGES), size=count)]
    return random.integers(ranges[:, 0], ranges[:, 1], dtype=np.uint32)


# ---------------------------------------------------------------------------------------------------- writing


def _write(
    writers: dict[str, _IdWriter],
    cutter: _Cutter,
    tokenizer: Tokenizer,
    counts: NDArray[np.int64],
    progress: Progress,
) -> None:
    rates = _spelling_rates(counts)
    inner = _inner(tokenizer)
    for number, pieces in enumerate(cutter.pieces()):
        progress(sum(len(piece.codes) for piece in pieces))
        for name, piece in zip(SPLITS, pieces, strict=True):
            if name == "train" and isinstance(inner, CharTokenizer):
                writers[name].write(_with_spellings(piece.codes, inner, rates, number), piece)
            else:
                writers[name].write(inner.encode_codes(piece.codes), piece)


class _IdWriter:
    """Writes one file of ids, and of documents their ends, and keeps the sums that corpus.json tells."""

    def __init__(self, folder: Path, name: str, tokenizer: Tokenizer, opened: contextlib.ExitStack) -> None:
        self._tokenizer = tokenizer
        self._dtype = id_dtype(tokenizer.vocabulary_size)
        self._per_id = np.zeros(tokenizer.vocabulary_size, np.int64)
        self._ids = _DigestedFile(folder / f"{name}.ids", opened)
        self._ends = _DigestedFile(folder / f"{name}.ends", opened) if tokenizer.documents else None
        self._fingerprints = Fingerprints()
        self._found: list[NDArray[np.uint64]] = []

    def write(self, ids: Ids, piece: Piece) -> None:
        """Add the ids of ``piece`` without end markers."""
        if isinstance(self._tokenizer, DocumentTokenizer) and self._ends is not None:
            ids = self._tokenizer.with_ends(ids, piece.ends)
            ends = np.flatnonzero(ids == self._tokenizer.end_id) + 1
            self._ends.write((ends + int(self._per_id.sum())).astype("<u8").tobytes())
            self._found.append(self._fingerprints.add(piece))
        self._ids.write(ids.astype(self._dtype, copy=False).tobytes())
        self._per_id += np.bincount(ids, minlength=self._tokenizer.vocabulary_size)

    def fingerprints(self) -> NDArray[np.uint64]:
        """Of every document written, ascending."""
        return np.sort(np.concatenate(self._found)) if self._found else np.zeros(0, np.uint64)

    def finish(self) -> dict[str, Any]:
        """Close the files and tell what is in them."""
        end_id = self._tokenizer.end_id
        documents = 0 if end_id is None else int(self._per_id[end_id])
        description = {
            "ids": int(self._per_id.sum()),
            "characters": int(self._per_id[self._tokenizer.starts_character].sum()) - documents,
            "bytes": int(self._per_id @ self._tokenizer.byte_lengths) - documents,
            "sha256": self._ids.finish(),
        }
        if self._ends is None:
            return description
        return {**description, "documents": documents, "ends_sha256": self._ends.finish()}


class _DigestedFile:
    """A file that is written, synced and digested; ``opened`` closes it if that comes to nothing."""

    def __init__(self, path: Path, opened: contextlib.ExitStack) -> None:
        self._digest = hashlib.sha256()
        self._file = opened.enter_context(open(path, "wb"))  # noqa: SIM115  # closed by finish, or by ``opened``

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)

    def finish(self) -> str:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest()


def _utf8_size(counts: NDArray[np.int64], kind: str) -> int:
    if kind == "byte":
        return int(counts.sum())
    return int(sum(counts[start:].sum() for start in (0, 0x80, 0x800, 0x10000)))


def _write_description(
    folder: Path,
    source: TextSource,
    tokenizer: Tokenizer,
    counts: NDArray[np.int64],
    writers: dict[str, _IdWriter],
    others: dict[str, TextSource],
    chosen: dict[str, Any],
) -> None:
    splits = {name: writer.finish() for name, writer in writers.items()}
    # The spellings made the training ids longer; people are told the size of the text.
    splits["train"].update(characters=int(counts.sum()), bytes=_utf8_size(counts, tokenizer.kind))
    model = tokenizer.to_bytes()
    if model is not None:
        _write_bytes(folder / "tokenizer.model", model)
    if tokenizer.documents:
        learnt = writers["train"].fingerprints()
        _write_bytes(folder / FINGERPRINTS, learnt.astype("<u8").tobytes())
        for name in SPLITS[1:]:
            splits[name]["repeated"] = int(np.isin(writers[name].fingerprints(), learnt).sum())
    groups = [source, *others.values()]
    symbols = np.append(counts, splits["train"]["documents"] if tokenizer.documents else 0)
    probabilities = symbols[symbols > 0] / symbols.sum()
    description = {
        "format": 1,
        "name": source.name,
        "encoding": source.encoding,
        "sources": [group.names for group in groups],
        "fingerprint": sources_fingerprint(groups),
        "sha256": content_digest(groups),
        "tokenizer": tokenizer.description(),
        "distinct_characters": int(np.count_nonzero(counts)),
        "unigram_nats": float(-(probabilities * np.log(probabilities)).sum()),
        "splits": splits,
        **chosen,
    }
    _write_bytes(folder / "corpus.json", dump_json(description))


def _write_bytes(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
