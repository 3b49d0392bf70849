"""``charlm neurons``."""

from __future__ import annotations

import codecs
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli import highlight
from charlm.cli.options import (
    CheckpointOption,
    DeviceOption,
    EncodingOption,
    GivenOption,
    JsonOption,
    ThreadsOption,
    completing,
)
from charlm.cli.output import chosen_checkpoint, counting, say, write_json, write_text
from charlm.cli.score_colours import print_coloured, write_page
from charlm.cli.tables import TableForm, decoding_for, open_for_models
from charlm.cli.texts import check_files, wait_for_stdin
from charlm.errors import DataError, UsageError

if TYPE_CHECKING:
    from charlm.corpus.text import TextSource
    from charlm.evaluation.neurons import Neuron
    from charlm.language_model import LanguageModel

_PROBES = {
    "quotes": "inside quotes",
    "line": "position in the line",
    "upper": "upper case",
    "parentheses": "depth of parentheses",
}
_PAGE_EXCERPT, _TERMINAL_EXCERPT = 2000, 400
"""Characters of the text that are shown for a cell."""


def neurons(
    text: Annotated[list[str], typer.Argument(metavar="FILE", help="Text files or folders; - reads stdin.")],
    checkpoint: CheckpointOption = None,
    probe: Annotated[
        list[str] | None,
        typer.Option(
            help="quotes, line, upper or parentheses; may be given several times. [default: all]",
            autocompletion=completing(_PROBES),
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Cells for each probe.")] = 5,
    characters: Annotated[
        int, typer.Option("--characters", min=1000, help="Read at most the first N characters.")
    ] = 200_000,
    coloured: Annotated[
        bool, typer.Option("--highlight", help="Also print a part of the text, coloured by each probe's best cell.")
    ] = False,
    html: Annotated[
        str | None, typer.Option("--html", metavar="PAGE", help="The same as a web page; - writes it to stdout.")
    ] = None,
    given: GivenOption = None,
    json: JsonOption = False,
    encoding: EncodingOption = "utf-8",
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or int8.")] = "fp32",
    threads: ThreadsOption = None,
) -> None:
    """Find the cells of the LSTM that follow best whether the text is in quotes, where in the line it is, and so on."""
    _check_options(probe or (), html, json, coloured)
    check_files(text)
    from charlm.evaluation.neurons import PROBES
    from charlm.language_model import open_model

    model = open_model(chosen_checkpoint(checkpoint), device, precision, threads)
    texts = _texts(model, text, encoding, given, characters)
    chosen = {name: PROBES[name] for name in dict.fromkeys(probe or PROBES)}
    with counting("reading", sum(map(len, texts))) as progress:
        found = model.find_neurons(texts, chosen, top, given, progress)
    for name in chosen:
        if not any(neuron.probe == name for neuron in found):
            say(f"{_PROBES[name]}: this does not vary in both halves of the text; read more of it, or another text")
    if json:
        write_json({"checkpoint": str(model.checkpoint.path), "neurons": [neuron._asdict() for neuron in found]})
        return
    if html not in ("-", "/dev/stdout"):
        write_text("".join(_line(neuron) for neuron in found))
    best = [next(group) for _, group in itertools.groupby(found, key=lambda neuron: neuron.probe)]
    if html is not None:
        _write_page(model, html, texts, best, given)
    elif coloured:
        _print(model, texts, best, given)


def _check_options(probes: Sequence[str], html: str | None, json: bool, coloured: bool) -> None:
    if (html is not None) + json + coloured > 1:
        raise UsageError("give one of --json, --highlight and --html")
    if html is not None and not Path(html).name:
        raise UsageError(f"--html {html!r} is not the name of a page; write --html PAGE, or - for stdout")
    for name in probes:
        if name not in _PROBES:
            raise UsageError(f"--probe must be one of {', '.join(_PROBES)}, not {name!r:.40}")


def _line(neuron: Neuron) -> str:
    return f"{neuron.correlation:+.3f}\t{neuron.layer}:{neuron.cell}\t{_PROBES[neuron.probe]}\n"


# ------------------------------------------------------------------------------------------------------- texts


def _texts(model: LanguageModel, names: Sequence[str], encoding: str, given: str | None, characters: int) -> list[str]:
    """The first ``characters`` of the texts: of running text in one, else the documents."""
    if given is None and model.table is not None and model.table.given is not None:
        table = model.table
        raise UsageError(
            f"this model predicts {table.column} given {table.given}; name one {table.given} for all of the text: "
            f"--given VALUE; {table.listed()}"
        )
    if "-" in names:
        wait_for_stdin()
    with tempfile.TemporaryDirectory() if "-" in names else nullcontext("") as folder:
        form = TableForm(given=given)
        source = open_for_models([model], names, decoding_for([model], encoding), Path(folder) / "stdin", form)
        texts, left = list[str](), characters
        for text in _documents(model, source):
            texts.append(text[:left])
            left -= len(text)
            if left <= 0:
                say(f"reading the first {characters:,} characters; --characters reads more")
                break
    texts = ["".join(texts)] if model.tokenizer.document_kind is None else texts
    if not any(texts):
        raise DataError(f"{', '.join(names)} has no characters; name a text")
    return texts


def _documents(model: LanguageModel, source: TextSource) -> Iterator[str]:
    from charlm.evaluation.scoring import document_texts

    tokenizer = model.tokenizer
    if tokenizer.document_kind is not None:
        pieces = source.documents(tokenizer.kind, tokenizer.document_kind, start=tokenizer.document_start)
        yield from (text for _, text in document_texts(tokenizer, pieces))
        return
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")  # a block may end within a character
    for codes in source.codes(tokenizer.kind):
        if tokenizer.kind == "byte":
            yield decoder.decode(codes.tobytes())
        else:
            yield codes.astype("<u4").tobytes().decode("utf-32-le")


# ------------------------------------------------------------------------------------------------------ colours


def _print(model: LanguageModel, texts: Sequence[str], best: Sequence[Neuron], given: str | None) -> None:
    from charlm.pages.scales import ACTIVATION

    def document(neuron: Neuron) -> highlight.Document:
        yield f"\n{_heading(neuron)}\n", None
        yield from _excerpt(model, texts, neuron, given, _TERMINAL_EXCERPT)

    print_coloured(map(document, best), ACTIVATION)


def _write_page(
    model: LanguageModel, html: str, texts: Sequence[str], best: Sequence[Neuron], given: str | None
) -> None:
    from charlm.pages.activation import activation_page

    sections = ((_heading(neuron), _excerpt(model, texts, neuron, given, _PAGE_EXCERPT)) for neuron in best)
    write_page(html, activation_page(sections, f"{model.checkpoint.name}: cells"))


def _heading(neuron: Neuron) -> str:
    return f"{_PROBES[neuron.probe]}: layer {neuron.layer}, cell {neuron.cell}, correlation {neuron.correlation:+.2f}"


def _excerpt(
    model: LanguageModel, texts: Sequence[str], neuron: Neuron, given: str | None, length: int
) -> list[tuple[str, float]]:
    """The part of the second half of the texts in which the probe varies most, with the cell's activations."""
    from charlm.evaluation.neurons import PROBES, varied_part

    if len(texts) > 1:
        cells = list[tuple[str, float]]()
        for text in texts[1::2]:
            if len(cells) < length:
                cells += [*model.activations_of(text, neuron.layer, neuron.cell, given), ("\n", 0.0)]
        return cells
    start, stop = varied_part(texts[0], PROBES[neuron.probe], length)
    read = max(0, start - _PAGE_EXCERPT)  # the text before it, from which the model knows what is open
    return list(model.activations_of(texts[0][read:stop], neuron.layer, neuron.cell, given))[start - read :]
