"""``charlm generate``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.options import CheckpointOption, DeviceOption, EncodingOption, ThreadsOption
from charlm.cli.output import chosen_checkpoint, counting, end_line, say, write_json, write_text
from charlm.config import DEFAULT_TEMPERATURE
from charlm.errors import MissingInputError, UsageError

if TYPE_CHECKING:
    from charlm.language_model import LanguageModel

TEXT_LENGTH, DOCUMENT_LENGTH = 500, 10_000
MAX_UNKNOWN_SHOWN = 10
_MAX_DRAWS_PER_DOCUMENT = 50
"""With --unique or --novel: stop after drawing about this many times the number of documents asked for."""


def generate(
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="The start of the text; - or a pipe: read from stdin.")
    ] = None,
    given: Annotated[
        str | None,
        typer.Option("--given", metavar="VALUE", help="The condition, for a model of charlm train --given."),
    ] = None,
    checkpoint: CheckpointOption = None,
    length: Annotated[
        int | None,
        typer.Option(
            "--length",
            "-n",
            min=0,
            help="Number of new characters. [default: 500; documents: to the end, at most 10000]",
        ),
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="Below 1 more predictable, above 1 more varied, 0 greedy.")
    ] = DEFAULT_TEMPERATURE,
    top_k: Annotated[int, typer.Option(help="Sample from the k most likely characters; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Sample from the most likely with this total probability.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Drop those below this fraction of the most likely one.")] = 0.0,
    stop: Annotated[str | None, typer.Option(help="Stop before this text.")] = None,
    adapt: Annotated[
        str | None,
        typer.Option("--adapt", metavar="FILE", help="First train a copy of the model on this text, on the CPU."),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=1, help="Number of texts, separated by a line ---; documents as in the training text.")
    ] = 1,
    unique: Annotated[bool, typer.Option("--unique", help="Documents: no duplicates.")] = False,
    novel: Annotated[bool, typer.Option("--novel", help="Documents: none that is in the training text.")] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same text. [default: random]")
    ] = None,
    encoding: EncodingOption = "utf-8",
    device: DeviceOption = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, bf16, int8, or auto: the fastest that loses less than 0.001 nats/char.")
    ] = "auto",
    threads: ThreadsOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per sample.")] = False,
) -> None:
    """Generate text that continues a prompt. The prompt is printed first."""
    from charlm.config import SamplingConfig
    from charlm.corpus.encodings import check_encoding
    from charlm.language_model import open_model

    check_encoding(encoding)
    try:
        config = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    except UsageError as error:
        name, _, rest = str(error).partition(" ")
        raise UsageError(f"--{name.replace('_', '-')} {rest}") from None
    if stop == "":
        raise UsageError("--stop may not be empty; leave it out, or give the text to stop before")
    model = open_model(chosen_checkpoint(checkpoint), device, precision, threads)
    if adapt is not None:
        model = _adapted(model, adapt, encoding)
    if given is None and model.table is not None and model.table.given is not None:
        table = model.table
        raise UsageError(f"this model writes {table.column} given {table.given}: add --given VALUE; {table.listed()}")
    documents = model.tokenizer.document_kind
    if documents is None and (unique or novel):
        raise UsageError(
            "--unique and --novel are for models of documents, such as charlm train FILE --documents lines makes"
        )
    if length is None:
        length = TEXT_LENGTH if documents is None else DOCUMENT_LENGTH
    pieces = _with_unknown(model, _prompt_pieces(prompt, model, encoding))
    if documents is not None:
        pieces = iter([_document_prompt("".join(pieces), documents)])
    if samples == 1 and not (json or unique or novel):
        _write_all(model.stream(_shown(model, pieces), length, config, stop=stop, seed=seed, given=given))
        return
    text, count = "".join(pieces), None if unique or novel else samples
    drawn: Iterator[str] = (
        text + rest for rest in model.samples(count, text, length, config, stop=stop, seed=seed, given=given)
    )
    notes: list[str] = []
    if unique or novel:
        drawn = _filtered(model, drawn, samples, unique, novel, notes)
    _write_many(model, drawn, text, json)
    for note in notes:  # after the line end of the last document
        say(note)


def _adapted(model: LanguageModel, path: str, encoding: str) -> LanguageModel:
    """A copy of the model, trained on the text; the checkpoint does not change."""
    from charlm.cli.texts import measured_text

    with (
        measured_text([model], [path], encoding, None, "charlm generate --adapt FILE") as read,
        counting("reading", read.total) as progress,
    ):
        return model.adapted(read.blocks[0], progress)


def _write_all(pieces: Iterator[str]) -> None:
    for piece in pieces:
        write_text(piece)
    end_line()


def _shown(model: LanguageModel, pieces: Iterator[str]) -> Iterator[str]:
    """Print the prompt while it is read, so that it may be larger than memory."""
    for piece in pieces:
        model.tokenizer.encode(piece)  # raises an error before the piece is printed
        write_text(piece)
        yield piece


def _write_many(model: LanguageModel, texts: Iterator[str], prompt: str, json: bool) -> None:
    from charlm.tokenizer.protocol import document_separator

    separator, documents = document_separator(model.tokenizer) or "---\n", model.tokenizer.document_kind
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


def _document_prompt(prompt: str, documents: str) -> str:
    """The prompt as the start of a document, without a line end."""
    prompt = prompt.removesuffix("\n").removesuffix("\r")
    if documents == "lines" and "\n" in prompt:
        raise UsageError("this model generates single lines; give a prompt of one line")
    return prompt


def _filtered(
    model: LanguageModel, drawn: Iterator[str], count: int, unique: bool, novel: bool, notes: list[str]
) -> Iterator[str]:
    """The first ``count`` documents that fulfil ``unique`` and ``novel``; the number of others goes to ``notes``."""
    trained_on = _training_documents(model) if novel else frozenset[int]()
    seen: set[int] = set()
    written = known = duplicates = 0
    for text in drawn:
        fingerprint = model.fingerprint(text)
        if fingerprint in trained_on:
            known += 1
        elif unique and fingerprint in seen:
            duplicates += 1
        else:
            seen.add(fingerprint)
            written += 1
            yield text
        if written == count or written + known + duplicates >= _MAX_DRAWS_PER_DOCUMENT * (count + 20):
            break
    total = written + known + duplicates
    parts = [f"{known:,} ({known / total:.1%}) are in the training text"] if novel else []
    parts += [f"{duplicates:,} ({duplicates / total:.1%}) are duplicates"] if unique else []
    notes.append(f"{written:,} of {total:,} drawn: {', '.join(parts)}")
    if written < count:
        notes.append(
            f"{count - written:,} fewer than asked for: stopped after drawing {total:,}; try a higher --temperature"
        )


def _training_documents(model: LanguageModel) -> frozenset[int]:
    from charlm.corpus.prepared import find_corpus

    corpus = find_corpus(model.checkpoint.path)
    if corpus is None:
        raise MissingInputError(f"{model.checkpoint.path} has no corpus to compare with; leave out --novel")
    return frozenset(corpus.fingerprints().tolist())


def _with_unknown(model: LanguageModel, pieces: Iterator[str]) -> Iterator[str]:
    """The prompt; when it has been read, the characters in it that the model does not know are named on stderr."""
    seen: set[str] = set()
    unknown: list[str] = []
    for piece in pieces:
        new = sorted(set(piece) - seen)
        seen.update(new)
        unknown += [character for character in new if _is_unknown(model, character)]
        yield piece
    if unknown:
        shown = " ".join(repr(character)[1:-1] for character in unknown[:MAX_UNKNOWN_SHOWN])
        rest = f" and {len(unknown) - MAX_UNKNOWN_SHOWN:,} more" * (len(unknown) > MAX_UNKNOWN_SHOWN)
        noun = "this character" if len(unknown) == 1 else "these characters"
        say(f"the training text does not have {noun} of the prompt: {shown}{rest}; the model can only guess")


def _is_unknown(model: LanguageModel, character: str) -> bool:
    return not "\ud800" <= character <= "\udfff" and bool(
        model.tokenizer.unknown(model.tokenizer.encode(character)).any()
    )


def _prompt_pieces(prompt: str | None, model: LanguageModel, encoding: str) -> Iterator[str]:
    from charlm.tokenizer.normalization import Normalizer

    if prompt not in (None, "-"):
        pieces = iter([prompt or ""])
    elif prompt is None and (sys.stdin is None or sys.stdin.isatty()):
        pieces = iter([])
    else:
        pieces = _without_last_line_end(_stdin_pieces(model.tokenizer.kind, encoding))
    return Normalizer(model.tokenizer.normalization).blocks(pieces)


def _stdin_pieces(kind: str, encoding: str) -> Iterator[str]:
    from charlm.cli.texts import wait_for_stdin
    from charlm.corpus.blocks import BLOCK_BYTES
    from charlm.corpus.encodings import Decoding, decode_blocks

    wait_for_stdin("a prompt")
    blocks = iter(lambda: sys.stdin.buffer.read(BLOCK_BYTES), b"")
    if kind == "char":
        return decode_blocks(blocks, "the prompt", Decoding(encoding, options=("--encoding",)))
    return (block.decode("utf-8", "surrogateescape") for block in blocks)


def _without_last_line_end(pieces: Iterator[str]) -> Iterator[str]:
    """The text without the line end that ``echo`` and editors add.

    A piece comes after the next one was read, so that nothing of a short prompt is printed if it cannot be decoded.
    """
    kept = held = ""
    for piece in pieces:
        yield kept
        text = held + piece
        kept = text.removesuffix("\n").removesuffix("\r")
        held = text[len(kept) :]
    yield kept if held.endswith("\n") else kept + held
