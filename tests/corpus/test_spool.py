import errno
import io
import os
from types import SimpleNamespace

import pytest

from charlm.corpus.text import open_source
from charlm.errors import InputOutputError


class Full(io.BytesIO):
    """A file on a full disk."""

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_copy_of_stdin_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"a text")))
    monkeypatch.setattr("builtins.open", lambda *arguments: Full())
    with pytest.raises(InputOutputError, match=r"copy of stdin in \S*spool could not be written \(No space left"):
        open_source(["-"], spool=tmp_path / "spool")
