"""The text that a model is trained on: the options that say what is read, and opening it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from charlm.checkpoint.model_parts import read_model_parts
from charlm.checkpoint.step import Checkpoint
from charlm.config import TrainingConfig
from charlm.corpus.documents import check_document_kind
from charlm.corpus.encodings import Decoding
from charlm.corpus.prepared import parse_split
from charlm.corpus.splitting import DocumentOptions
from charlm.corpus.tables import TableOptions, open_texts
from charlm.corpus.text import TextSource
from charlm.errors import UsageError
from charlm.tokenizer.documents import compile_start
from charlm.training.options import TrainingOptions, check_type

TOKENIZERS = ("char", "byte")
DEFAULT_SPLIT = "90/5/5"


@dataclass(frozen=True)
class TextOptions:
    """The text to train on. ``corpus``, ``valid`` and ``test`` are paths of files or folders, or "-" for stdin."""

    corpus: Sequence[str] = ()
    valid: str | None = None
    test: str | None = None
    demo: bool = False
    tokenizer: str = "char"
    encoding: str = "utf-8"
    split: str | None = None
    documents: str | None = None
    """One of ``DOCUMENT_KINDS``; None for running text, and for a table, whose documents are its rows."""
    distinct: bool = False
    """Whether duplicate documents are dropped."""
    column: str | None = None
    """The column of a table that is the text."""
    given: str | None = None
    """The column of a table that is the condition of its text."""
    delimiter: str | None = None
    as_text: bool = False
    """Whether a table is read as it stands, without a column."""
    document_start: str | None = None
    """A regular expression: a document begins at each line in which it is found, as with ``grep -E``."""
    errors: str = "strict"
    """What to do with bytes that are not valid in the encoding: one of ``ERRORS``."""
    normalize: str = "none"
    """The Unicode normal form of the text: one of ``NORMALIZATIONS``."""

    def table(self) -> TableOptions | None:
        """What is read of a table; None for a plain text."""
        return None if self.column is None else TableOptions(self.column, self.delimiter, self.given)

    def __post_init__(self) -> None:
        names = ("tokenizer", "encoding", "split", "documents", "column", "given", "delimiter", "document_start")
        for name in (*names, "errors", "normalize"):
            if (value := getattr(self, name)) is not None:
                check_type(name, value, (str,), DEFAULT_SPLIT if name == "split" else "")
        for name in ("valid", "test"):
            if getattr(self, name) == "":
                raise UsageError(f"--{name} '' is not the name of a text; name a file, or leave it out")

    @property
    def document_kind(self) -> str | None:
        """A key of ``DOCUMENT_SEPARATORS``; None for running text."""
        if self.column is not None:
            return "rows"
        return self.documents if self.document_start is None else "start"

    def decoding(self) -> Decoding:
        """How the text is decoded. Raises ``UsageError`` for values that do not exist."""
        # Of a table, which is always characters, --tokenizer byte reads the bytes of UTF-8.
        options = ("--encoding",) if self.tokenizer == "byte" else ("--encoding", "--errors", "--tokenizer")
        return Decoding(self.encoding, self.errors, self.normalize, options)


def check_texts(texts: TextOptions, base: Checkpoint | None) -> None:
    """Raise ``UsageError`` for values out of range and contradictions."""
    if texts.tokenizer not in TOKENIZERS:
        raise UsageError(f"--tokenizer must be one of {', '.join(TOKENIZERS)}, not {texts.tokenizer!r}")
    if base is not None:
        kind = read_model_parts(base).tokenizer.kind
        if kind != texts.tokenizer:
            raise UsageError(f"{base.path} was trained with --tokenizer {kind}; use the same here")
    texts.decoding()  # checks the encoding, and what is done with bytes that are not valid in it
    if texts.tokenizer == "byte":
        for option, value, default in (("--errors", texts.errors, "strict"), ("--normalize", texts.normalize, "none")):
            if value != default:
                raise UsageError(f"{option} is for characters, and --tokenizer byte reads bytes; leave one of them out")
    _validate_table(texts)
    _validate_documents(texts)
    parse_split(DEFAULT_SPLIT if texts.split is None else texts.split)
    if texts.valid is not None and texts.split is not None:
        raise UsageError("with --valid the whole corpus is training text; leave out --split")


def _validate_documents(texts: TextOptions) -> None:
    """Raise ``UsageError`` for contradictions among the options of documents."""
    if texts.document_start is not None:
        compile_start(texts.document_start)
        if texts.documents is not None:
            raise UsageError("--document-start says what a document is; leave out --documents")
    if texts.documents is not None:
        check_document_kind(texts.documents)
    if texts.document_kind is not None:
        return
    if texts.distinct:
        raise UsageError("--distinct drops duplicate documents; define what a document is with --documents")
    if texts.errors == "skip-document":
        raise UsageError("--errors skip-document needs documents; add --documents, or use --errors replace")


def _validate_table(texts: TextOptions) -> None:
    """Raise ``UsageError`` for contradictions among the options of a table."""
    if texts.column is None:
        if texts.delimiter is not None:
            raise UsageError("--delimiter is for a column of a table; add --column NAME, or leave it out")
        if texts.given is not None:
            raise UsageError("--given is the condition of a column; name that, too: --column NAME")
        return
    texts.table()
    for option, value in (("--documents", texts.documents), ("--document-start", texts.document_start)):
        if value is not None:
            raise UsageError(f"with --column each row is a document; leave out {option}")
    if texts.as_text:
        raise UsageError("--as-text reads all of a table, --column one column of it; give one of them")
    if texts.demo:
        raise UsageError("--demo has a text of its own, which is not a table; leave out --column")


def open_text(texts: TextOptions, names: Sequence[str], spool: Path | None = None) -> TextSource:
    """The text of the files ``names``. Stdin is copied to ``spool``."""
    return open_texts(
        names,
        texts.decoding(),
        spool,
        any_file=texts.tokenizer == "byte",
        table=texts.table(),
        as_text=texts.as_text,
    )


def document_options(texts: TextOptions, options: TrainingOptions) -> DocumentOptions | None:
    """How the text is split into documents; None for running text."""
    if texts.document_kind is None:
        return None
    given = options.get("seed")
    seed = TrainingConfig.seed if given is None else given
    return DocumentOptions(texts.document_kind, seed, texts.distinct, texts.given is not None, texts.document_start)


def demo_text() -> str:
    """The Python language reference, which CPython contains: English and code, half a million characters."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name].strip("\n") for name in sorted(topics)) + "\n"
