"""The documents that ``charlm score`` reads: from files, or from stdin as they arrive."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from charlm.cli.output import say
from charlm.cli.texts import wait_for_stdin
from charlm.errors import UsageError

if TYPE_CHECKING:
    from charlm.corpus.encodings import Decoding
    from charlm.corpus.pieces import Piece
    from charlm.evaluation.scoring import Scored
    from charlm.language_model import LanguageModel


class ScoredTexts:
    """The documents of texts, scored or as text. ``kind`` is a key of ``DOCUMENT_SEPARATORS``."""

    def __init__(
        self, model: LanguageModel, names: Sequence[str], kind: str, start: str | None, decoding: Decoding
    ) -> None:
        from charlm.corpus.encodings import Changes
        from charlm.corpus.text import open_source

        self._model, self._kind, self._start, self._decoding = model, kind, start, decoding
        self._any_file = model.tokenizer.kind == "byte"
        self._live = list(names) == ["-"]
        if self._live and sys.stdin.isatty():
            raise UsageError("no text given; use charlm score FILE, or pipe a text into charlm score")
        if "-" in names and not self._live:
            raise UsageError("stdin can only be scored by itself; leave out the files, or the -")
        self._source = None if self._live else open_source(names, any_file=self._any_file, decoding=decoding)
        self._changes = Changes()
        self._skipped = 0

    def scored(self) -> Iterator[list[Scored]]:
        """Scored documents in batches; stdin is scored as it arrives."""
        return self._model.score_pieces(self._pieces(), at_once=self._live)

    def texts(self) -> Iterator[tuple[int, str]]:
        """(number, text) of each document, counted from 1."""
        from charlm.evaluation.scoring import document_texts

        return document_texts(self._model.tokenizer, self._pieces())

    def place_of(self, scored: Scored) -> tuple[str, int | None]:
        """The file of a document, - for stdin, and its line; None if the document is the file."""
        file = "-" if self._source is None else str(self._source.paths[scored.file])
        return file, None if self._kind == "files" else scored.line

    @property
    def are_files(self) -> bool:
        """Whether each document is a file, which is shown by its name."""
        return self._kind == "files" and self._source is not None

    def report(self) -> None:
        """Say on stderr what reading has changed in the texts."""
        changes = self._changes if self._source is None else self._source.changes
        if changes.replaced:
            say(f"invalid bytes replaced by U+FFFD: {changes.replaced:,}")
        if self._skipped:
            say(f"documents skipped for invalid bytes: {self._skipped:,}")
        if changes.normalized:
            form = self._decoding.normalization.upper()
            say(f"characters changed to {form}, as in the training text: {changes.normalized:,}")

    def _pieces(self) -> Iterator[Piece]:
        from charlm.corpus.documents import split_documents
        from charlm.corpus.pieces import without_invalid

        kind = self._model.tokenizer.kind
        files = [self._stdin_codes()] if self._source is None else self._source.files(kind)
        # Empty lines are scored, too, so that scores and lines can be joined with paste.
        pieces = split_documents(files, self._kind, keep_empty=True, start=self._start)
        if self._decoding.errors != "skip-document":
            return pieces
        return self._counted(pieces, without_invalid)

    def _counted(self, pieces: Iterator[Piece], keep: Any) -> Iterator[Piece]:
        """What ``keep`` leaves of ``pieces``; the documents that it leaves out are counted."""

        def read() -> Iterator[Piece]:
            for piece in pieces:
                self._skipped += len(piece.ends)
                yield piece

        for piece in keep(read()):
            self._skipped -= len(piece.ends)
            yield piece

    def _stdin_codes(self) -> Iterator[Any]:
        import numpy as np

        from charlm.corpus.blocks import stream_blocks
        from charlm.corpus.encodings import decode_blocks
        from charlm.tokenizer.normalization import Normalizer
        from charlm.tokenizer.protocol import code_points

        wait_for_stdin()
        blocks = stream_blocks(sys.stdin.buffer, "stdin", self._any_file, self._decoding.offers_bytes)
        if self._any_file:
            yield from (np.frombuffer(block, np.uint8) for block in blocks)
            return
        marked, normalizer = self._decoding.errors == "skip-document", Normalizer(self._decoding.normalization)
        for text in normalizer.blocks(decode_blocks(blocks, "stdin", self._decoding, self._changes)):
            yield code_points(text, marked)
        self._changes.normalized = normalizer.changed
