"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer


def completing(choices: Iterable[str]) -> Callable[[str], list[str]]:
    """What Tab offers for an option with these values."""
    known = tuple(choices)
    return lambda incomplete: [choice for choice in known if choice.startswith(incomplete)]


CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        "-c",
        help="A run, one of its steps, or shakespeare, which comes with charlm. "
        "[default: the newest run in ./checkpoints]",
    ),
]
CheckpointsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--checkpoint",
        "-c",
        help="A run, one of its steps, or shakespeare, which comes with charlm; given several times: the mean of "
        "their probabilities, and the loss of each. [default: the newest run in ./checkpoints]",
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        envvar="CHARLM_DEVICE",
        help="auto, cpu, cuda, cuda:1 or mps.",
        show_envvar=True,
        autocompletion=completing(("auto", "cpu", "cuda", "mps")),
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, max=1024, help="CPU threads. [default: all cores]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
CsvOption = Annotated[
    bool, typer.Option("--csv", help="Print CSV with a header, in which no text is a formula of a spreadsheet.")
]
RawCsvOption = Annotated[bool, typer.Option("--raw-csv", help="Print CSV with all texts as they are, for programs.")]
EncodingOption = Annotated[str, typer.Option("--encoding", help="Encoding of the text, such as utf-16 or cp1252.")]
ErrorsOption = Annotated[
    str,
    typer.Option(
        "--errors",
        help="For bytes that are not valid in the encoding: strict, replace or skip-document.",
        autocompletion=completing(("strict", "replace", "skip-document")),
    ),
]
DocumentStartOption = Annotated[
    str | None,
    typer.Option(
        "--document-start", metavar="REGEX", help="A document begins at each line in which this is found (grep -E)."
    ),
]
ColumnOption = Annotated[
    str | None,
    typer.Option(
        "--column",
        metavar="NAME",
        help="Of a table (.csv, .tsv, .jsonl, .json, .parquet) the column, or its number, that is the text; each row "
        "is a document.",
    ),
]
DelimiterOption = Annotated[
    str | None,
    typer.Option("--delimiter", metavar="CHARACTER", help="What separates columns: ';' or tab. [default: guessed]"),
]
AsTextOption = Annotated[bool, typer.Option("--as-text", help="Read a table as it stands, with all its columns.")]
KeepOption = Annotated[
    list[str] | None,
    typer.Option("--keep", metavar="COLUMN", help="Of a table, also print this column; may be given several times."),
]
GivenColumnOption = Annotated[
    str | None,
    typer.Option(
        "--given-column",
        metavar="NAME",
        help="Of a table, the column of the condition, for a model of charlm train --given. [default: as in training]",
    ),
]
GivenOption = Annotated[
    str | None, typer.Option("--given", metavar="VALUE", help="The condition of all documents, for such a model.")
]
