"""Reading people's files: encodings, folders, stdin, .gz, in blocks of bounded size.

A ``TextSource`` is one text made of one or several files. It can be read any number of times, always the same way,
and never holds more than a block in memory. Nothing is normalised: line ends, NUL and odd characters stay as they
are; only a byte-order mark at the beginning of a file is dropped. Files that do not end a line are parted by one.
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

from charlm.errors import CharlmError, DataError, InputOutputError, MissingInputError, UsageError
from charlm.tokenizer.protocol import Codes, code_points

logger = logging.getLogger("charlm")

BLOCK_BYTES = 1 << 20
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_OTHER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UTF8_NAMES = ("utf-8", "utf-8-sig")
# Their decoders drop the mark themselves, and what looks like one after it is a character.
_MARK_DROPPING = ("utf-8-sig", "utf-16", "utf-32")


class TextSource:
    """One text: ``paths`` in order, read as ``encoding`` (ignored where raw bytes are asked for).

    Made by ``open_source`` from ``names``, what the person wrote. ``name`` is short, for the run's folder.
    """

    def __init__(self, names: Sequence[str], paths: Sequence[Path], encoding: str, name: str | None = None) -> None:
        self.names = [said if said == "-" else str(Path(said).absolute()) for said in names]
        self.paths = list(paths)
        self.encoding = encoding
        self.name = name or _short_name(names)

    def codes(self, kind: str) -> Iterator[Codes]:
        """The text in order: code points for the tokenizer kind "char", byte values for "byte".

        Raises ``DataError`` where a file is not what its encoding or compression promises.
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
        """The same file by file, with nothing between them."""
        return (self._file_codes(path, kind) for path in self.paths)

    def _file_codes(self, path: Path, kind: str) -> Iterator[Codes]:
        if kind == "byte":
            for data in read_blocks(path):
                yield np.frombuffer(data, np.uint8)
            return
        for text in decode_blocks(read_blocks(path), self.encoding, str(path)):
            yield code_points(text)

    def sha256(self) -> str:
        """Digest of the stored bytes of all files, as they are on disk."""
        digest = hashlib.sha256()
        for path in self.paths:
            for data in read_blocks(path, decompress=False):
                digest.update(data)
        return digest.hexdigest()

    def fingerprints(self) -> list[str]:
        """Path, size and time of change of every file: a cheap sign that nothing changed."""
        return [_fingerprint(path) for path in self.paths]


def _fingerprint(path: Path) -> str:
    with _reading(path):
        status = path.stat()
    return f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"


def open_source(
    names: Sequence[str], encoding: str = "utf-8", spool: Path | None = None, any_file: bool = False
) -> TextSource:
    """The text of files, folders (every visible text file in them, sorted by path) or ``-`` for stdin.

    ``spool`` is where stdin is copied, so that it can be read more than once; with ``any_file`` a folder's binary files
    are taken, too. Raises ``MissingInputError``,
    ``UsageError`` for an encoding that does not exist, and ``DataError`` for a text without a byte.
    """
    check_encoding(encoding)
    paths: list[Path] = []
    for name in names:
        if name == "-":
            paths.append(_spool_stdin(spool))
        else:
            paths.extend(_expand(Path(name), any_file))
    sizes = [_readable_size(path) for path in paths]  # all of them: one that cannot be read is told now
    if not any(sizes):
        raise DataError(f"{', '.join(names)[:80]} is empty; name a file with some text in it")
    return TextSource(names, paths, encoding)


def _readable_size(path: Path) -> int:
    with _reading(path), open(path, "rb") as file:
        return os.fstat(file.fileno()).st_size


def check_encoding(encoding: str) -> None:
    """Raise ``UsageError`` unless Python can decode text with ``encoding``."""
    try:
        # Python's registry also holds codecs that are no encodings of text, such as hex and rot13.
        is_text = isinstance(codecs.getincrementaldecoder(encoding)().decode(b"", True), str)
    except (LookupError, ValueError, TypeError, AttributeError):
        is_text = False
    if not is_text:
        raise UsageError(
            f"--encoding {encoding!r} is no encoding this Python knows; try utf-8, utf-16, cp1252 or latin-1"
        )


