"""Tables and conditions on the command line: which columns a command reads, and the documents of rows."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from charlm.cli.output import say
from charlm.errors import UsageError

if TYPE_CHECKING:
    from charlm.corpus.encodings import Changes, Decoding
    from charlm.corpus.pieces import Piece
    from charlm.corpus.tables import TableSource
    from charlm.corpus.text import TextSource
    from charlm.corpus.trained_table import TrainedTable
    from charlm.evaluation.classification import Classified
    from charlm.evaluation.scoring import Scored
    from charlm.language_model import LanguageModel


class _Row(NamedTuple):
    """A row whose result is still to come; as in ``Scored``."""

    number: int
    line: int | None
    file: int
    kept: tuple[str, ...]


_Rows: TypeAlias = "deque[_Row]"
ResultT = TypeVar("ResultT")


class TableForm(NamedTuple):
    """The options of a command for tables and conditions."""

    column: str | None = None
    delimiter: str | None = None
    as_text: bool = False
    given_column: str | None = None
    given: str | None = None

    def normal(self, models: Sequence[LanguageModel]) -> TableForm:
        """The same with ``given`` in the normal form of the models' texts."""
        from charlm.tokenizer.normalization import normalize

        if self.given is None:
            return self
        return self._replace(given=normalize(self.given, models[0].tokenizer.normalization))


def decoding_for(
    models: Sequence[LanguageModel],
    encoding: str,
    errors: str = "strict",
    options: Sequence[str] = ("--encoding",),
) -> Decoding:
    """How texts are read for ``models``; ``options`` are those that the command has.

    Raises ``UsageError`` for values that do not exist, and for models that read different normal forms.
    """
    from charlm.corpus.encodings import Decoding

    form = models[0].tokenizer.normalization
    if any(model.tokenizer.normalization != form for model in models):
        raise UsageError("these models read texts in different normal forms (--normalize); name models with the same")
    return Decoding(encoding, errors, form, options)


def open_for_models(
    models: Sequence[LanguageModel],
    names: Sequence[str],
    decoding: Decoding,
    spool: Path | None,
    form: TableForm | None,
) -> TextSource:
    """The texts of files, folders or stdin; of tables the column that ``form`` names or a model was trained on.

    For a model with conditions, the rows have theirs, unless ``form`` gives one for all. ``form`` is None for a command
    without options for tables. Stdin is a table only where ``form`` names a column.
    """
    from charlm.corpus.tables import TableOptions, TableSource, open_texts

    options = (form or TableForm()).normal(models)
    tables = [model.table for model in models if model.table is not None]
    conditional = next((table for table in tables if table.given is not None), None)
    check_form(options, tables, conditional)
    given = None if conditional is None or options.given is not None else options.given_column or conditional.given
    table = None if options.column is None else TableOptions(options.column, options.delimiter, given)
    default = TableOptions(tables[0].column, options.delimiter, given) if tables else None
    advice = {} if form is not None else {"advice": "save one of them as a text file first"}
    any_file = models[0].tokenizer.kind == "byte"
    source = open_texts(names, decoding, spool, any_file, table, options.as_text, default, **advice)
    if isinstance(source, TableSource):
        _check_same_columns(options, tables)
    elif conditional is not None and options.given is None:
        raise needs_condition(conditional, form is not None)
    return source


def check_form(form: TableForm, tables: Sequence[TrainedTable], conditional: TrainedTable | None) -> None:
    """Raise ``UsageError`` for contradictions among the options, and with the models."""
    if form.delimiter is not None and form.column is None and not tables:
        raise UsageError("--delimiter is for a column of a table; add --column NAME, or leave it out")
    if form.column is not None and form.as_text:
        raise UsageError("--as-text reads all of a table, --column one column of it; give one of them")
    if form.given is not None and form.given_column is not None:
        raise UsageError("--given is one value for all documents, --given-column has one for each; give one of them")
    if conditional is None:
        if form.given is not None or form.given_column is not None:
            name = "--given" if form.given is not None else "--given-column"
            raise UsageError(f"this model was trained without a condition (charlm train --given); leave out {name}")
    elif form.given is not None:
        conditional.check_value(form.given)


def _check_same_columns(form: TableForm, tables: Sequence[TrainedTable]) -> None:
    """Raise ``UsageError`` if models read different columns and ``form`` does not say which."""
    columns = {table.column for table in tables}
    if form.column is None and len(columns) > 1:
        raise UsageError(f"these models read different columns ({', '.join(sorted(columns))}); name one with --column")
    conditions = {table.given for table in tables if table.given is not None}
    if len(conditions) > 1:
        raise UsageError(f"these models have different conditions ({', '.join(sorted(conditions))}); leave out FILE")


def check_stdin(model: LanguageModel, form: TableForm) -> None:
    """Raise ``UsageError`` unless ``form`` fits a text from stdin that is read by ``model`` as it arrives."""
    table = model.table
    conditional = None if table is None or table.given is None else table
    check_form(form.normal([model]), [] if table is None else [table], conditional)
    if conditional is not None and form.given is None:
        raise needs_condition(conditional)


