"""The bytes of files in blocks of bounded size, unpacked where they are packed, and errors of reading them."""

from __future__ import annotations

import contextlib
import errno
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from charlm.corpus.formats import NotTextError, could_be_packed, not_text, recognize, refuse_packed, unpacked
from charlm.errors import CharlmError, InputOutputError, MissingInputError

BLOCK_BYTES = 1 << 20


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn the errors of reading ``name`` into one line each."""
    try:
        yield
    except CharlmError:
        raise
    except FileNotFoundError:
        raise MissingInputError(f"{name} does not exist; check the name") from None
    except (PermissionError, IsADirectoryError) as error:
        raise MissingInputError(f"{name} is not readable ({error.strerror}); check its permissions") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise MissingInputError(f"{name[:80]}... is too long for a file name; check the name") from None
        raise InputOutputError(
            f"{name} could not be read ({error.strerror or error}); check the disk and try again"
        ) from None


def read_blocks(
    path: Path,
    name: str | None = None,
    *,
    unpack: bool = True,
    any_file: bool = False,
    offers_bytes: bool = True,
    size: int | None = None,
) -> Iterator[bytes]:
    """The bytes of a file in blocks of at most ``size``, by default ``BLOCK_BYTES``; unpacked if it is packed.

    Raises ``NotTextError`` for a format that is not text unless ``any_file`` is set. ``name`` is what messages call
    the file, ``offers_bytes`` whether they name --tokenizer byte.
    """
    name = name or str(path)
    with reading(name), open(path, "rb") as file:
        yield from file_blocks(file, name, unpack, any_file, offers_bytes, size or BLOCK_BYTES)


def stream_blocks(stream: IO[bytes], name: str, any_file: bool, offers_bytes: bool) -> Iterator[bytes]:
    """``read_blocks`` for a stream that is read once, such as stdin: each block is what has arrived.

    A packed stream is first read to its end, into a temporary file.
    """
    read: Callable[[int], bytes] = getattr(stream, "read1", stream.read)  # read1 does not wait for more
    with reading(name):
        data = read(BLOCK_BYTES)
        while could_be_packed(data) and (more := read(BLOCK_BYTES)):
            data += more
        format_ = recognize(data)
        if format_ is None:
            while data:
                yield data
                data = read(BLOCK_BYTES)
            return
        with tempfile.TemporaryFile() as copy:
            while data:
                copy.write(data)
                data = read(BLOCK_BYTES)
            copy.seek(0)
            yield from file_blocks(copy, name, True, any_file, offers_bytes, BLOCK_BYTES)


def file_blocks(
    file: IO[bytes], name: str, unpack: bool, any_file: bool, offers_bytes: bool, size: int
) -> Iterator[bytes]:
    """``read_blocks`` for an open file that can be read again from its beginning."""
    with contextlib.ExitStack() as stack:
        content, data = file, file.read(size)
        format_ = recognize(data) if unpack else None
        if format_ is not None and not format_.packing and not any_file:
            raise not_text(format_, name, offers_bytes)
        if format_ is not None and format_.packing:
            file.seek(0)
            try:
                content = stack.enter_context(unpacked(file, format_, name, offers_bytes))
                data = content.read(size)
                if not any_file:
                    refuse_packed(data, format_, name, offers_bytes)
            except NotTextError:
                if not any_file:
                    raise
                file.seek(0)
                content, data = file, file.read(size)
        while data:
            yield data
            data = content.read(size)
