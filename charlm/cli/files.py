"""People's files as ids, for the commands that read whole texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from charlm.tokenizer import Ids, Tokenizer


def ids_of_files(
    tokenizer: Tokenizer, names: Sequence[str], encoding: str = "utf-8", folder: Path | None = None
) -> tuple[int | None, Iterator[Ids]]:
    """About how many ids there are (None where only reading tells), and they in blocks; of documents with their ends.

    ``folder`` is for a copy of stdin, which "-" among ``names`` stands for.
    """
    from charlm.documents import split_documents
    from charlm.text import open_source
    from charlm.tokenizer import DocumentTokenizer

    spool = None if folder is None else folder / "stdin"
    source = open_source(names, encoding, spool, any_file=tokenizer.kind == "byte")
    blocks: Iterator[Ids]
    if isinstance(tokenizer, DocumentTokenizer):
        found = split_documents(source.files(tokenizer.kind), tokenizer.documents)
        blocks = starmap(tokenizer.encode_documents, found)
    else:
        blocks = (tokenizer.encode_codes(codes) for codes in source.codes(tokenizer.kind))
    plain = [path for path in source.paths if path.suffix != ".gz"]
    total = sum(path.stat().st_size for path in plain) if len(plain) == len(source.paths) else None
    return total, blocks
