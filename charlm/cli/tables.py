"""Tables on the command line: which column a command reads, and the scores of rows."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from charlm.errors import UsageError

if TYPE_CHECKING:
    from charlm.corpus.documents import Piece
    from charlm.corpus.tables import TableSource
    from charlm.corpus.text import TextSource
    from charlm.evaluation.scoring import Scored
    from charlm.language_model import LanguageModel


class TableForm(NamedTuple):
    """The options of a command for tables."""

    column: str | None = None
    delimiter: str | None = None
    as_text: bool = False


def open_for_models(
    models: Sequence[LanguageModel], names: Sequence[str], encoding: str, spool: Path | None, form: TableForm | None
) -> TextSource:
    """The texts of files, folders or stdin; of tables the column that ``form`` names or a model was trained on.

    ``form`` is None for a command without options for tables. Stdin is a table only where ``form`` names a column.
    """
    from charlm.corpus.tables import TableOptions, open_texts

    column, delimiter, as_text = form or TableForm()
    trained = next((model.table for model in models if model.table is not None), None)
    if delimiter is not None and column is None and trained is None:
        raise UsageError("--delimiter is for a column of a table; add --column NAME, or leave it out")
    if column is not None and as_text:
        raise UsageError("--as-text is not a column of a table; leave out --column")
    table = None if column is None else TableOptions(column, delimiter)
    default = None if trained is None else TableOptions(trained.column, delimiter)
    advice = {} if form is not None else {"advice": "save one of them as a text file first"}
    return open_texts(names, encoding, spool, models[0].tokenizer.kind == "byte", table, as_text, default, **advice)


@contextmanager
def spool_folder(names: Sequence[str], form: TableForm) -> Iterator[Path | None]:
    """Where stdin is copied if it is a table, which is read more than once; None if it is not."""
    if "-" not in names or form.column is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "stdin"


def kept_names(own: Sequence[str], keep: Sequence[str]) -> list[str]:
    """The names of kept columns in the output, so that none is also one of the output's ``own``."""
    return [f"row.{name}" if name in own else name for name in keep]


class RowDocuments:
    """The rows of tables as documents, scored or as text. Of each row, the cells of the columns ``keep`` are kept."""

    def __init__(self, model: LanguageModel, source: TableSource, keep: Sequence[str] = ()) -> None:
        self._model, self._source, self._keep = model, source, keep

    def scored(self) -> Iterator[list[Scored]]:
        """Scored rows in batches; a document's ``number`` is that of its row."""
        rows: deque[tuple[int, tuple[str, ...]]] = deque()
        for batch in self._model.score_pieces(self._pieces(rows)):
            numbered = []
            for scored in batch:
                number, kept = rows.popleft()
                numbered.append(scored._replace(number=number, kept=kept))
            yield numbered

    def texts(self) -> Iterator[tuple[int, str]]:
        """(number, text) of each row."""
        from charlm.evaluation.scoring import document_texts

        rows: deque[tuple[int, tuple[str, ...]]] = deque()
        for text in document_texts(self._model.tokenizer, self._pieces(rows)):
            yield rows.popleft()[0], text

    def name_of(self, scored: Scored) -> str:
        """How a document is shown."""
        return scored.text

    def _pieces(self, rows: deque[tuple[int, tuple[str, ...]]]) -> Iterator[Piece]:
        """The pieces of the table; the number and the kept cells of their rows are appended to ``rows``."""
        for piece, numbers, kept in self._source.blocks(self._model.tokenizer.kind, self._keep, keep_empty=True):
            cells = [[cell or "" for cell in column] for column in kept]
            rows.extend(zip(numbers, zip(*cells, strict=True) if cells else [()] * len(numbers), strict=True))
            yield piece
