"""A prepared corpus: a folder with the ids of a text and a description of it. ``preparation.prepare`` writes it.

train.ids, valid.ids, test.ids      little-endian integers of ``id_dtype``; after each document its end marker
train.ends, valid.ends, test.ends   of documents: the positions after their end markers, as 64-bit integers
train.fingerprints                  of documents: 64 bits of each training document (``DocumentHasher``), ascending
tokenizer.model                     for the tokenizer "char"
corpus.json                         written last; holds the sizes and digests of the others
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.config import MAX_JSON_BYTES, parse_json
from charlm.corpus.encodings import Decoding
from charlm.corpus.id_files import IdFile
from charlm.corpus.tables import find_tables
from charlm.corpus.text import TextSource, open_source
from charlm.corpus.trained_table import TrainedTable
from charlm.errors import DataError, MissingInputError, UsageError
from charlm.system.disk import read_at_most
from charlm.tokenizer.conditions import prefix_ids
from charlm.tokenizer.loading import load_tokenizer
from charlm.tokenizer.protocol import Tokenizer, id_dtype

SPLITS = ("train", "valid", "test")
FINGERPRINTS = "train.fingerprints"

_MAX_MODEL_BYTES = 1 << 26
_MAX_TEXT_BYTES, _MAX_TEXT_RATIO, _MAX_FILES = 1 << 30, 64, 1_000_000
"""A text has at most so many bytes, and so many times the bytes of its corpus, and files; those in the same folder that
are not text count, too."""


@dataclass(frozen=True)
class SplitSize:
    """The size of a split: ``ids`` on disk, ``characters`` and UTF-8 ``bytes`` of its text before encoding."""

    ids: int
    characters: int
    bytes: int
    documents: int = 0
    """0 for continuous text. End markers are counted in ``ids``, but not in ``characters`` and ``bytes``."""
    prefix_ids: int = 0
    """Ids among ``ids`` that are read only: conditions, whose ``characters`` and ``bytes`` are not counted."""

    @property
    def predictions(self) -> int:
        """The number of characters and end markers, each predicted once in an epoch. Byte pieces are not counted."""
        return self.characters + self.documents


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus: opened with ``open_corpus``, created with ``prepare``."""

    folder: Path
    tokenizer: Tokenizer
    description: dict[str, Any]
    """The content of corpus.json."""
    sizes: dict[str, SplitSize]
    description_sha256: str
    """Digest of corpus.json itself, which checkpoints store."""

    @property
    def name(self) -> str:
        """The short name of the text."""
        return str(self.description["name"])

    @property
    def table(self) -> TrainedTable | None:
        """The table that it was prepared from; None for plain text."""
        return TrainedTable.of(self.description, str(self.folder / "corpus.json"))

    @property
    def sha256(self) -> str:
        """Digest of the files that the corpus was prepared from."""
        return str(self.description["sha256"])

    def ids(self, split: str) -> IdFile:
        """The ids of the split "train", "valid" or "test"."""
        vocabulary, ids = self.tokenizer.vocabulary_size, self.sizes[split].ids
        return IdFile(self.folder / f"{split}.ids", id_dtype(vocabulary), ids, maximum=vocabulary - 1)

    def ends(self, split: str) -> IdFile:
        """The positions in ``ids(split)`` after each document."""
        size = self.sizes[split]
        path = self.folder / f"{split}.ends"
        return IdFile(path, np.dtype("<u8"), size.documents, maximum=size.ids, ascending=True)

    def fingerprints(self) -> NDArray[np.uint64]:
        """The fingerprints of the training documents, ascending."""
        stored = IdFile(self.folder / FINGERPRINTS, np.dtype("<u8"), self.sizes["train"].documents)
        return stored.read(0, len(stored))

    def check_ids(self) -> None:
        """Raise ``DataError`` unless every file of ids has the digest in corpus.json."""
        for split in SPLITS:
            files = {"sha256": self.ids(split)}
            if self.tokenizer.document_kind:
                files["ends_sha256"] = self.ends(split)
            for key, file in files.items():
                if file.sha256() != self.description["splits"][split].get(key):
                    raise DataError(f"{file.path} is damaged; train again from the text, with --init-from")

    def changed_sources(self) -> bool:
        """Whether the text on disk has changed since it was prepared; false if it is missing.

        Raises ``DataError`` if it is so large that the corpus cannot have been prepared from it.
        """
        _refuse_huge(self)
        try:
            decoding, any_file = Decoding(str(self.description["encoding"])), self.tokenizer.kind == "byte"
            sources = self.description["sources"]
            if self.table is not None:
                groups = [find_tables(names, decoding) for names in sources]
            else:
                groups = [open_source(names, decoding=decoding, any_file=any_file) for names in sources]
        except (MissingInputError, UsageError):
            return False
        except DataError:  # it is empty now
            return True
        if source_stamp(groups) == self.description["fingerprint"]:
            return False
        return content_digest(groups) != self.sha256


def _refuse_huge(corpus: Corpus) -> None:
    """Raise ``DataError`` where reading the texts that corpus.json names could take minutes; it may be forged."""
    limit = _MAX_TEXT_BYTES + _MAX_TEXT_RATIO * sum(size.bytes for size in corpus.sizes.values())
    files = total = 0
    for name in {name for group in corpus.description["sources"] for name in group}:
        for size in _file_sizes(name):
            files, total = files + 1, total + size
            if total > limit or files > _MAX_FILES:
                raise DataError(
                    f"{corpus.folder / 'corpus.json'} names {name!r:.60}, which is far larger than this corpus; "
                    "restore the original corpus folder"
                )


