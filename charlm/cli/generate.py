"""``charlm generate``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.options import CheckpointOption, DeviceOption, ThreadsOption
from charlm.cli.output import chosen_checkpoint, counting, end_line, say, write_json, write_text
from charlm.errors import MissingInputError, UsageError

if TYPE_CHECKING:
    from charlm.config import SamplingConfig
    from charlm.language_model import LanguageModel

TEXT_LENGTH, DOCUMENT_LENGTH = 500, 10_000
_PATIENCE = 50
"""Give up when so many times as many documents were drawn as are wanted."""


def generate(
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="What the text begins with; - reads stdin, as does a pipe.")
    ] = None,
    checkpoint: CheckpointOption = None,
    length: Annotated[
        int | None,
        typer.Option(
            "--length",
            "-n",
            min=0,
            help="New characters to write. [default: 500; a document to its end, 10000 at most]",
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(help="Below 1 safer, above 1 wilder, 0 always the likeliest.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Choose among the k likeliest only; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Choose among the likeliest that hold this probability.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Choose among those this fraction as likely as the likeliest.")] = 0.0,
    stop: Annotated[str | None, typer.Option(help="End before this text would come.")] = None,
    adapt: Annotated[
        Path | None,
        typer.Option("--adapt", metavar="FILE", help="Read this text first, and learn from it; on the CPU."),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=1, help="Texts to write, parted by a line ---; documents as in the training text.")
    ] = 1,
    unique: Annotated[bool, typer.Option("--unique", help="Documents: write none twice.")] = False,
    novel: Annotated[bool, typer.Option("--novel", help="Documents: none that stands in the training text.")] = False,
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
    if adapt is not None:
        model = _adapted(model, adapt)
    documents = model.tokenizer.document_kind
    if documents is None and (unique or novel):
        raise UsageError("--unique and --novel are for models of documents (charlm train --documents)")
    if length is None:
        length = TEXT_LENGTH if documents is None else DOCUMENT_LENGTH
    pieces = _prompt_pieces(prompt, model.tokenizer.kind)
    if documents is not None:
        pieces = iter([_beginning("".join(pieces), documents)])
    if samples == 1 and not (json or unique or novel):
        _write_one(model, pieces, length, config, stop, seed)
        return
    text = "".join(pieces)
    drawn: Iterator[str] = (
        text + rest
        for rest in model.samples(None if unique or novel else samples, text, length, config, stop=stop, seed=seed)
    )
    if unique or novel:
        drawn = _chosen(model, drawn, samples, unique, novel)
    _write_many(drawn, text, documents, json)


def _adapted(model: LanguageModel, path: Path) -> LanguageModel:
    """The model after it has read and learnt the text; the checkpoint stays what it is."""
    from charlm.adaptation import adapted
    from charlm.cli.texts import measured_text

    with (
        measured_text([model], [str(path)], "utf-8", None, "charlm generate --adapt FILE") as read,
        counting("reading", read.total) as progress,
    ):
        return adapted(model, read.blocks[0], progress)


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


def _write_many(texts: Iterator[str], prompt: str, documents: str | None, json: bool) -> None:
    from charlm.tokenizer.protocol import DOCUMENT_SEPARATORS

    separator = DOCUMENT_SEPARATORS.get(documents or "", "---\n")
    for number, text in enumerate(texts):
        if json:
            write_json({"sample": number, "prompt": prompt, "text": text.removeprefix(prompt)})
            continue
        if number:
            write_text(separator)
        write_text(text)
        if documents is None:
            end_line()
    if documents is not None and not json:
        write_text("\n")


def _beginning(prompt: str, documents: str) -> str:
    """The prompt as the beginning of a document: what a pipe ends its line with is none of it."""
    prompt = prompt.removesuffix("\n").removesuffix("\r")
    if documents == "lines" and "\n" in prompt:
        raise UsageError("this model writes lines, and a prompt is the beginning of one; give a prompt of one line")
    return prompt


def _chosen(model: LanguageModel, drawn: Iterator[str], count: int, unique: bool, novel: bool) -> Iterator[str]:
    """The first ``count`` documents that are wanted; on stderr, how many were not."""
    learnt = _training_documents(model) if novel else frozenset[int]()
    seen: set[int] = set()
    written = known = again = 0
    for text in drawn:
        fingerprint = model.fingerprint(text)
        if fingerprint in learnt:
            known += 1
        elif unique and fingerprint in seen:
            again += 1
        else:
            seen.add(fingerprint)
            written += 1
            yield text
        if written == count or written + known + again >= _PATIENCE * (count + 20):
            break
    total = written + known + again
    notes = [f"{known:,} ({known / total:.1%}) stand in the training text"] if novel else []
    notes += [f"{again:,} ({again / total:.1%}) were written before"] if unique else []
    say(f"{written:,} of {total:,} drawn: {', '.join(notes)}")
    if written < count:
        say(f"{count - written:,} fewer than asked for: too little is new; try a higher --temperature")


def _training_documents(model: LanguageModel) -> frozenset[int]:
    from charlm.corpus.prepared import corpus_beside

    corpus = corpus_beside(model.checkpoint.path)
    if corpus is None:
        raise MissingInputError(f"{model.checkpoint.path} has no corpus beside it to compare with; leave out --novel")
    return frozenset(corpus.fingerprints().tolist())


def _prompt_pieces(prompt: str | None, kind: str) -> Iterator[str]:
    if prompt not in (None, "-"):
        return iter([prompt or ""])
    if prompt is None and (sys.stdin is None or sys.stdin.isatty()):
        return iter([])
    return _stdin_pieces(kind)


def _stdin_pieces(kind: str) -> Iterator[str]:
    from charlm.corpus.text import BLOCK_BYTES, decode_blocks

    blocks = iter(lambda: sys.stdin.buffer.read(BLOCK_BYTES), b"")
    if kind == "char":
        return decode_blocks(blocks, "utf-8", "the prompt", "give a prompt in UTF-8")
    return (block.decode("utf-8", "surrogateescape") for block in blocks)
