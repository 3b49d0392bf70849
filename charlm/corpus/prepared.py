"""Corpora on disk: ids that training reads by position, and what is known of the text they came from.

A prepared corpus (``preparation.prepare`` makes it) is a folder with ``train.ids``, ``valid.ids`` and ``test.ids``
(bare little-endian numbers), ``tokenizer.model`` and ``corpus.json``, which comes last and says what the others must
be. Documents stand one after the other, each with its end marker; ``train.ends`` and so on say where they end, and
``train.fingerprints`` tells which were learnt from.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.config import MAX_JSON_BYTES, parse_json
from charlm.corpus.id_files import IdFile
from charlm.corpus.text import TextSource, open_source
from charlm.errors import DataError, MissingInputError, UsageError
from charlm.system.disk import read_at_most
from charlm.tokenizer.loading import load_tokenizer
from charlm.tokenizer.protocol import Tokenizer, id_dtype

SPLITS = ("train", "valid", "test")
FINGERPRINTS = "train.fingerprints"

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
