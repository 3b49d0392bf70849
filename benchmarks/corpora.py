"""How well charlm predicts texts of several kinds, beside compressors that know the same training text.

    pip install pyppmd                                     # for the PPM coder, in this benchmark alone
    python benchmarks/corpora.py warandpeace.txt dickens.txt zh_poetry.txt --time 10m
    python benchmarks/corpora.py --table

For each text: charlm, trained with its defaults on the first part of --split, and its exact pass over the last part,
in bits per character; and for each compressor compressed(training + held-out text) less compressed(training text), in
bits per character of the held-out text. All have read the training text before the held-out one, none pays for it, and
all go on learning from the held-out text while they read it, except charlm. With --split A/B/0 the held-out text also
steered charlm's rate and the choice of its best step.

    charlm      after --time; a finished training is a line in results/corpora.jsonl (see results.py)
    xz -9       LZMA at preset 9: its dictionary of 64 MiB holds the whole of these texts, so it can point at any phrase
                of the training text, and its adaptive statistics carry over
    bzip2 -9    sorts blocks of 900,000 bytes, each by itself: the held-out text has the company of less than one block
                of training text, and the rest helps it nothing; what the block at the border gains or loses counts, too
    PPMd        PPM with information inheritance (variant H, as in 7-Zip), on UTF-8 bytes, in 1 GiB of memory so that it
                never starts anew; each of --orders is tried, and the table has the one that is best on the held-out
                text, a choice that favours it a little
"""

from __future__ import annotations

import argparse
import bz2
import importlib.metadata
import lzma
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from results import (
    Entry,
    Measurement,
    Row,
    add_training_options,
    campaign_parser,
    carry_out,
    duration,
    engine,
    grouped,
    in_words,
    over_seeds,
    parse_wishes,
    recipe_of,
    sha256,
    train,
)

import charlm
from charlm.config import parse_duration
from charlm.corpus.preparation import prepare
from charlm.corpus.prepared import open_corpus, parse_split
from charlm.corpus.text import open_source

PPM_MEMORY = 1 << 30
CODERS: dict[str, Callable[[bytes], int]] = {
    "xz -9": lambda data: len(lzma.compress(data, preset=9)),
    "bzip2 -9": lambda data: len(bz2.compress(data, 9)),
}


def main() -> None:
    parser = campaign_parser(__doc__, "corpora")
    parser.add_argument("texts", type=Path, nargs="*", metavar="TEXT", help="a text to learn")
    parser.add_argument("--time", default="10m", help="length of a training (default 10m)")
    parser.add_argument(
        "--orders", type=int, nargs="+", default=[4, 5, 6, 8, 12, 16], help="of PPM (default 4 5 6 8 12 16)"
    )
    add_training_options(parser)
    parser.set_defaults(seeds=[1])
    arguments = parser.parse_args()
    carry_out(arguments, measurements(arguments), table)


def measurements(arguments: argparse.Namespace) -> Iterator[Measurement]:
    """The coders first: they take seconds."""
    wishes = parse_wishes(arguments.set)
    if arguments.texts:
        require_ppmd()
    shared = {text: {"sha256": sha256(text), "split": arguments.split} for text in arguments.texts}
    for text, common in shared.items():
        for name, size in CODERS.items():
            yield Measurement(text, {**common, "coder": name}, partial(measure_coder, text, arguments.split, size))
        for order in arguments.orders:
            settings = {**common, "coder": "PPMd H", "order": order, "memory": PPM_MEMORY}
            yield Measurement(text, settings, partial(measure_coder, text, arguments.split, partial(ppmd, order)))
    for text, common in shared.items():
        for seed in arguments.seeds:
            training = {"seconds": parse_duration(arguments.time), "seed": seed, "options": wishes, "engine": engine()}
            settings = {**common, "coder": "charlm", **training}
            yield Measurement(text, settings, partial(measure_charlm, text, settings))


def require_ppmd() -> None:
    """Exit where there is no PPM coder."""
    try:
        importlib.metadata.version("pyppmd")
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit("the PPM coder is missing: pip install pyppmd") from None


def ppmd(order: int, data: bytes) -> int:
    """The size of ``data`` after PPMd, variant H."""
    import pyppmd

    encoder = pyppmd.Ppmd7Encoder(order, PPM_MEMORY)
    return len(encoder.encode(data)) + len(encoder.flush())


