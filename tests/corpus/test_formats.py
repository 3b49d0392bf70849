"""Packed files are unpacked, and what is not text is refused, by their first bytes."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest

from charlm.corpus.blocks import read_blocks, stream_blocks
from charlm.corpus.formats import NotTextError, could_be_packed, recognize
from charlm.errors import DataError

try:
    from compression import zstd
except ImportError:  # before Python 3.14
    from backports import zstd

TEXT = "".join(f"naïve line {number * number},\r\n" for number in range(700)).encode()


def zipped(files, method=zipfile.ZIP_DEFLATED):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def tarred(mode="w", **files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def zstandard(content):
    return zstd.compress(content, options={zstd.CompressionParameter.checksum_flag: 1})


def two_members(pack):
    return pack(TEXT[:1000]) + pack(TEXT[1000:])


PACKED = {
    "gzip": gzip.compress(TEXT),
    "gzip of two members": two_members(gzip.compress),
    "bzip2": bz2.compress(TEXT),
    "bzip2 of two streams": two_members(bz2.compress),
    "xz": lzma.compress(TEXT),
    "xz of two streams": two_members(lzma.compress),
    "zstd": zstandard(TEXT),
    "zstd of two frames": two_members(zstandard),
    "zstd after a frame to skip": b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd" + zstandard(TEXT),
    "zip": zipped({"a.txt": TEXT}),
    "zip, not compressed": zipped({"a.txt": TEXT}, zipfile.ZIP_STORED),
    "zip of macOS": zipped({"folder/": "", "folder/a.txt": TEXT, "__MACOSX/folder/._a.txt": "x", ".DS_Store": "y"}),
}


class Pipe(io.RawIOBase):
    """A stream that gives a few bytes at a time and cannot seek."""

    def __init__(self, data, step):
        self._data, self._step = io.BytesIO(data), step

    def readable(self):
        return True

    def read(self, size=-1):
        return self._data.read(min(size, self._step) if size >= 0 else self._step)


@pytest.mark.parametrize("any_file", [False, True])
@pytest.mark.parametrize("kind", PACKED)
def test_packed_text_is_unpacked_whatever_its_name(tmp_path, kind, any_file):
    path = tmp_path / "text"
    path.write_bytes(PACKED[kind])
    assert b"".join(read_blocks(path, any_file=any_file, size=100)) == TEXT
    for step in (1, 3, 1000):
        assert b"".join(stream_blocks(Pipe(PACKED[kind], step), "stdin", any_file, False)) == TEXT


@pytest.mark.parametrize("kind", PACKED)
def test_packed_files_that_are_cut_or_damaged_are_refused(tmp_path, kind):
    path, data = tmp_path / "text", PACKED[kind]
    damaged = [data[: len(data) // 2], data[:-1]]
    if not kind.startswith("zip"):  # its names are at the end
        damaged += [data[:-60] + b"\xaa" * 30 + data[-30:], data + b"more"]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"text is not a complete {kind.split()[0].strip(',')} file"):
            assert b"".join(read_blocks(path)) != TEXT  # it is longer than before


def test_a_file_is_what_its_first_bytes_say(tmp_path):
    path = tmp_path / "text.gz"
    path.write_bytes(TEXT)  # a browser may have unpacked it
    assert b"".join(read_blocks(path)) == TEXT


NOT_TEXT = {
    "tar": (tarred(a=TEXT, b=TEXT), "a tar archive", "tar xf"),
    "tar.gz": (gzip.compress(tarred(a=TEXT, b=TEXT)), "a tar archive, packed with gzip", "tar xf"),
    "tar.zst": (zstd.compress(tarred(a=TEXT)), "a tar archive, packed with zstd", "tar xf"),
    "gzip of gzip": (gzip.compress(gzip.compress(TEXT)), "packed twice", "unpack it first"),
    "pdf": (b"%PDF-1.7\n...", "a PDF document", "pdftotext"),
    "pdf.gz": (gzip.compress(b"%PDF-1.7\n..."), "a PDF document, packed with gzip", "unpack it first"),
    "rtf": (rb"{\rtf1\ansi hello}", "an RTF document", "plain text"),
    "doc": (bytes.fromhex("d0cf11e0a1b11ae1") + b"\0" * 100, "an old Office document", "plain text"),
    "docx": (zipped({"[Content_Types].xml": "", "word/document.xml": ""}), "a Word document", "plain text"),
    "xlsx": (zipped({"xl/workbook.xml": "", "xl/sheet.xml": ""}), "an Excel workbook", "CSV"),
    "pptx": (zipped({"ppt/presentation.xml": ""}), "a PowerPoint presentation", "plain text"),
    "odt": (
        zipped({"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": ""}),
        "an OpenDocument file", "plain text",
    ),
    "ods": (
        zipped({"mimetype": "application/vnd.oasis.opendocument.spreadsheet", "content.xml": ""}),
        "an OpenDocument spreadsheet", "CSV",
    ),
    "epub": (zipped({"mimetype": "application/epub+zip", "a.html": ""}), "an EPUB book", "plain text"),
    "jar": (zipped({"META-INF/MANIFEST.MF": "", "A.class": ""}), "a Java archive", "name a text file"),
    "zip of two": (zipped({"a.txt": TEXT, "b.txt": TEXT}), "a zip archive of 2 files", "unzip"),
    "zip of a pdf": (zipped({"a.pdf": b"%PDF-1.7"}), "a PDF document, packed with zip", "unpack it first"),
    "zip of nothing": (zipped({}), "an empty zip archive", "name a text file"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive", "unpack it"),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "an image", "name a text file"),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF", "an image", "name a text file"),
    "gif": (b"GIF89a\1\0", "an image", "name a text file"),
    "bmp": (b"BM\x36\x10\0\0\0\0\0\0\x36", "an image", "name a text file"),
    "webp": (b"RIFF\x10\0\0\0WEBPVP8 ", "an image", "name a text file"),
    "wav": (b"RIFF\x10\0\0\0WAVEfmt ", "an audio or video file", "name a text file"),
    "mp4": (b"\0\0\0\x20ftypisom", "an audio or video file", "name a text file"),
    "elf": (b"\x7fELF\2\1\1" + b"\0" * 50, "a program", "name a text file"),
    "exe": (b"MZ\x90\0\3\0\0\0", "a program", "name a text file"),
    "sqlite": (b"SQLite format 3\0", "an SQLite database", "export"),
    "parquet": (b"PAR1\x15\4\x15", "a Parquet table", "export"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "a file of numbers", "name a text file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NOT_TEXT)
def test_what_is_not_text_is_refused_with_what_to_do(tmp_path, kind):
    data, what, advice = NOT_TEXT[kind]
    path = tmp_path / "it's.txt"
    path.write_bytes(data)
    for offers_bytes in (True, False):
        with pytest.raises(NotTextError) as error:
            list(read_blocks(path, offers_bytes=offers_bytes))
        message = str(error.value)
        assert message.startswith(f"{path} is {what}")
        assert advice in message.partition(";")[2]
        assert ("--tokenizer byte" in message) == offers_bytes
        assert len(message) < 400
        assert "\n" not in message
        with pytest.raises(NotTextError):
            list(stream_blocks(io.BytesIO(data), "stdin", False, offers_bytes))
    assert b"".join(read_blocks(path, any_file=True))  # its bytes
    if recognize(data).packing in ("", "zip"):
        assert b"".join(read_blocks(path, any_file=True)) in (data, b"%PDF-1.7", b"")
        assert b"".join(stream_blocks(io.BytesIO(data), "stdin", True, False)) in (data, b"%PDF-1.7", b"")


@pytest.mark.parametrize(
    "text",
    ["", "a", "BZh is a format", "PK", "MZ and BM", "GIF", "RIFF of a guitar", "ustar" * 60, "PAR1 is a gene", "II*",
     "%PDF", "7z", "Rar!", "ID3 and OggS", "{rtf", "SQLite format 3", "!<arch>", "LZIP"],
)  # fmt: skip
def test_texts_are_not_taken_for_other_formats(text):
    assert recognize(text.encode()) is None
    assert recognize((text + "\n" + "more text\n" * 100).encode()) is None


def test_a_message_names_a_command_that_can_be_typed(tmp_path):
    path = tmp_path / "two words.tar"
    path.write_bytes(NOT_TEXT["tar"][0])
    with pytest.raises(NotTextError, match=r"tar xf '[^']*two words\.tar'"):
        list(read_blocks(path))


def test_streams_are_not_held_back_unless_they_could_be_packed():
    for data in (b"", b"\x1f", b"B", b"BZh9", b"PK\x03", b"\xfd7z", b"\x28\xb5"):
        assert could_be_packed(data)
    for data in (b"a", b"\n", b"Ba", b"BZ2", b"\x1f\x8b", b"PK\x03\x04", b"ab\x1f"):
        assert not could_be_packed(data)


def test_zstd_without_its_library_is_one_line(tmp_path, monkeypatch):
    import sys

    path = tmp_path / "a.zst"
    path.write_bytes(PACKED["zstd"])
    monkeypatch.setitem(sys.modules, "compression", None)
    monkeypatch.setitem(sys.modules, "backports", None)
    with pytest.raises(DataError, match=r"pip install backports\.zstd, or unpack it first with zstd -d") as error:
        list(read_blocks(path))
    assert not isinstance(error.value, NotTextError)


def test_encrypted_zip_files_are_refused(tmp_path):
    data = bytearray(zipped({"a.txt": TEXT}))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"not a complete zip file .*encrypted"):
        list(read_blocks(tmp_path / "a.zip"))
