"""The documents that ``charlm score`` reads: from files, or from stdin as they arrive."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from charlm.cli.tables import report_changes
from charlm.cli.texts import wait_for_stdin
from charlm.errors import UsageError

if TYPE_CHECKING:
    from charlm.corpus.encodings import Decoding
    from charlm.corpus.pieces import Piece
    from charlm.corpus.text import TextSource
    from charlm.evaluation.scoring import Scored
    from charlm.language_model import LanguageModel


class ScoredTexts:
    """The documents of ``source``, or None of stdin, scored or as text. ``given`` is the condition of all.

    ``split`` is a key of ``DOCUMENT_SEPARATORS``, and the regular expression of the kind "start".
    """

    def __init__(
        self,
        model: LanguageModel,
        source: TextSource | None,
        split: tuple[str, str | None],
        decoding: Decoding,
        given: str | None = None,
    ) -> None:
        from charlm.corpus.encodings import Changes

        self._kind, self._start = split
        self._model, self._source, self._decoding, self._given = model, source, decoding, given
        self._any_file = model.tokenizer.kind == "byte"
        if source is None and sys.stdin.isatty():
            raise UsageError("no text given; use charlm score FILE, or pipe a text into charlm score")
        self._changes = Changes()
        self._skipped = 0

    def scored(self) -> Iterator[list[Scored]]:
        """Scored documents in batches; stdin is scored as it arrives."""
        pieces: Iterable[Piece] = self._pieces()
        if self._given is not None:
            from charlm.corpus.conditions import with_value

            pieces = with_value(pieces, self._given, self._model.tokenizer.kind)
        return self._model.score_pieces(pieces, at_once=self._source is None)

    def texts(self) -> Iterator[tuple[int, str, str | None]]:
        """(number, text, condition) of each document, counted from 1."""
        from charlm.evaluation.scoring import document_texts

        texts = document_texts(self._model.tokenizer, self._pieces())
        return ((number, text, self._given) for number, text in texts)

    def place_of(self, scored: Scored) -> tuple[str, int | None]:
        """The file of a document, - for stdin, and its line; None if the document is the file."""
        file = "-" if self._source is None else str(self._source.paths[scored.file])
        return file, None if self._kind == "files" else scored.line

    def shown_place(self, scored: Scored) -> str:
        """The place of a document in words."""
        file, line = self.place_of(scored)
        return file if line is None else f"{file}:{line}"

    @property
    def are_files(self) -> bool:
        """Whether each document is a file, which is shown by its name."""
        return self._kind == "files" and self._source is not None

    def report(self) -> None:
        """Say on stderr what reading has changed in the texts."""
        changes = self._changes if self._source is None else self._source.changes
        report_changes(replace(changes, skipped=self._skipped), self._model)

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