def _short_name(names: Sequence[str]) -> str:
    if names[0] == "-":
        return "stdin"
    path = Path(os.path.abspath(names[0]))  # noqa: PTH100  # of "..", too, which absolute() leaves as it is
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
        raise UsageError(f"{path} is a pipe or a device, which can be read once only; read it as stdin, by the name -")
    found = _visible_files(path)
    texts = [file for file in found if any_file or not _looks_binary(file)]
    if len(texts) < len(found):
        skipped = [str(file) for file in found if file not in set(texts)]
        logger.warning("skipped %d files that are not text: %s", len(skipped), ", ".join(skipped[:3])[:200])
    if not texts:
        raise MissingInputError(f"{path} is a folder with no text file in it; name a file, or a folder that has some")
    return texts


def _visible_files(folder: Path) -> list[Path]:
    """Every file below ``folder``, sorted, but hidden ones and charlm's own runs."""
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
    return b"\0" in head and not head.startswith(_UTF16_MARKS)


def _spool_stdin(spool: Path | None) -> Path:
    if spool is None:
        raise UsageError("stdin can not be read here; save the text in a file first")
    with _reading(Path("stdin")), open(spool, "wb") as copy:
        while data := sys.stdin.buffer.read(BLOCK_BYTES):
            copy.write(data)
    return spool


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except CharlmError:
        raise
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is no complete gzip file ({error}); unpack it yourself or fetch it again") from None
    except FileNotFoundError:
        raise MissingInputError(f"{path} does not exist any more; check the name") from None
    except (PermissionError, IsADirectoryError) as error:
        raise MissingInputError(f"{path} may not be read ({error.strerror}); check its permissions") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise MissingInputError(f"{str(path)[:80]}... is longer than a name can be; check the name") from None
        raise InputOutputError(
            f"{path} could not be read: {error.strerror or error}; check the disk and try again"
        ) from None


def read_blocks(path: Path, decompress: bool = True) -> Iterator[bytes]:
    """The bytes of a file in blocks of at most ``BLOCK_BYTES``, unpacked where the name ends in .gz."""
    with _reading(path):
        opener: Any = gzip.open if decompress and path.suffix == ".gz" else open
        file: IO[bytes]
        with opener(path, "rb") as file:
            while data := file.read(BLOCK_BYTES):
                yield data


def decode_blocks(blocks: Iterator[bytes], encoding: str, name: str, advice: str | None = None) -> Iterator[str]:
    """Decode ``blocks`` piece by piece, without the byte-order mark.

    Raises ``DataError`` that says where and what, and ends with ``advice``.
    """
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    codec = codecs.lookup(encoding).name
    is_utf8 = codec in _UTF8_NAMES
    told = advice
    advice = advice or (
        f"name its encoding, for example {'--encoding cp1252 (Windows)' if is_utf8 else '--encoding utf-8'}, "
        "or take the bytes as they are with --tokenizer byte"
    )
    seen, at_start = 0, codec not in _MARK_DROPPING
    for data in blocks:
        if seen == 0 and is_utf8:
            _refuse_other_unicode(data, name, told)
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
    except UnicodeError:  # the one reason: no mark says in which order the bytes are
        codec = problem.rpartition(" ")[2]
        raise DataError(f"{problem} with a mark; if it has none, name {codec}-le (Windows) or {codec}-be") from None


def _refuse_other_unicode(head: bytes, name: str, advice: str | None) -> None:
    """Raise ``DataError`` for what looks like UTF-16 or UTF-32; it ends with ``advice``, or names the option."""
    sample = head[:4096]
    for mark, encoding in _OTHER_MARKS:
        if head.startswith(mark):
            raise DataError(
                f"{name} begins with the mark of {encoding.upper()}, not UTF-8; "
                + (advice or f"add --encoding {encoding}")
            )
    if sample.count(0) > 0.3 * len(sample):
        order = "le" if sample[1::2].count(0) > sample[0::2].count(0) else "be"
        advice = advice or (
            f"if it is UTF-16, add --encoding utf-16-{order}; if it is no text, take its bytes with --tokenizer byte"
        )
        raise DataError(f"{name} has a zero in every second or third byte; {advice}")