def _file_sizes(name: str) -> Iterator[int]:
    """The sizes of a file, or of all files below a folder; none where they cannot be read."""
    if not Path(name).is_dir():
        with contextlib.suppress(OSError):
            yield Path(name).stat().st_size
        return
    for folder, _, files in os.walk(name):
        for file in files:
            with contextlib.suppress(OSError):
                yield Path(folder, file).lstat().st_size


def longest_prefix(corpus: Corpus) -> int:
    """The most ids that the condition of a training document has, its separator included; 0 without conditions."""
    if corpus.tokenizer.separator_id is None or corpus.table is None:
        return 0
    return max((len(prefix_ids(corpus.tokenizer, value)) for value in corpus.table.counts), default=0)


def same_splits(first: Corpus, second: Corpus) -> bool:
    """Whether two corpora have the same text in the same splits; the vocabularies may differ."""
    sizes = [[(size.characters, size.documents) for size in corpus.sizes.values()] for corpus in (first, second)]
    document_kind = first.tokenizer.document_kind
    if first.sha256 != second.sha256 or sizes[0] != sizes[1] or document_kind != second.tokenizer.document_kind:
        return False
    # Another seed shuffles documents into other splits.
    return document_kind is None or np.array_equal(first.fingerprints(), second.fingerprints())


def source_stamp(groups: Sequence[TextSource]) -> str:
    """A digest of the paths, sizes and modification times of all files; equal if they have not changed."""
    return hashlib.sha256(
        "\n".join(line for source in groups for line in source.file_stamps()).encode("utf-8", "surrogateescape")
    ).hexdigest()


def content_digest(groups: Sequence[TextSource], unwanted: Callable[[], bool] = lambda: False) -> str:
    """The SHA-256 digest of the digests of the texts, in hexadecimal; any value once it is ``unwanted``."""
    return hashlib.sha256("".join(source.sha256(unwanted) for source in groups).encode()).hexdigest()


def parse_split(text: str) -> tuple[float, float, float]:
    """The fractions of train, valid and test from percentages, "90/5/5" or "90/10". Raises ``UsageError``."""
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
        raise UsageError(
            f"--split {text!r} must be two or three percentages, of which the first is above 0 and all add up to 100, "
            "like 90/5/5 or 90/10"
        )
    return shares[0] / 100, shares[1] / 100, shares[2] / 100


def find_corpus(checkpoint: Path) -> Corpus | None:
    """Open the corpus of the run ``checkpoint``, or of the run with the step ``checkpoint``. None if there is none."""
    folder = next(
        (home / "corpus" for home in (checkpoint, checkpoint.parent) if (home / "corpus/corpus.json").is_file()), None
    )
    return None if folder is None else open_corpus(folder)


def open_corpus(folder: Path) -> Corpus:
    """Open a corpus that ``prepare`` wrote. Raises ``MissingInputError`` or ``DataError``."""
    try:
        described = read_at_most(folder / "corpus.json", MAX_JSON_BYTES + 1)
        description = parse_json(described, str(folder / "corpus.json"))
        has_model = (folder / "tokenizer.model").exists()
        model = read_at_most(folder / "tokenizer.model", _MAX_MODEL_BYTES) if has_model else None
    except OSError as error:
        raise MissingInputError(
            f"{folder} has no prepared corpus ({error.strerror}); train from the text again"
        ) from None
    try:
        tokenizer = load_tokenizer(description["tokenizer"], model)
        sizes = {name: _split_size(description["splits"][name]) for name in SPLITS}
        if description["format"] != 1:
            raise DataError(f"{folder} was prepared by a newer charlm; update charlm")
        _check_description(description)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{folder / 'corpus.json'} is damaged ({error!r:.60}); train from the text again") from None
    return Corpus(folder, tokenizer, description, sizes, hashlib.sha256(described).hexdigest())


def _check_description(description: dict[str, Any]) -> None:
    """Raise ``KeyError``, ``TypeError`` or ``DataError`` unless all keys that are read later have the right types."""
    TrainedTable.of(description, "corpus.json")
    texts = [description[key] for key in ("name", "sha256", "encoding", "fingerprint")]
    names = [name for group in description["sources"] for name in group]
    numbers = [description[key] for key in ("distinct_characters", "unigram_nats")]
    if not all(isinstance(text, str) for text in [*texts, *names]):
        raise TypeError("a value is not a string")
    if not all(type(number) in (int, float) for number in numbers):
        raise TypeError("a value is not a number")
    if numbers[0] < 1 or not 0 <= numbers[1] < math.inf:
        raise ValueError("a number is out of range")


def _split_size(described: Any) -> SplitSize:
    ids, characters, in_bytes = (int(described[key]) for key in ("ids", "characters", "bytes"))
    documents, prefix_ids = (int(described.get(key, 0)) for key in ("documents", "prefix_ids"))
    if not all(0 <= number < 2**53 for number in (ids, characters, in_bytes, documents, prefix_ids)):
        raise ValueError("a size is out of range")
    return SplitSize(ids, characters, in_bytes, documents, prefix_ids)
