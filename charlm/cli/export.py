"""``charlm export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from charlm.cli.advice import shell_command
from charlm.cli.output import bits, say


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run (its best step is taken) or one of its steps.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that does not exist yet.")],
    weights: Annotated[
        str, typer.Option("--weights", help="f16 or int8 (half the size, with a scale for each unit and character).")
    ] = "f16",
) -> None:
    """Write a model as a small folder. It can generate, score and be evaluated; it lacks the training state."""
    from charlm.export import export_run

    made = export_run(run, folder, weights)
    say(
        f"{made.path}: step {made.step} with weights in {weights}; {_size(made.bytes_before)} before, "
        f"{_size(made.bytes_after)} after"
    )
    if made.nats_before is not None and made.nats_after is not None:
        before, after = made.nats_before, made.nats_after
        say(
            f"validation loss on a sample of the text: {before:.4f} nats/char before, {after:.4f} nats/char after "
            f"({bits(after):.3f} bits/char; difference {after - before:+.5f} nats/char)"
        )
    say(f'next: {shell_command("generate", "--checkpoint", made.path, *made.given)} --prompt "..."')


def _size(count: int) -> str:
    """Bytes in kB or MB."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"