def needs_condition(table: TrainedTable, has_options: bool = True) -> UsageError:
    """The error for a model with conditions and a text without them."""
    options = f", or name one {table.given} for all of it: --given VALUE" if has_options else ""
    return UsageError(
        f"this model predicts {table.column} given {table.given}; read a table with these columns{options}; "
        f"{table.listed()}"
    )


def documents_for(
    model: LanguageModel, source: TextSource, pieces: Iterable[Piece], given: str | None
) -> Iterable[Piece]:
    """``pieces`` of ``source`` as ``model`` reads them: with conditions, perhaps ``given`` for all, or without."""
    from charlm.corpus.conditions import with_value, without_prefixes
    from charlm.corpus.tables import TableSource
    from charlm.tokenizer.normalization import normalize

    has_conditions = isinstance(source, TableSource) and source.options.given is not None
    if model.tokenizer.separator_id is None:
        return map(without_prefixes, pieces) if has_conditions else pieces
    if has_conditions or given is None:
        return pieces
    return with_value(pieces, normalize(given, model.tokenizer.normalization), model.tokenizer.kind)


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
    """The rows of tables as documents, scored or as text. Of each row, the cells of the columns ``keep`` are kept.

    ``given`` is the condition of all rows, if they do not have their own.
    """

    are_files = False
    """Whether each document is a file, which is shown by its name."""

    def __init__(
        self, model: LanguageModel, source: TableSource, keep: Sequence[str] = (), given: str | None = None
    ) -> None:
        self._model, self._source, self._keep, self._given = model, source, keep, given

    def scored(self) -> Iterator[list[Scored]]:
        """Scored rows in batches; a document's ``number`` is that of its row."""
        rows: _Rows = deque()
        pieces = documents_for(self._model, self._source, self._pieces(rows), self._given)
        unknown, table = 0, self._model.table
        for batch in self._model.score_pieces(pieces):
            if table is not None:
                unknown += sum(scored.given is not None and scored.given not in table.counts for scored in batch)
            yield [scored._replace(**row._asdict()) for scored, row in _paired(batch, rows)]
        if table is not None and unknown:
            say(f"{unknown:,} rows have a {table.given} that the training text does not have")

    def classified(self) -> Iterator[list[Classified]]:
        """Classified rows in batches, numbered in the same way."""
        rows: _Rows = deque()
        for batch in self._model.classify_pieces(self._pieces(rows)):
            yield [found._replace(number=row.number, kept=row.kept) for found, row in _paired(batch, rows)]

    def texts(self) -> Iterator[tuple[int, str, str | None]]:
        """(number, text, condition) of each row."""
        given = [] if self._source.options.given is None else [self._source.options.given]
        kind = self._model.tokenizer.kind
        for block in self._source.blocks(kind, [self._source.options.column, *given], keep_empty=True):
            texts, *values = block.kept
            own = [None if value is None else value.strip() for value in values[0]] if values else None
            for place, number in enumerate(block.numbers):
                yield number, texts[place] or "", self._given if own is None else own[place]

    def place_of(self, scored: Scored) -> tuple[str, int | None]:
        """The file of a row, - for stdin, and its line; None where rows have no lines (Parquet, a JSON list)."""
        path = self._source.paths[scored.file]
        return "-" if path == self._source.stdin else str(path), scored.line

    def shown_place(self, scored: Scored) -> str:
        """The place of a row in words."""
        file, line = self.place_of(scored)
        return f"{file} row {scored.number}" if line is None else f"{file}:{line}"

    def report(self) -> None:
        """Say on stderr what reading has changed in the texts."""
        report_changes(self._source.changes, self._model)

    def _pieces(self, rows: _Rows) -> Iterator[Piece]:
        """The pieces of the table; the number and the kept cells of their rows are appended to ``rows``."""
        kind = self._model.tokenizer.kind
        for block in self._source.blocks(kind, self._keep, keep_empty=True, with_lines=True):
            cells = [[cell or "" for cell in column] for column in block.kept]
            kept = zip(*cells, strict=True) if cells else [()] * len(block.numbers)
            places = zip(block.numbers, block.lines, kept, strict=True)
            rows.extend(_Row(number, line, block.file, cells) for number, line, cells in places)
            yield block.piece


def report_changes(changes: Changes, model: LanguageModel) -> None:
    """Say on stderr what reading has changed in the texts of ``model``."""
    if changes.replaced:
        say(f"invalid bytes replaced by U+FFFD: {changes.replaced:,}")
    if changes.skipped:
        say(f"documents skipped for invalid bytes: {changes.skipped:,}")
    if changes.normalized:
        form = model.tokenizer.normalization.upper()
        say(f"characters changed to {form}, as in the training text: {changes.normalized:,}")


def _paired(results: Sequence[ResultT], rows: _Rows) -> list[tuple[ResultT, _Row]]:
    """Results and their rows, which leave ``rows``."""
    return [(result, rows.popleft()) for result in results]
