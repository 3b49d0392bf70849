"""What a file holds, by its first bytes: text as it is, compressed text, or something that is not text.

gzip, bzip2, xz, zstd, and zip with one file in it are unpacked as they are read. Archives of several files, documents
of office programs, PDF, images, programs and databases are refused with one line that says what to do; learnt as text,
they would give a model of their packing.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import re
import shlex
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from charlm.errors import DataError

HEAD_BYTES = 8192
"""How much of a file tells its format. The mark of tar is at 257."""

_TEXT_ADVICE = "save it as plain text (.txt) first"
_UNPACK_ADVICE = "unpack it, and name the folder or its files"
_NAME_ADVICE = "name a text file"


class Format(NamedTuple):
    """A format that is not plain text."""

    what: str
    """With its article, such as "a PDF document"."""
    advice: str = _NAME_ADVICE
    packing: str = ""
    """For what is unpacked: gzip, bzip2, xz, zstd or zip."""


PARQUET = Format("a Parquet table", "export a column of it as text, one value on each line")
"""Text for the commands that read a column of a table."""

# The pattern at the start of a file. Patterns that ASCII text could match include more than the letters.
_FORMATS: tuple[tuple[bytes, Format], ...] = (
    (rb"\x1f\x8b", Format("gzip", packing="gzip")),
    (rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)", Format("bzip2", packing="bzip2")),
    (rb"\xfd7zXZ\0", Format("xz", packing="xz")),
    (rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", Format("zstd", packing="zstd")),
    (rb"PK(?:\x03\x04|\x05\x06|\x07\x08)", Format("zip", packing="zip")),
    (rb".{257}ustar(?:\0| )", Format("a tar archive", "unpack it with tar xf {name}, and name the folder")),
    (rb"7z\xbc\xaf\x27\x1c", Format("a 7z archive", _UNPACK_ADVICE)),
    (rb"Rar!\x1a\x07", Format("a RAR archive", _UNPACK_ADVICE)),
    (rb"\x1f[\x9d\xa0]|\x04\x22\x4d\x18|LZIP\x01|MSCF\0\0\0\0", Format("a compressed file", _UNPACK_ADVICE)),
    (rb"%PDF-", Format("a PDF document", "extract its text with pdftotext {name}")),
    (rb"\{\\rtf1", Format("an RTF document", _TEXT_ADVICE)),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Format("an old Office document (doc, xls or ppt)", _TEXT_ADVICE)),
    (
        rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|BM.{4}\0{4}|II\*\0|MM\0\*|RIFF.{4}WEBP|\0\0[\1\2]\0[\1-\xff]\0",
        Format("an image"),
    ),
    (
        rb"RIFF.{4}(?:WAVE|AVI )|OggS\0|fLaC\0|ID3[\2-\4]\0|\0\0\0.ftyp|\x1a\x45\xdf\xa3",
        Format("an audio or video file"),
    ),
    (
        rb"\x7fELF|MZ.\0|\xcf\xfa\xed\xfe|\xce\xfa\xed\xfe|\xca\xfe\xba\xbe|\0asm|!<arch>\n.{58}`\n",
        Format("a program or a library"),
    ),
    (rb"SQLite format 3\0", Format("an SQLite database", "export its text first")),
    (rb"PAR1[\0-\x1f]", PARQUET),
    (rb"\x89HDF\r\n\x1a\n|\x93NUMPY|GGUF[\0-\x09]\0\0\0|\x80[\2-\5](?:\x95|\}|\])", Format("a file of numbers")),
)
_RECOGNIZED = re.compile(b"|".join(b"(" + pattern + b")" for pattern, _ in _FORMATS), re.DOTALL)


def recognize(head: bytes) -> Format | None:
    """The format of a file that begins with ``head``, its first ``HEAD_BYTES``; None for plain text."""
    found = _RECOGNIZED.match(head)
    return _FORMATS[cast(int, found.lastindex) - 1][1] if found else None


_PACKED_MARKS = (
    b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", *(b"BZh%d1AY&SY" % level for level in range(1, 10)),
    *(bytes([first]) + b"*M\x18" for first in range(0x50, 0x60)),
)  # fmt: skip


def could_be_packed(head: bytes) -> bool:
    """Whether more bytes could make ``head`` the beginning of a format that is unpacked."""
    return any(len(head) < len(mark) and mark.startswith(head) for mark in _PACKED_MARKS)


class NotTextError(DataError):
    """A file in a format that is not text."""


def not_text(format_: Format, name: str, offers_bytes: bool) -> NotTextError:
    """The error for a file called ``name`` that is not text. With ``offers_bytes`` it names --tokenizer byte."""
    advice = format_.advice.format(name=shlex.quote(name))
    as_bytes = ", or read its bytes with --tokenizer byte" if offers_bytes else ""
    return NotTextError(f"{name} is {format_.what}, not text; {advice}{as_bytes}")


def refuse_packed(head: bytes, outer: Format, name: str, offers_bytes: bool) -> None:
    """Raise ``NotTextError`` if ``head``, the first bytes that were unpacked from ``outer``, are not those of text."""
    inner = recognize(head)
    if inner is None:
        return
    what = f"{inner.what}, packed with {outer.packing}" if not inner.packing else f"packed twice ({outer.packing})"
    raise not_text(Format(what, inner.advice if "tar" in inner.what else "unpack it first"), name, offers_bytes)


@contextlib.contextmanager
def unpacked(file: IO[bytes], format_: Format, name: str, offers_bytes: bool = False) -> Iterator[IO[bytes]]:
    """The unpacked content of ``file``, which has been recognized as ``format_`` and is at its beginning.

    Raises ``DataError`` where it is damaged or incomplete, where this Python lacks the library, and for a zip file
    that is a document or has several files in it; ``name`` is what the messages call it.
    """
    damaged = _DAMAGED
    try:
        if format_.packing == "zip":
            with _open_zip(file, name, offers_bytes) as content:
                yield content
        elif format_.packing == "gzip":
            with gzip.GzipFile(fileobj=file) as content:
                yield cast(IO[bytes], content)
        elif format_.packing == "zstd":
            zstd = _zstd_module(name)
            damaged = (*_DAMAGED, zstd.ZstdError)
            yield io.BufferedReader(_Streams(file, zstd.ZstdDecompressor))
        else:
            make = {"bzip2": bz2.BZ2Decompressor, "xz": lzma.LZMADecompressor}[format_.packing]
            yield io.BufferedReader(_Streams(file, make))
    except damaged as error:
        raise _incomplete(format_, name, error) from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise _incomplete(format_, name, error) from None  # how bz2 reports damage


_DAMAGED: tuple[type[Exception], ...] = (
    gzip.BadGzipFile, zlib.error, lzma.LZMAError, zipfile.BadZipFile, EOFError, struct.error,
)  # fmt: skip


class _Streams(io.RawIOBase):
    """The content of the compressed streams in a file, one after the other.

    The classes of the standard library take a damaged stream after the first for the end of the file.
    """

    def __init__(self, file: IO[bytes], make_decompressor: Callable[[], Any]) -> None:
        self._file, self._make = file, make_decompressor
        self._decompressor = make_decompressor()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._decompressor.eof:
                # Streams of xz may be padded with zeros.
                rest = (self._decompressor.unused_data or self._file.read(_READ_BYTES)).lstrip(b"\0")
                if not rest:
                    return 0
                self._decompressor = self._make()
            elif self._decompressor.needs_input:
                rest = self._file.read(_READ_BYTES)
                if not rest:
                    raise EOFError("it ends too early")
            else:
                rest = b""
            data = self._decompressor.decompress(rest, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)


_READ_BYTES = 1 << 16


def _incomplete(format_: Format, name: str, error: Exception) -> DataError:
    reason = str(error) or type(error).__name__
    return DataError(
        f"{name} is not a complete {format_.packing} file ({reason:.80}); unpack it yourself or download it again"
    )


def _zstd_module(name: str) -> Any:
    try:
        from compression import zstd  # from Python 3.14 on
    except ImportError:
        try:
            from backports import zstd
        except ImportError:
            raise DataError(
                f"{name} is compressed with zstd, which this Python cannot unpack; pip install backports.zstd, or "
                f"unpack it first with zstd -d {shlex.quote(name)}"
            ) from None
    return zstd


# ---------------------------------------------------------------------------------------------------- zip

# A file in a zip file that tells its kind.
_ZIP_FORMATS = {
    "word/document.xml": Format("a Word document (docx)", _TEXT_ADVICE),
    "xl/workbook.xml": Format("an Excel workbook (xlsx)", "save one sheet as CSV or plain text first"),
    "xl/workbook.bin": Format("an Excel workbook (xlsb)", "save one sheet as CSV or plain text first"),
    "ppt/presentation.xml": Format("a PowerPoint presentation (pptx)", _TEXT_ADVICE),
    "META-INF/MANIFEST.MF": Format("a Java archive"),
}
_MIME_FORMATS = {
    b"application/vnd.oasis.opendocument.spreadsheet": Format(
        "an OpenDocument spreadsheet (ods)", "save one sheet as CSV or plain text first"
    ),
    b"application/vnd.oasis.opendocument.": Format("an OpenDocument file (such as odt)", _TEXT_ADVICE),
    b"application/epub+zip": Format("an EPUB book", _TEXT_ADVICE),
}


def zip_member(path: Path) -> str | None:
    """The name of the only file in the zip file ``path``; None where it is not one, or cannot be read."""
    with contextlib.suppress(OSError, zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError):
        with zipfile.ZipFile(path) as archive:
            members = _zip_members(archive)
        return members[0].filename if len(members) == 1 else None
    return None


def _zip_members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The visible files in a zip file."""
    return [
        member
        for member in archive.infolist()
        if not member.is_dir() and not any(part.startswith((".", "__MACOSX")) for part in _parts(member))
    ]


