"""Reading the user's files: encodings, folders, stdin and .gz, in blocks of bounded size.

A ``TextSource`` is one text from one or several files. It can be read repeatedly, with the same result, and holds at
most one block in memory. Nothing is normalized: line ends, NUL and unusual characters are kept; only a byte-order mark
at the beginning of a file is dropped. Between the characters of two files, a line feed is inserted unless the first
ends with one.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import gzip
import hashlib
import logging
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from charlm.corpus.documents import Piece, split_documents
from charlm.errors import CharlmError, DataError, InputOutputError, MissingInputError, UsageError
from charlm.system.disk import naming
from charlm.tokenizer.protocol import Codes, code_points

logger = logging.getLogger("charlm")

BLOCK_BYTES = 1 << 20
_UTF16_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NOT_UTF8_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UTF8_NAMES = ("utf-8", "utf-8-sig")
# The decoders of these drop the byte-order mark themselves; a second one is a character of the text.
_BOM_DROPPING = ("utf-8-sig", "utf-16", "utf-32")


class TextSource:
    """One text: the files ``paths`` in order, decoded with ``encoding`` unless they are read as bytes.

    Created by ``open_source``. ``names`` are the arguments of the user, ``name`` is a short name for the run's folder.
    """

    def __init__(self, names: Sequence[str], paths: Sequence[Path], encoding: str, name: str | None = None) -> None:
        self.names = [given if given == "-" else str(Path(given).absolute()) for given in names]
        self.paths = list(paths)
        self.encoding = encoding
        self.name = name or _short_name(names)

    def codes(self, kind: str) -> Iterator[Codes]:
        """Blocks of the text: code points for the tokenizer kind "char", byte values for "byte".

        Raises ``DataError`` where a file is not valid in its encoding or compression.
        """
        last: int | None = None
        for path in self.paths:
            first = True
            for block in self._file_codes(path, kind):
                if first and kind == "char" and last not in (None, 0x0A):
                    yield np.array([0x0A], np.uint8)
                first = False
                last = int(block[-1])
                yield block

    def files(self, kind: str) -> Iterator[Iterator[Codes]]:
        """The same, separately for each file, with no line feeds inserted between files."""
        return (self._file_codes(path, kind) for path in self.paths)

    def documents(self, kind: str, document_kind: str, keep_empty: bool = False) -> Iterator[Piece]:
        """The documents of the files; arguments as in ``split_documents``."""
        return split_documents(self.files(kind), document_kind, keep_empty)

    def _file_codes(self, path: Path, kind: str) -> Iterator[Codes]:
        if kind == "byte":
            for data in read_blocks(path):
                yield np.frombuffer(data, np.uint8)
            return
        for text in decode_blocks(read_blocks(path), self.encoding, str(path)):
            yield code_points(text)

    def sha256(self) -> str:
        """The SHA-256 digest of the bytes of all files as they are on disk, in hexadecimal."""
        digest = hashlib.sha256()
        for path in self.paths:
            for data in read_blocks(path, decompress=False):
                digest.update(data)
        return digest.hexdigest()

    def file_stamps(self) -> list[str]:
        """Path, size and modification time of each file. If they are equal, the text is taken to be unchanged."""
        return [_file_stamp(path) for path in self.paths]


def _file_stamp(path: Path) -> str:
    with _reading(path):
        status = path.stat()
    return f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"


def open_source(
    names: Sequence[str], encoding: str = "utf-8", spool: Path | None = None, any_file: bool = False
) -> TextSource:
    """The text of files, folders (all visible text files in them, sorted by path) or ``-`` for stdin.

    Stdin is copied to ``spool``, so that it can be read repeatedly. With ``any_file``, a folder's binary files are
    read, too. Raises ``MissingInputError``, ``UsageError`` for an unknown encoding, ``DataError`` for an empty text.
    """
    check_encoding(encoding)
    paths: list[Path] = []
    for name in names:
        if name == "-":
            paths.append(_spool_stdin(spool))
        else:
            paths.extend(_expand(Path(name), any_file))
    sizes = [_readable_size(path) for path in paths]  # of all paths, so that an unreadable one raises now
    if not any(sizes):
        raise DataError(f"{', '.join(names)[:80]} is empty; name a file with some text in it")
    return TextSource(names, paths, encoding)


def _readable_size(path: Path) -> int:
    with _reading(path), open(path, "rb") as file:
        return os.fstat(file.fileno()).st_size


def check_encoding(encoding: str) -> None:
    """Raise ``UsageError`` unless Python can decode text with ``encoding``."""
    try:
        # Python also has codecs that are not text encodings, such as hex and rot13.
        is_text = isinstance(codecs.getincrementaldecoder(encoding)().decode(b"", True), str)
    except (LookupError, ValueError, TypeError, AttributeError):
        is_text = False
    if not is_text:
        raise UsageError(f"--encoding {encoding!r} is unknown to this Python; try utf-8, utf-16, cp1252 or latin-1")


def _short_name(names: Sequence[str]) -> str:
    if names[0] == "-":
        return "stdin"
    path = Path(os.path.abspath(names[0]))  # noqa: PTH100  # resolves "..", which absolute() keeps
    name = path.name.removesuffix(".gz") or "corpus"
    return name if path.is_dir() else (Path(name).stem or name)


def _expand(path: Path, any_file: bool) -> list[Path]:
    with _reading(path):
        exists = path.exists()
    if not exists:
        raise MissingInputError(f"{path} does not exist; check the name, or pass - to read from stdin")
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UsageError(
            f"{path} is a pipe or a device, which can be read only once; pass it as stdin, with the name -"
        )
    found = _visible_files(path)
    texts = [file for file in found if any_file or not _looks_binary(file)]
    if len(texts) < len(found):
        skipped = [str(file) for file in found if file not in set(texts)]
        logger.warning("skipped %d files that are not text: %s", len(skipped), ", ".join(skipped[:3])[:200])
    if not texts:
        raise MissingInputError(f"{path} is a folder with no text file in it; name a file, or a folder that has some")
    return texts


def _visible_files(folder: Path) -> list[Path]:
    """All files below ``folder``, sorted, except hidden files and runs of charlm."""
    runs = {lock.parent for lock in folder.rglob(".lock") if (lock.parent / "corpus").is_dir()}
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and not runs.intersection(file.parents)
    )


def _looks_binary(path: Path) -> bool:
    if path.suffix == ".gz":
        return False
    with _reading(path), open(path, "rb") as file:
        head = file.read(8192)
    return b"\0" in head and not head.startswith(_UTF16_BOMS)


def _spool_stdin(spool: Path | None) -> Path:
    if spool is None:
        raise UsageError("stdin cannot be read here; save the text in a file first")
    try:
        with naming(spool), open(spool, "wb") as copy:
            for data in iter(_stdin_block, b""):
                copy.write(data)
    except OSError as error:
        reason = f"the copy of stdin in {error.filename} could not be written ({error.strerror})"
        raise InputOutputError(f"{reason}; make room there, or name a file instead of stdin") from None
    return spool


def _stdin_block() -> bytes:
    with _reading(Path("stdin")):
        return sys.stdin.buffer.read(BLOCK_BYTES)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except CharlmError:
        raise
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} is not a complete gzip file ({error}); unpack it yourself or download it again"
        ) from None
    except FileNotFoundError:
        raise MissingInputError(f"{path} does not exist; check the name") from None
    except (PermissionError, IsADirectoryError) as error:
        raise MissingInputError(f"{path} is not readable ({error.strerror}); check its permissions") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise MissingInputError(f"{str(path)[:80]}... is too long for a file name; check the name") from None
        raise InputOutputError(
            f"{path} could not be read ({error.strerror or error}); check the disk and try again"
        ) from None


def read_blocks(path: Path, decompress: bool = True) -> Iterator[bytes]:
    """The bytes of a file in blocks of at most ``BLOCK_BYTES``, decompressed if its name ends with .gz."""
    with _reading(path):
        opener: Any = gzip.open if decompress and path.suffix == ".gz" else open
        file: IO[bytes]
        with opener(path, "rb") as file:
            while data := file.read(BLOCK_BYTES):
                yield data


def decode_blocks(blocks: Iterator[bytes], encoding: str, name: str, advice: str | None = None) -> Iterator[str]:
    """Decode ``blocks`` one by one, without the byte-order mark.

    Raises ``DataError`` with the byte and its position. Its text ends with ``advice``, by default the option to use.
    """
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    codec = codecs.lookup(encoding).name
    is_utf8 = codec in _UTF8_NAMES
    given_advice = advice
    advice = advice or (
        f"name its encoding, for example {'--encoding cp1252 (Windows)' if is_utf8 else '--encoding utf-8'}, "
        "or read the bytes as they are with --tokenizer byte"
    )
    seen, at_start = 0, codec not in _BOM_DROPPING
    for data in blocks:
        if seen == 0 and is_utf8:
            _refuse_utf16_and_utf32(data, name, given_advice)
        text = _decode(decoder, data, seen, f"{name} is not {encoding}", advice)
        seen += len(data)
        if at_start and text:
            text, at_start = text.removeprefix("\ufeff"), False
        if text:
            yield text
    text = _decode(decoder, b"", seen, f"{name} is not {encoding}", advice)
    if text:
        yield text


def _decode(decoder: Any, data: bytes, seen: int, problem: str, advice: str) -> str:
    pending = len(decoder.getstate()[0])
    try:
        text: str = decoder.decode(data, not data)
        return text
    except UnicodeDecodeError as error:
        position = seen - pending + error.start
        wrong = error.object[error.start : error.start + 1].hex().upper()
        raise DataError(f"{problem}: byte 0x{wrong} at position {position}; {advice}") from None
    except UnicodeError:  # the only reason: the byte-order mark is missing
        codec = problem.rpartition(" ")[2]
        raise DataError(
            f"{problem} with a byte-order mark; without one, use {codec}-le (Windows) or {codec}-be"
        ) from None


def _refuse_utf16_and_utf32(head: bytes, name: str, advice: str | None) -> None:
    """Raise ``DataError`` if ``head`` looks like UTF-16 or UTF-32. Its text ends with ``advice``, if given."""
    sample = head[:4096]
    for bom, encoding in _NOT_UTF8_BOMS:
        if head.startswith(bom):
            raise DataError(
                f"{name} begins with the byte-order mark of {encoding.upper()}, not UTF-8; "
                + (advice or f"add --encoding {encoding}")
            )
    if sample.count(0) > 0.3 * len(sample):
        order = "le" if sample[1::2].count(0) > sample[0::2].count(0) else "be"
        advice = advice or (
            f"if it is UTF-16, add --encoding utf-16-{order}; if it is not text, read its bytes with --tokenizer byte"
        )
        raise DataError(f"{name} has a zero in every second or third byte; {advice}")
