"""Corpora on disk: a text becomes files of ids that training reads by position.

A prepared corpus is a folder with ``train.ids``, ``valid.ids`` and ``test.ids`` (bare little-endian numbers),
``tokenizer.model`` and ``corpus.json``, which comes last and says what the others must be. The text is read in three
passes in constant memory: measure and check it, count the characters of the training part, write the ids. The
vocabulary comes from the training part alone, so that figures on the rest are honest.

Where the tokenizer is "char", the training ids also teach the byte pieces, which would otherwise never be seen and
turn every unknown character into noise: a rare character is spelt in bytes in about one of its occurrences, and
one character in ``FOREIGN_RATE`` is replaced by one from elsewhere in Unicode. Validation and test stay as they are.
"""

from __future__ import annotations

import hashlib
import math
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.config import dump_json, parse_json
from charlm.errors import CannotCreateError, DataError, InputOutputError, MissingInputError, UsageError
from charlm.text import TextSource, open_source
from charlm.tokenizer import ByteTokenizer, CharTokenizer, Codes, Ids, Tokenizer, id_dtype, load_tokenizer

SPLITS = ("train", "valid", "test")
RARE_COUNT = 20
FOREIGN_RATE = 10_000
# Where the characters that people's prompts bring come from: accents, other alphabets, punctuation, signs, CJK, emoji.
_FOREIGN_RANGES = (
    (0x20, 0x7F), (0xA0, 0x180), (0xC0, 0x100), (0x370, 0x530), (0x2010, 0x2030), (0x20A0, 0x2600),
    (0x3040, 0x3100), (0x4E00, 0x9FFF), (0x1F300, 0x1F650),
)  # fmt: skip
_NOISE_SEED = 0xC4A71


@dataclass(frozen=True)
class SplitSize:
    """One part of a corpus: ``ids`` on disk, ``characters`` and UTF-8 ``bytes`` of its text, before any spelling."""

    ids: int
    characters: int
    bytes: int


class IdFile:
    """Ids on disk, read by position. Nothing is mapped: what was read costs no memory afterwards."""

    def __init__(self, path: Path, dtype: np.dtype[Any], length: int) -> None:
        self.path = path
        self.dtype = dtype
        self.length = length
        try:
            self._handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise MissingInputError(f"{path} cannot be opened ({error.strerror}); prepare the corpus again") from None
        weakref.finalize(self, os.close, self._handle)
        if os.fstat(self._handle).st_size != length * dtype.itemsize:
            raise DataError(f"{path} has not the size that corpus.json says; prepare the corpus again")

    def __len__(self) -> int:
        return self.length

    def read(self, start: int, stop: int) -> Ids:
        """Ids ``start`` to ``stop`` (exclusive), in the narrow dtype of the file."""
        size = self.dtype.itemsize
        wanted = (stop - start) * size
        try:
            data = _read_at(self._handle, wanted, start * size)
        except OSError as error:
            raise InputOutputError(f"{self.path} could not be read: {error.strerror}") from None
        if len(data) != wanted:
            raise InputOutputError(f"{self.path} ended at byte {start * size + len(data)}; it was cut while in use")
        return np.frombuffer(data, self.dtype)

    def sha256(self) -> str:
        """Digest of the whole file."""
        return _file_digest(self.path)


