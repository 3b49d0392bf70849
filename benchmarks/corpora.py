"""How well charlm predicts texts of several kinds, compared with compressors that read the same training text.

    pip install pyppmd                                     # the PPM coder, needed only for this benchmark
    python benchmarks/corpora.py warandpeace.txt dickens.txt zh_poetry.txt --time 10m
    python benchmarks/corpora.py --table

For each text, charlm is trained with its defaults on the first part of --split, and evaluated with an exact pass over
the last part. The value of a compressor is compressed(training + held-out text) - compressed(training text). All are in
bits per character of the held-out text. All read the training text before the held-out text, and its size is not
counted. The compressors adapt to the held-out text while they read it; charlm does not. With --split A/B/0 the
held-out text is also the validation text, which chooses charlm's learning rate and best step.

    charlm      after --time; each finished training is a line in results/corpora.jsonl (see results.py)
    xz -9       LZMA at preset 9. Its dictionary of 64 MiB contains each of these texts completely, so it can refer to
                any phrase of the training text, and its adaptive statistics are carried over
    bzip2 -9    sorts blocks of 900,000 bytes independently. Less than one block of training text helps the held-out
                text. Gains or losses in the block at the border are counted, too
    PPMd        PPM with information inheritance (variant H, as in 7-Zip), on UTF-8 bytes, in 1 GiB of memory so that
                its model is never reset. Each of --orders is measured, and the table shows the one that is best on the
                held-out text, which is a small advantage for it
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
    engine_name,
    format_duration,
    format_options,
    grouped,
    mean_and_range,
    measurement_parser,
    parse_options,
    recipe_of,
    run_measurements,
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
    parser = measurement_parser(__doc__, "corpora")
    parser.add_argument("texts", type=Path, nargs="*", metavar="TEXT", help="training text")
    parser.add_argument("--time", default="10m", help="duration of a training (default 10m)")
    parser.add_argument(
        "--orders", type=int, nargs="+", default=[4, 5, 6, 8, 12, 16], help="orders of PPM (default 4 5 6 8 12 16)"
    )
    add_training_options(parser)
    parser.set_defaults(seeds=[1])
    arguments = parser.parse_args()
    run_measurements(arguments, measurements(arguments), table)


def measurements(arguments: argparse.Namespace) -> Iterator[Measurement]:
    """The compressors come first, because they take seconds."""
    options = parse_options(arguments.set)
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
            seconds = parse_duration(arguments.time)
            training = {"seconds": seconds, "seed": seed, "options": options, "engine": engine_name()}
            settings = {**common, "coder": "charlm", **training}
            yield Measurement(text, settings, partial(measure_charlm, text, settings))


def require_ppmd() -> None:
    """Exit if pyppmd is not installed."""
    try:
        importlib.metadata.version("pyppmd")
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit("the PPM coder is missing: pip install pyppmd") from None


def ppmd(order: int, data: bytes) -> int:
    """Size of ``data`` in bytes after compression with PPMd, variant H."""
    import pyppmd

    encoder = pyppmd.Ppmd7Encoder(order, PPM_MEMORY)
    return len(encoder.encode(data)) + len(encoder.flush())


def training_and_held_out_text(text: Path, split: str) -> tuple[str, str]:
    """The training and the held-out text, split as charlm splits them. Without a test part, validation is held out."""
    with tempfile.TemporaryDirectory() as folder:
        source = open_source([str(text)])
        corpus = prepare(Path(folder), source, split=parse_split(split))
        whole = "".join(codes.astype("<u4").tobytes().decode("utf-32-le") for codes in source.codes("char"))
        n_train, n_valid, n_test = (corpus.sizes[name].characters for name in ("train", "valid", "test"))
        start = n_train + (n_valid if n_test else 0)
        held_out = whole[start:]
        ids = corpus.ids("test" if n_test else "valid")
        if corpus.tokenizer.decoder().feed(ids.read(0, len(ids))) != held_out:
            raise SystemExit(f"{text} is not split where charlm splits it")
    return whole[:n_train], held_out


def measure_coder(text: Path, split: str, size: Callable[[bytes], int]) -> dict[str, Any]:
    """How much longer the compressed training text becomes when the held-out text is appended."""
    train_text, held_out = training_and_held_out_text(text, split)
    before, after = size(train_text.encode()), size((train_text + held_out).encode())
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
    """Train charlm and evaluate it."""
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
    """A row for each text, split and training settings, with the compressors of the same text and split."""
    coders = [entry for entry in entries if entry["settings"]["coder"] != "charlm"]
    trained = [entry for entry in entries if entry["settings"]["coder"] == "charlm"]
    with_training = {(entry["settings"]["sha256"], entry["settings"]["split"]) for entry in trained}
    rows = [_row(shared, group, coders) for shared, group in grouped(trained, "seed")]
    for shared, group in grouped(coders, "coder", "order", "memory"):
        if (shared["sha256"], shared["split"]) not in with_training:
            rows.append(_row(shared, [], group))
    return rows


def _row(shared: dict[str, Any], trained: Sequence[Entry], coders: Sequence[Entry]) -> Row:
    matching = [
        entry for entry in coders if all(entry["settings"][name] == shared[name] for name in ("sha256", "split"))
    ]
    simple = {entry["settings"]["coder"]: entry["figures"]["bits"] for entry in matching}
    ppm = min(
        ((entry["figures"]["bits"], entry["settings"]["order"]) for entry in matching if "order" in entry["settings"]),
        default=None,
    )
    entry = (trained or matching)[0]
    return {
        "text": entry["text"],
        "split": shared["split"],
        "characters": entry["figures"]["characters"],
        "time": format_duration(shared["seconds"]) if trained else "-",
        "options": format_options(shared.get("options", {})),
        "engine": shared.get("engine", "-"),
        "charlm_bits": mean_and_range([entry["figures"]["bits"] for entry in trained]),
        "PPMd": "-" if ppm is None else f"{ppm[0]:.4f} (order {ppm[1]})",
        **{name: f"{simple[name]:.4f}" if name in simple else "-" for name in CODERS},
    }


if __name__ == "__main__":
    main()