def _open_zip(file: IO[bytes], name: str, offers_bytes: bool) -> IO[bytes]:
    """The only file in a zip file."""
    try:
        archive = zipfile.ZipFile(file)
        members = _zip_members(archive)
        format_ = _zip_format(archive, members)
        if any(member.flag_bits & 1 for member in members):
            raise zipfile.BadZipFile("it is encrypted")
        if format_ is not None:
            raise not_text(format_, name, offers_bytes)
        return archive.open(members[0])
    except (NotImplementedError, RuntimeError, ValueError, OverflowError) as error:  # encrypted, unusual or damaged
        raise zipfile.BadZipFile(str(error)) from None


def _parts(member: zipfile.ZipInfo) -> list[str]:
    return member.filename.split("/")


def _zip_format(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> Format | None:
    """Why a zip file is not read as text; None if it holds one file."""
    names = {member.filename for member in members}
    for mark, format_ in _ZIP_FORMATS.items():
        if mark in names:
            return format_
    if "mimetype" in names:
        with archive.open("mimetype") as file:
            mime = file.read(100)
        for prefix, format_ in _MIME_FORMATS.items():
            if mime.startswith(prefix):
                return format_
    if len(members) == 1:
        return None
    held = f"a zip archive of {len(members):,} files" if members else "an empty zip archive"
    return Format(held, "unpack it with unzip {name}, and name the folder or its files" if members else _NAME_ADVICE)