def _read_at(handle: int, size: int, position: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(handle, size, position)
    os.lseek(handle, position, os.SEEK_SET)  # Windows has no pread
    return os.read(handle, size)


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus: open it with ``open_corpus``, make it with ``prepare``."""

    folder: Path
    tokenizer: Tokenizer
    description: dict[str, Any]
    """What corpus.json says."""
    sizes: dict[str, SplitSize]

    @property
    def name(self) -> str:
        """The short name of the text."""
        return str(self.description["name"])

    @property
    def sha256(self) -> str:
        """Digest of the files the corpus was made from."""
        return str(self.description["sha256"])

    def ids(self, split: str) -> IdFile:
        """The ids of "train", "valid" or "test"."""
        return IdFile(self.folder / f"{split}.ids", id_dtype(self.tokenizer.vocabulary_size), self.sizes[split].ids)

    def check_ids(self) -> None:
        """Raise ``DataError`` unless every file of ids is, bit by bit, the one that was prepared."""
        for split in SPLITS:
            if self.ids(split).sha256() != self.description["splits"][split]["sha256"]:
                raise DataError(f"{self.folder / split}.ids is damaged; train again from the text, with --init-from")

    def changed_sources(self) -> bool:
        """Whether the text on disk is no longer what was prepared; a text that is gone does not count."""
        try:
            encoding, any_file = str(self.description["encoding"]), self.tokenizer.kind == "byte"
            groups = [open_source(names, encoding, any_file=any_file) for names in self.description["sources"]]
        except (MissingInputError, UsageError):
            return False
        except DataError:  # it has become empty
            return True
        if _fingerprint(groups) == self.description["fingerprint"]:
            return False
        return _content_digest(groups) != self.sha256


def _fingerprint(groups: Sequence[TextSource]) -> str:
    return hashlib.sha256(
        "\n".join(line for source in groups for line in source.fingerprints()).encode("utf-8", "surrogateescape")
    ).hexdigest()


def _content_digest(groups: Sequence[TextSource]) -> str:
    return hashlib.sha256("".join(source.sha256() for source in groups).encode()).hexdigest()


def parse_split(text: str) -> tuple[float, float, float]:
    """Shares of train, valid and test from "90/5/5" or "90/10". Raises ``UsageError``."""
    try:
        shares = [float(part) for part in text.split("/")]
    except ValueError:
        shares = []
    if len(shares) == 2:
        shares.append(0.0)
    if (
        len(shares) != 3
        or not all(0 <= s <= 100 for s in shares)
        or shares[0] <= 0
        or not math.isclose(sum(shares), 100)
    ):
        raise UsageError(f"--split {text!r} must be three shares that make 100, like 90/5/5 or 90/10/0")
    return shares[0] / 100, shares[1] / 100, shares[2] / 100


def prepare(
    folder: Path,
    source: TextSource,
    kind: str = "char",
    split: tuple[float, float, float] = (0.9, 0.05, 0.05),
    others: dict[str, TextSource] | None = None,
    progress: Callable[[int], None] = lambda characters: None,
) -> Corpus:
    """Write the corpus ``folder`` from ``source``; ``others`` gives "valid" and "test" texts of their own.

    With a "valid" text of its own, all of ``source`` is training text; with only a "test" text, its test share is.
    ``progress`` is called with the number of characters read since the last call, three times over the length of the
    text. Raises ``DataError`` where the text cannot be read or is too short, ``CannotCreateError`` where the folder
    cannot be written.
    """
    others = others or {}
    if "valid" in others:
        split = (1.0, 0.0, 0.0)
    elif "test" in others:
        split = (split[0] + split[2], split[1], 0.0)
    total = sum(_advance(len(codes), progress) for codes in source.codes(kind))
    bounds = [0, round(total * split[0]), round(total * (split[0] + split[1])), total]
    tokenizer, counts = _build_tokenizer(source, kind, bounds[1], progress)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = _write_splits(folder, source, tokenizer, bounds, counts, progress)
        for name, other in others.items():
            writer = _IdWriter(folder / f"{name}.ids", tokenizer)
            for codes in other.codes(kind):
                writer.write(tokenizer.encode_codes(codes))
            written[name] = writer.finish()
        _write_description(folder, source, tokenizer, counts, written, others)
    except OSError as error:
        raise CannotCreateError(
            f"{folder} cannot be written ({error.strerror}); choose another place with --out"
        ) from None
    return open_corpus(folder)


def _advance(count: int, progress: Callable[[int], None]) -> int:
    progress(count)
    return count


def _build_tokenizer(
    source: TextSource, kind: str, train_size: int, progress: Callable[[int], None]
) -> tuple[Tokenizer, NDArray[np.int64]]:
    counts = np.zeros(256 if kind == "byte" else 0x110000, np.int64)
    left = train_size
    for codes in source.codes(kind):
        progress(len(codes))
        part = codes[:left]
        left -= len(part)
        found = np.bincount(part) if len(part) else np.zeros(0, np.int64)
        counts[: len(found)] += found
    distinct = int(np.count_nonzero(counts))
    if distinct < 2:
        raise DataError(
            f"the training text has {'no character' if not distinct else 'one distinct character'}: there is nothing "
            "to learn; choose a longer or more varied text"
        )
    if kind == "byte":
        return ByteTokenizer(), counts
    return CharTokenizer.build({int(code): int(counts[code]) for code in np.nonzero(counts)[0]}), counts


def _write_splits(
    folder: Path,
    source: TextSource,
    tokenizer: Tokenizer,
    bounds: list[int],
    counts: NDArray[np.int64],
    progress: Callable[[int], None],
) -> dict[str, dict[str, Any]]:
    rates = _spelling_rates(counts)
    writers = {name: _IdWriter(folder / f"{name}.ids", tokenizer) for name in SPLITS}
    position = 0
    for number, codes in enumerate(source.codes(tokenizer.kind)):
        progress(len(codes))
        for name, start, stop in zip(SPLITS, bounds[:-1], bounds[1:], strict=True):
            part = codes[max(0, start - position) : max(0, stop - position)]
            if name == "train" and isinstance(tokenizer, CharTokenizer):
                writers[name].write(_with_spellings(part, tokenizer, rates, number))
            else:
                writers[name].write(tokenizer.encode_codes(part))
        position += len(codes)
    written = {name: writer.finish() for name, writer in writers.items()}
    # The spellings made the training ids longer; people are told the size of the text.
    written["train"].update(characters=bounds[1], bytes=_utf8_size(counts, tokenizer.kind))
    return written


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


class _IdWriter:
    """Writes one file of ids and keeps the sums that corpus.json tells."""

    def __init__(self, path: Path, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._dtype = id_dtype(tokenizer.vocabulary_size)
        self._digest = hashlib.sha256()
        self._per_id = np.zeros(tokenizer.vocabulary_size, np.int64)
        self._file = open(path, "wb")  # noqa: SIM115  # closed by finish

    def write(self, ids: Ids) -> None:
        data = ids.astype(self._dtype, copy=False).tobytes()
        self._file.write(data)
        self._digest.update(data)
        self._per_id += np.bincount(ids, minlength=self._tokenizer.vocabulary_size)

    def finish(self) -> dict[str, Any]:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {
            "ids": int(self._per_id.sum()),
            "characters": int(self._per_id[self._tokenizer.starts_character].sum()),
            "bytes": int(self._per_id @ self._tokenizer.byte_lengths),
            "sha256": self._digest.hexdigest(),
        }


def _utf8_size(counts: NDArray[np.int64], kind: str) -> int:
    if kind == "byte":
        return int(counts.sum())
    return int(sum(counts[start:].sum() for start in (0, 0x80, 0x800, 0x10000)))


def _write_description(
    folder: Path,
    source: TextSource,
    tokenizer: Tokenizer,
    counts: NDArray[np.int64],
    written: dict[str, dict[str, Any]],
    others: dict[str, TextSource],
) -> None:
    model = tokenizer.to_bytes()
    if model is not None:
        _write_bytes(folder / "tokenizer.model", model)
    groups = [source, *others.values()]
    probabilities = counts[counts > 0] / counts.sum()
    description = {
        "format": 1,
        "name": source.name,
        "encoding": source.encoding,
        "sources": [group.names for group in groups],
        "fingerprint": _fingerprint(groups),
        "sha256": _content_digest(groups),
        "tokenizer": tokenizer.description(),
        "distinct_characters": len(probabilities),
        "unigram_nats": float(-(probabilities * np.log(probabilities)).sum()),
        "splits": written,
    }
    _write_bytes(folder / "corpus.json", dump_json(description))


def _write_bytes(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def open_corpus(folder: Path) -> Corpus:
    """A corpus that ``prepare`` wrote. Raises ``MissingInputError`` or ``DataError``."""
    try:
        description = parse_json((folder / "corpus.json").read_bytes(), str(folder / "corpus.json"))
        has_model = (folder / "tokenizer.model").exists()
        model = (folder / "tokenizer.model").read_bytes() if has_model else None
    except OSError as error:
        raise MissingInputError(
            f"{folder} holds no prepared corpus ({error.strerror}); train from the text again"
        ) from None
    try:
        tokenizer = load_tokenizer(description["tokenizer"], model)
        sizes = {
            name: SplitSize(*(int(description["splits"][name][key]) for key in ("ids", "characters", "bytes")))
            for name in SPLITS
        }
        if description["format"] != 1:
            raise DataError(f"{folder} was prepared by a newer charlm; update charlm")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / 'corpus.json'} is damaged ({error!r:.60}); train from the text again") from None
    return Corpus(folder, tokenizer, description, sizes)
