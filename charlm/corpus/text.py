"""Reading the user's files: folders, stdin and packed files, in blocks of bounded size.

A ``TextSource`` is one text from one or several files. It can be read repeatedly, with the same result, and holds at
most one block in memory. Unless asked for, nothing is normalized: line ends, NUL and unusual characters are kept; only
a byte-order mark at the beginning of a file is dropped. Between the characters of two files, a line feed is inserted
unless the first ends with one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from charlm.corpus.blocks import BLOCK_BYTES, file_blocks, read_blocks, reading
from charlm.corpus.documents import split_documents
from charlm.corpus.encodings import Changes, Decoding, decode_blocks
from charlm.corpus.folders import visible_files, warn_of
from charlm.corpus.formats import HEAD_BYTES, PARQUET, NotTextError, recognize
from charlm.corpus.pieces import Piece
from charlm.errors import DataError, InputOutputError, MissingInputError, UsageError
from charlm.system.disk import naming
from charlm.tokenizer.normalization import Normalizer
from charlm.tokenizer.protocol import Codes, code_points

logger = logging.getLogger("charlm")

MAX_SMALL_BYTES, _SMALL_OVERHEAD = 1 << 25, 300
"""Files of less than ``HEAD_BYTES`` are kept in memory, up to this total; each takes a little more than its bytes."""
MAX_CONTROL_SHARE = 0.005
"""A text with a larger share of control characters gets a warning."""
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zip")
# Line feed, carriage return, tab, vertical tab, form feed; escape, which colours logs; next line.
_USUAL_CONTROLS = (0x0A, 0x0D, 0x09, 0x0B, 0x0C, 0x1B, 0x85)


class TextSource:
    """One text: the files ``paths`` in order, decoded as ``decoding`` says unless they are read as bytes.

    Created by ``open_source``. ``names`` are the arguments of the user, ``name`` is a short name for the run's folder.
    """

    def __init__(
        self,
        names: Sequence[str],
        paths: Sequence[Path],
        decoding: Decoding | None = None,
        name: str | None = None,
        stdin: Path | None = None,
        small: Mapping[Path, bytes] = MappingProxyType({}),
    ) -> None:
        """``stdin`` is the one of ``paths`` that holds a copy of stdin, ``small`` the content of small plain files."""
        self.names = [given if given == "-" else str(Path(given).absolute()) for given in names]
        self.paths = list(paths)
        self.decoding = decoding or Decoding()
        self.name = name or _short_name(names)
        self.changes = Changes()
        """What the last pass has changed in the text."""
        self._stdin, self._small = stdin, small
        self._control_rich: list[str] | None = []
        """The files that the first pass has found to be rich in control characters; None after it."""

    @property
    def encoding(self) -> str:
        """The encoding of the text."""
        return self.decoding.encoding

    def codes(self, kind: str) -> Iterator[Codes]:
        """Blocks of the text: code points for the tokenizer kind "char", byte values for "byte".

        Raises ``DataError`` where a file is not valid in its encoding or compression.
        """
        last: int | None = None
        for file in self.files(kind):
            first = True
            for block in file:
                if first and kind == "char" and last not in (None, 0x0A):
                    yield np.array([0x0A], np.uint8)
                first = False
                last = int(block[-1])
                yield block

    def files(self, kind: str) -> Iterator[Iterator[Codes]]:
        """The same, separately for each file, with no line feeds inserted between files."""
        self.changes = Changes()
        for path in self.paths:
            yield self._file_codes(path, kind)
        self._warn_of_controls()

    def documents(
        self,
        kind: str,
        document_kind: str,
        keep_empty: bool = False,
        start: str | None = None,
        merge: bool = False,
    ) -> Iterator[Piece]:
        """The documents of the files; arguments as in ``split_documents``."""
        return split_documents(self.files(kind), document_kind, keep_empty, start, merge)

    def _file_codes(self, path: Path, kind: str) -> Iterator[Codes]:
        codes = self._small_codes(path) if kind == "char" else None
        if codes is not None:
            yield from [codes] if len(codes) else []
        elif kind == "char":
            yield from self._decoded_codes(path)
        else:
            for data in self._blocks(path, any_file=True):
                yield np.frombuffer(data, np.uint8)

    def _blocks(self, path: Path, any_file: bool) -> Iterator[bytes]:
        if path in self._small:
            return iter([self._small[path]] if self._small[path] else [])
        return read_blocks(path, self.shown_name(path), any_file=any_file, offers_bytes=self.decoding.offers_bytes)

    def _small_codes(self, path: Path) -> Codes | None:
        """``_decoded_codes``, several times faster, of a small file that is plainly UTF-8; None for other files."""
        data = self._small.get(path)
        if data is None or not self.decoding.is_utf8 or b"\0" in data:
            return None
        if not data.isascii() and self.decoding.normalization != "none":
            return None
        try:
            codes = code_points(data.decode().removeprefix("\ufeff"))
        except UnicodeDecodeError:
            return None
        if self._control_rich is not None:
            self._note_controls(path, count_controls(codes), len(codes))
        return codes

    def _decoded_codes(self, path: Path) -> Iterator[Codes]:
        name, blocks = self.shown_name(path), self._blocks(path, any_file=False)
        normalizer = Normalizer(self.decoding.normalization)
        controls = total = 0
        for text in normalizer.blocks(decode_blocks(blocks, name, self.decoding, self.changes)):
            codes = code_points(text, marked=self.decoding.errors == "skip-document")
            if self._control_rich is not None:
                controls, total = controls + count_controls(codes), total + len(codes)
            yield codes
        self.changes.normalized += normalizer.changed
        self._note_controls(path, controls, total)

    def _note_controls(self, path: Path, controls: int, total: int) -> None:
        if self._control_rich is not None and controls > MAX_CONTROL_SHARE * total:
            self._control_rich.append(f"{self.shown_name(path)} ({controls / total:.1%})")

    def shown_name(self, path: Path) -> str:
        """What messages call the file ``path``."""
        return "stdin" if path == self._stdin else str(path)

    def _warn_of_controls(self) -> None:
        warn_of(
            self._control_rich or [],
            "{} has many NUL or control characters",
            "{} have many NUL or control characters",
            "check that this is text",
        )
        self._control_rich = None

    @property
    def stdin(self) -> Path | None:
        """Which of ``paths`` holds a copy of stdin."""
        return self._stdin

    def size(self) -> int | None:
        """The bytes of all files; None if one of them is packed, so that its text is larger."""
        total = 0
        for path in self.paths:
            with reading(self.shown_name(path)), open(path, "rb") as file:
                format_ = recognize(file.read(HEAD_BYTES))
                total += os.fstat(file.fileno()).st_size
            if format_ is not None and format_.packing:
                return None
        return total

    def sha256(self, unwanted: Callable[[], bool] = lambda: False) -> str:
        """The SHA-256 digest of the bytes of all files as they are on disk, in hexadecimal.

        Any value once it is ``unwanted``.
        """
        digest = hashlib.sha256()
        for path in self.paths:
            small = self._small.get(path)
            for data in read_blocks(path, unpack=False, any_file=True) if small is None else [small]:
                if unwanted():
                    break
                digest.update(data)
        return digest.hexdigest()

    def file_stamps(self) -> list[str]:
        """Path, size and modification time of each file. If they are equal, the text is taken to be unchanged."""
        here = Path.cwd()
        return [_file_stamp(path, here) for path in self.paths]


def _file_stamp(path: Path, here: Path) -> str:
    with reading(str(path)):
        status = path.stat()
    return f"{path if path.is_absolute() else here / path} {status.st_size} {status.st_mtime_ns}"


def count_controls(codes: Codes) -> int:
    """How many of ``codes`` are control characters that texts do not have, NUL among them."""
    count = np.count_nonzero(codes < 0x20) + np.count_nonzero(codes >= 0x7F) - np.count_nonzero(codes >= 0xA0)
    for usual in _USUAL_CONTROLS:
        if not count:
            break
        count -= np.count_nonzero(codes == usual)
    return int(count)


def open_source(
    names: Sequence[str],
    encoding: str = "utf-8",
    spool: Path | None = None,
    any_file: bool = False,
    decoding: Decoding | None = None,
    parquet: bool = False,
) -> TextSource:
    """The text of files, folders (all visible text files in them, sorted by path) or ``-`` for stdin.

    Stdin is copied to ``spool``, so that it can be read repeatedly. With ``any_file``, files that are not text are
    read, too, with ``parquet`` those of this format that are named, or in a folder with nothing else. ``decoding`` says
    more than ``encoding``. Raises ``MissingInputError``, ``UsageError`` for an unknown encoding, ``DataError`` for an
    empty text or a file that is not text.
    """
    decoding = decoding or Decoding(encoding)
    if list(names).count("-") > 1:
        raise UsageError("stdin can be read only once; leave out one -")
    opener = _Opener(any_file, decoding, parquet)
    for name in names:
        if name == "-":
            opener.add(_spool_stdin(spool), "stdin")
        else:
            _expand(name, opener)
    if not opener.has_text:
        raise DataError(f"{', '.join(names)[:80]} is empty; name a file with some text in it")
    return TextSource(names, opener.paths, decoding, stdin=spool, small=opener.small)


class _Opener:
    """Opens each file once and collects those that are text.

    The content of small ones is kept, because opening a file takes longer than reading a few kilobytes from it.
    """

    def __init__(self, any_file: bool, decoding: Decoding, parquet: bool) -> None:
        self._any_file, self._parquet = any_file, parquet
        self.paths: list[Path] = []
        self.small: dict[Path, bytes] = {}
        self.has_text = False
        self._offers_bytes = decoding.offers_bytes
        self._room = MAX_SMALL_BYTES

    def add(self, path: Path, name: str) -> None:
        """Add a file. Raises ``NotTextError``."""
        self._add(path, name)

    def add_text(self, path: Path, parquet: bool = False) -> bool:
        """Add a file of a folder, unless it is not text. Returns whether it was added."""
        try:
            return self._add(path, str(path), refuse_nul=not self._any_file, parquet=parquet)
        except NotTextError:
            return False

    def _add(self, path: Path, name: str, refuse_nul: bool = False, parquet: bool = True) -> bool:
        with reading(name), open(path, "rb") as file:
            data = file.read(HEAD_BYTES)
            format_ = recognize(data)
            if format_ is None or (format_ is PARQUET and self._parquet and parquet):
                head = data
            else:
                file.seek(0)
                head = next(file_blocks(file, name, True, self._any_file, self._offers_bytes, HEAD_BYTES), b"")
        if refuse_nul and format_ is not PARQUET and b"\0" in head and not head.startswith(_UTF16_BOMS):
            return False
        if format_ is None and len(data) < min(HEAD_BYTES, self._room):
            self.small[path] = data
            self._room -= len(data) + _SMALL_OVERHEAD
        self.paths.append(path)
        self.has_text |= bool(head)
        return True


def _short_name(names: Sequence[str]) -> str:
    if names[0] == "-":
        return "stdin"
    path = Path(os.path.abspath(names[0]))  # noqa: PTH100  # resolves "..", which absolute() keeps
    packed = path.suffix.lower() in _PACKED_SUFFIXES
    name = (path.stem if packed else path.name) or "corpus"
    return name if path.is_dir() else (Path(name).stem or name)


def _expand(name: str, opener: _Opener) -> None:
    """Add the files that ``name`` means."""
    if not name:
        raise MissingInputError("'' is not the name of a file; is a variable of the shell empty?")
    path = Path(name)
    with reading(name):
        exists = path.exists()
    if not exists:
        raise MissingInputError(f"{path} does not exist; check the name, or pass - to read from stdin")
    if path.is_file():
        opener.add(path, str(path))
    elif path.is_dir():
        _add_folder(path, opener)
    else:
        raise UsageError(
            f"{path} is a pipe or a device, which can be read only once; pass it as stdin, with the name -"
        )


def _add_folder(folder: Path, opener: _Opener) -> None:
    files = visible_files(folder)
    only_parquet = all(file.suffix.lower() == ".parquet" for file in files)  # else it is not a folder of tables
    others = [str(file) for file in files if not opener.add_text(file, only_parquet)]
    warn_of(others, "skipped {} that is not text", "skipped {} that are not text")
    if len(others) == len(files):
        raise MissingInputError(f"{folder} is a folder with no text file in it; name a file, or a folder that has some")


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
    with reading("stdin"):
        return sys.stdin.buffer.read(BLOCK_BYTES)
