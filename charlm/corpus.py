"""Corpora on disk: ids that training reads by position, and what is known of the text they came from.

A prepared corpus (``preparation.prepare`` makes it) is a folder with ``train.ids``, ``valid.ids`` and ``test.ids``
(bare little-endian numbers), ``tokenizer.model`` and ``corpus.json``, which comes last and says what the others must
be. Documents stand one after the other, each with its end marker; ``train.ends`` and so on say where they end, and
``train.fingerprints`` tells which were learnt from.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.config import MAX_JSON_BYTES, parse_json
from charlm.disk import read_at_most
from charlm.errors import DataError, InputOutputError, MissingInputError, UsageError
from charlm.text import TextSource, open_source
from charlm.tokenizer import Ids, Tokenizer, id_dtype, load_tokenizer

SPLITS = ("train", "valid", "test")
FINGERPRINTS = "train.fingerprints"
MOST_HELD = 1 << 25
_MOST_MODEL_BYTES = 1 << 26


@dataclass(frozen=True)
class SplitSize:
    """One part of a corpus: ``ids`` on disk, ``characters`` and UTF-8 ``bytes`` of its text, before any spelling."""

    ids: int
    characters: int
    bytes: int
    documents: int = 0
    """0 where text runs on. End markers are among the ids, not among the characters and bytes."""

    @property
    def predictions(self) -> int:
        """What is predicted in one pass, a character spelt in several ids counted once: characters and end markers."""
        return self.characters + self.documents


class IdFile:
    """Ids on disk, read by position. Nothing is mapped: what was read costs no memory afterwards."""

    def __init__(self, path: Path, dtype: np.dtype[Any], length: int) -> None:
        self.path = path
        self.dtype = dtype
        self.length = length
        self._held: Ids | None = None
        try:
            # Without waiting for the other end, should it be a pipe.
            self._handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        except OSError as error:
            raise MissingInputError(f"{path} cannot be opened ({error.strerror}); prepare the corpus again") from None
        weakref.finalize(self, os.close, self._handle)
        status = os.fstat(self._handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size != length * dtype.itemsize:
            raise DataError(f"{path} has not the size that corpus.json says; prepare the corpus again")

    def __len__(self) -> int:
        return self.length

    def hold(self) -> None:
        """Keep a file of up to ``MOST_HELD`` bytes in memory, where reading a few ids is many times cheaper."""
        if self.length * self.dtype.itemsize <= MOST_HELD:
            self._held = self.read(0, self.length)

    def read(self, start: int, stop: int) -> Ids:
        """Ids ``start`` to ``stop`` (exclusive), in the narrow dtype of the file."""
        if self._held is not None:
            return self._held[start:stop]
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
    description_sha256: str
    """Digest of corpus.json itself, which checkpoints keep."""

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

    def ends(self, split: str) -> IdFile:
        """Where in ``ids(split)`` each document ends."""
        return IdFile(self.folder / f"{split}.ends", np.dtype("<u8"), self.sizes[split].documents)

    def fingerprints(self) -> NDArray[np.uint64]:
        """The fingerprints of the training documents, ascending."""
        stored = IdFile(self.folder / FINGERPRINTS, np.dtype("<u8"), self.sizes["train"].documents)
        return stored.read(0, len(stored))

    def check_ids(self) -> None:
        """Raise ``DataError`` unless every file of ids is, bit by bit, the one that was prepared."""
        for split in SPLITS:
            files = {"sha256": self.ids(split)}
            if self.tokenizer.documents:
                files["ends_sha256"] = self.ends(split)
            for key, file in files.items():
                if file.sha256() != self.description["splits"][split].get(key):
                    raise DataError(f"{file.path} is damaged; train again from the text, with --init-from")

    def changed_sources(self) -> bool:
        """Whether the text on disk is no longer what was prepared; a text that is gone does not count."""
        try:
            encoding, any_file = str(self.description["encoding"]), self.tokenizer.kind == "byte"
            groups = [open_source(names, encoding, any_file=any_file) for names in self.description["sources"]]
        except (MissingInputError, UsageError):
            return False
        except DataError:  # it has become empty
            return True
        if sources_fingerprint(groups) == self.description["fingerprint"]:
            return False
        return content_digest(groups) != self.sha256


def same_splits(first: Corpus, second: Corpus) -> bool:
    """Whether two corpora are one text, cut alike; vocabularies may differ. Documents may have been shuffled apart."""
    sizes = [[(size.characters, size.documents) for size in corpus.sizes.values()] for corpus in (first, second)]
    documents = first.tokenizer.documents
    if first.sha256 != second.sha256 or sizes[0] != sizes[1] or documents != second.tokenizer.documents:
        return False
    return documents is None or np.array_equal(first.fingerprints(), second.fingerprints())


def sources_fingerprint(groups: Sequence[TextSource]) -> str:
    """A cheap sign that no file of the texts has changed."""
    return hashlib.sha256(
        "\n".join(line for source in groups for line in source.fingerprints()).encode("utf-8", "surrogateescape")
    ).hexdigest()


def content_digest(groups: Sequence[TextSource]) -> str:
    """The digest of all that the files of the texts hold."""
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


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def corpus_beside(checkpoint: Path) -> Corpus | None:
    """The corpus of the run that ``checkpoint``, a run or a step, belongs to; None where there is none."""
    folder = next(
        (home / "corpus" for home in (checkpoint, checkpoint.parent) if (home / "corpus/corpus.json").is_file()), None
    )
    return None if folder is None else open_corpus(folder)


def open_corpus(folder: Path) -> Corpus:
    """A corpus that ``prepare`` wrote. Raises ``MissingInputError`` or ``DataError``."""
    try:
        described = read_at_most(folder / "corpus.json", MAX_JSON_BYTES + 1)
        description = parse_json(described, str(folder / "corpus.json"))
        has_model = (folder / "tokenizer.model").exists()
        model = read_at_most(folder / "tokenizer.model", _MOST_MODEL_BYTES) if has_model else None
    except OSError as error:
        raise MissingInputError(
            f"{folder} holds no prepared corpus ({error.strerror}); train from the text again"
        ) from None
    try:
        tokenizer = load_tokenizer(description["tokenizer"], model)
        sizes = {name: _split_size(description["splits"][name]) for name in SPLITS}
        if description["format"] != 1:
            raise DataError(f"{folder} was prepared by a newer charlm; update charlm")
        _check_description(description)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / 'corpus.json'} is damaged ({error!r:.60}); train from the text again") from None
    return Corpus(folder, tokenizer, description, sizes, hashlib.sha256(described).hexdigest())


def _check_description(description: dict[str, Any]) -> None:
    """Raise ``KeyError`` or ``TypeError`` unless everything is there that is asked for later."""
    texts = [description[key] for key in ("name", "sha256", "encoding", "fingerprint")]
    names = [name for group in description["sources"] for name in group]
    numbers = [description[key] for key in ("distinct_characters", "unigram_nats")]
    if not all(isinstance(text, str) for text in [*texts, *names]):
        raise TypeError("a text is none")
    if not all(type(number) in (int, float) for number in numbers):
        raise TypeError("a number is none")


def _split_size(described: Any) -> SplitSize:
    ids, characters, in_bytes = (int(described[key]) for key in ("ids", "characters", "bytes"))
    return SplitSize(ids, characters, in_bytes, int(described.get("documents", 0)))
