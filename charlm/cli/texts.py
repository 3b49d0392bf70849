"""The text that models are evaluated on: files, or a split of the corpus they were trained on."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from charlm.cli.output import say
from charlm.cli.tables import TableForm, decoding_for, documents_for, open_for_models
from charlm.errors import DataError, MissingInputError, UsageError

if TYPE_CHECKING:
    from charlm.corpus.id_files import IdFile
    from charlm.corpus.prepared import Corpus
    from charlm.corpus.text import TextSource
    from charlm.language_model import LanguageModel
    from charlm.tokenizer.protocol import Ids

_BLOCK_IDS = 1 << 18
STDIN_PATIENCE = 1.0
"""Seconds without a byte on stdin until a command says what it waits for."""


class Measured(NamedTuple):
    """A text to evaluate on, as ids."""

    name: str
    total: int | None
    """The approximate number of ids; None if unknown."""
    blocks: list[Iterator[Ids]]
    """For each model the ids of its tokenizer, in blocks."""
    split: str | None = None
    """The split of the run that the text is; None for files."""


def check_files(names: Iterable[str]) -> None:
    """Raise what opening the texts will raise if a file is missing or cannot be read, but without heavy modules."""
    for name in names:
        if name != "-" and not os.access(name, os.R_OK):
            from charlm.corpus.text import open_source

            open_source([name])


@contextmanager
def measured_text(
    models: Sequence[LanguageModel],
    files: Sequence[str],
    encoding: str,
    split: str | None,
    command: str,
    form: TableForm | None = None,
) -> Iterator[Measured]:
    """The text of ``files``; without files, the ``split`` of the corpus that all ``models`` were trained on.

    Stdin is copied to a temporary file. Error messages suggest ``command``, the command with a text. ``form`` is None
    for a command without options for tables.
    """
    if "-" in files:
        wait_for_stdin()
    if form not in (None, TableForm()) and not files:
        raise UsageError("options for tables and conditions say how a text is read; name one: " + command)
    with tempfile.TemporaryDirectory() if "-" in files else nullcontext("") as folder:
        if files:
            yield _from_files(models, files, encoding, Path(folder), form)
        else:
            yield _from_runs(models, split, command)


def wait_for_stdin(what: str = "a text") -> None:
    """Say so on stderr if nothing arrives on stdin for a second, and return."""
    with contextlib.suppress(OSError, ValueError):  # it is closed, or not a file of the operating system
        if not select.select([sys.stdin.fileno()], [], [], STDIN_PATIENCE)[0]:
            end = "; end it with Ctrl-D" if sys.stdin.isatty() else ""
            say(f"waiting for {what} on stdin{end}")


def _from_files(
    models: Sequence[LanguageModel], names: Sequence[str], encoding: str, folder: Path, form: TableForm | None
) -> Measured:
    source = open_for_models(models, names, decoding_for(models, encoding), folder / "stdin", form)
    given = None if form is None else form.given
    return Measured(", ".join(names), source.size(), [_encoded(source, model, given) for model in models])


def _encoded(source: TextSource, model: LanguageModel, given: str | None) -> Iterator[Ids]:
    tokenizer = model.tokenizer
    if tokenizer.document_kind is None:
        return (tokenizer.encode_codes(codes) for codes in source.codes(tokenizer.kind))
    pieces = source.documents(tokenizer.kind, tokenizer.document_kind, start=tokenizer.document_start)
    documents = documents_for(model, source, pieces, given)
    return (tokenizer.encode_documents(piece.codes, piece.ends) for piece in documents)


def _from_runs(models: Sequence[LanguageModel], split: str | None, command: str) -> Measured:
    from charlm.corpus.prepared import SPLITS, same_splits

    if split is not None and split not in SPLITS:
        raise UsageError(f"--split must be one of {', '.join(SPLITS)}, not {split!r}")
    corpora = [corpus_of(model, command) for model in models]
    for corpus in corpora[1:]:
        if not same_splits(corpora[0], corpus):
            raise UsageError(
                f"{corpora[0].folder} and {corpus.folder} are not the same text with the same splits, so one model may "
                f"have been trained on the test split of the other; name a text: {command}"
            )
    corpus = corpora[0]
    split = split or _held_out_split(corpus)
    if split == "train" and corpus.tokenizer.kind == "char":
        say(
            "some characters of the train split are encoded as bytes for training and harder to predict; name the file "
            "of the text to measure it without that"
        )
    files = [corpus.ids(split) for corpus in corpora]
    if not len(files[0]):
        raise MissingInputError(f"the {split} split of {corpus.folder.parent} is empty; name a text: {command}")
    return Measured(f"{split} split of {corpus.name}", len(files[0]), [_blocks(ids) for ids in files], split)


def corpus_of(model: LanguageModel, command: str) -> Corpus:
    """The corpus that ``model`` was trained on. Error messages suggest ``command``, the command with a text."""
    from charlm.corpus.prepared import find_corpus

    path = model.checkpoint.path
    corpus = find_corpus(path)
    if corpus is None:
        raise MissingInputError(f"{path} has no corpus; name a text: {command}")
    if corpus.tokenizer.description() != model.tokenizer.description():
        raise DataError(f"{corpus.folder} is not the corpus {path} was trained on; name a text: {command}")
    return corpus


def _held_out_split(corpus: Corpus) -> str:
    if corpus.sizes["test"].ids:
        return "test"
    say("the run has no test split; using the validation split, which training used to choose the best step")
    return "valid"


def _blocks(ids: IdFile) -> Iterator[Ids]:
    return (ids.read(start, min(start + _BLOCK_IDS, len(ids))) for start in range(0, len(ids), _BLOCK_IDS))
