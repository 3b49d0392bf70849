"""``charlm generate``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.options import CheckpointOption, DeviceOption, ThreadsOption
from charlm.cli.output import chosen_checkpoint, end_line, write_json, write_text
from charlm.errors import UsageError

if TYPE_CHECKING:
    from charlm.config import SamplingConfig
    from charlm.language_model import LanguageModel


def generate(
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="What the text begins with; - reads stdin, as does a pipe.")
    ] = None,
    checkpoint: CheckpointOption = None,
    length: Annotated[int, typer.Option("--length", "-n", min=0, help="New characters to write.")] = 500,
    temperature: Annotated[float, typer.Option(help="Below 1 safer, above 1 wilder, 0 always the likeliest.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Choose among the k likeliest only; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Choose among the likeliest that hold this probability.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Choose among those this fraction as likely as the likeliest.")] = 0.0,
    stop: Annotated[str | None, typer.Option(help="End before this text would come.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Texts to write, parted by a line ---.")] = 1,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="Same seed, same text. [default: another each time]")
    ] = None,
    device: DeviceOption = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, bf16, int8, or auto: the fastest that costs under 0.001 nats.")
    ] = "auto",
    threads: ThreadsOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a sample.")] = False,
) -> None:
    """Write text that goes on from a prompt; the prompt is repeated first."""
    from charlm.config import SamplingConfig
    from charlm.language_model import load

    config = SamplingConfig(temperature, top_k, top_p, min_p)
    if stop == "":
        raise UsageError("--stop may not be empty; leave it out, or name the text to stop at")
    model = load(chosen_checkpoint(checkpoint), device, precision, threads)
    pieces = _prompt_pieces(prompt, model.tokenizer.kind)
    if samples == 1 and not json:
        _write_one(model, pieces, length, config, stop, seed)
    else:
        _write_many(model, "".join(pieces), samples, length, config, stop, seed, json)


def _write_one(
    model: LanguageModel, pieces: Iterator[str], length: int, config: SamplingConfig, stop: str | None, seed: int | None
) -> None:
    for piece in model.stream(_shown(model, pieces), length, config, stop=stop, seed=seed):
        write_text(piece)
    end_line()


def _shown(model: LanguageModel, pieces: Iterator[str]) -> Iterator[str]:
    """Show the prompt while it is read, so that even one longer than memory works."""
    for piece in pieces:
        model.tokenizer.encode(piece)  # what cannot be read is refused before it is shown
        write_text(piece)
        yield piece


def _write_many(
    model: LanguageModel,
    prompt: str,
    samples: int,
    length: int,
    config: SamplingConfig,
    stop: str | None,
    seed: int | None,
    json: bool,
) -> None:
    for number, text in enumerate(model.samples(samples, prompt, length, config, stop=stop, seed=seed)):
        if json:
            write_json({"sample": number, "prompt": prompt, "text": text})
            continue
        write_text(("---\n" if number else "") + prompt + text)
        end_line()


def _prompt_pieces(prompt: str | None, kind: str) -> Iterator[str]:
    if prompt not in (None, "-"):
        return iter([prompt or ""])
    if prompt is None and (sys.stdin is None or sys.stdin.isatty()):
        return iter([])
    return _stdin_pieces(kind)


def _stdin_pieces(kind: str) -> Iterator[str]:
    from charlm.text import BLOCK_BYTES, decode_blocks

    blocks = iter(lambda: sys.stdin.buffer.read(BLOCK_BYTES), b"")
    if kind == "char":
        return decode_blocks(blocks, "utf-8", "the prompt", "give a prompt in UTF-8")
    return (block.decode("utf-8", "surrogateescape") for block in blocks)