def parts(text: Path, split: str) -> tuple[str, str]:
    """Training and held-out text, cut where charlm cuts them; without a test part validation is held out."""
    with tempfile.TemporaryDirectory() as folder:
        source = open_source([str(text)])
        corpus = prepare(Path(folder), source, split=parse_split(split))
        whole = "".join(codes.astype("<u4").tobytes().decode("utf-32-le") for codes in source.codes("char"))
        train, valid, test = (corpus.sizes[name].characters for name in ("train", "valid", "test"))
        start = train + (valid if test else 0)
        held_out = whole[start:]
        ids = corpus.ids("test" if test else "valid")
        if corpus.tokenizer.decoder().feed(ids.read(0, len(ids))) != held_out:
            raise SystemExit(f"{text} is not cut where charlm cuts it")
    return whole[:train], held_out


def measure_coder(text: Path, split: str, size: Callable[[bytes], int]) -> dict[str, Any]:
    """What a compressor adds for the held-out text."""
    train, held_out = parts(text, split)
    before, after = size(train.encode()), size((train + held_out).encode())
    figures = {
        "bits": 8 * (after - before) / len(held_out),
        "bits_per_byte": 8 * (after - before) / len(held_out.encode()),
        "characters": len(held_out),
        "compressed_train": before,
        "compressed_both": after,
        "pyppmd": importlib.metadata.version("pyppmd"),
    }
    return {"figures": figures, "recipe": None}


def measure_charlm(text: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Train and measure once."""
    length, seed, options = f"{settings['seconds']}s", settings["seed"], settings["options"]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        trained = train(text, run, split=settings["split"], time=length, seed=seed, **options)
        model, corpus = charlm.load(run), open_corpus(run / "corpus")
        ids = corpus.ids("test" if corpus.sizes["test"].ids else "valid")
        exact = model.evaluate_ids([ids.read(0, len(ids))])
        figures = {
            "bits": exact.bits_per_char,
            "bits_per_byte": exact.bits_per_byte,
            "standard_error": None if exact.standard_error is None else exact.standard_error / math.log(2),
            "characters": exact.characters,
            "steps": trained.step,
            "train_seconds": trained.seconds,
            "ended": trained.reason,
            "parameters": model.config.parameter_count(),
        }
        return {"figures": figures, "recipe": recipe_of(run)}


def table(entries: Sequence[Entry]) -> list[Row]:
    """A row for each text, split, and way of training; beside them the coders of the same text and split."""
    coders = [entry for entry in entries if entry["settings"]["coder"] != "charlm"]
    trained = [entry for entry in entries if entry["settings"]["coder"] == "charlm"]
    without = {(entry["settings"]["sha256"], entry["settings"]["split"]) for entry in trained}
    rows = [_row(shared, group, coders) for shared, group in grouped(trained, "seed")]
    for shared, group in grouped(coders, "coder", "order", "memory"):
        if (shared["sha256"], shared["split"]) not in without:
            rows.append(_row(shared, [], group))
    return rows


def _row(shared: dict[str, Any], trained: Sequence[Entry], coders: Sequence[Entry]) -> Row:
    beside = [entry for entry in coders if all(entry["settings"][name] == shared[name] for name in ("sha256", "split"))]
    simple = {entry["settings"]["coder"]: entry["figures"]["bits"] for entry in beside}
    ppm = min(
        ((entry["figures"]["bits"], entry["settings"]["order"]) for entry in beside if "order" in entry["settings"]),
        default=None,
    )
    entry = (trained or beside)[0]
    return {
        "text": entry["text"],
        "split": shared["split"],
        "characters": entry["figures"]["characters"],
        "time": duration(shared["seconds"]) if trained else "-",
        "options": in_words(shared.get("options", {})),
        "engine": shared.get("engine", "-"),
        "charlm_bits": over_seeds([entry["figures"]["bits"] for entry in trained]),
        "PPMd": "-" if ppm is None else f"{ppm[0]:.4f} (order {ppm[1]})",
        **{name: f"{simple[name]:.4f}" if name in simple else "-" for name in CODERS},
    }


if __name__ == "__main__":
    main()
