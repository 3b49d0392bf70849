"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
        "their probabilities. [default: the newest run in ./checkpoints]",
    ),
]
DeviceOption = Annotated[
    str, typer.Option("--device", envvar="CHARLM_DEVICE", help="auto, cpu, cuda, cuda:1 or mps.", show_envvar=True)
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, max=1024, help="CPU threads. [default: all cores]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
EncodingOption = Annotated[str, typer.Option("--encoding", help="Encoding of the text, such as utf-16 or cp1252.")]
ErrorsOption = Annotated[
    str,
    typer.Option("--errors", help="For bytes that are not valid in the encoding: strict, replace or skip-document."),
]
DocumentStartOption = Annotated[
    str | None,
    typer.Option(
        "--document-start", metavar="REGEX", help="A document begins at each line in which this is found (grep -E)."
    ),
]
