"""How good a model a training of given length makes: exact pass and nanoGPT's crops, on the part that was held out.

    python benchmarks/quality.py tinyshakespeare.txt --split 90/10/0 --time 5m

Trains with charlm's defaults, then measures the best checkpoint: one exact pass with the state carried from the first
character to the last, and means over windows of 64 and 256 characters from a cold state. With --split A/B/0 the
held-out text also steered the plateau and the choice of the best step, as is usual in the field; with three parts the
test part steered nothing.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import charlm
from charlm.corpus import open_corpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--split", default="90/10/0")
    parser.add_argument("--time", default="5m")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size")
    parser.add_argument("--out", type=Path, help="keep the run here")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, options.out or Path(folder) / "run")
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:<28}{value:.4f}" if isinstance(value, float) else f"{name:<28}{value}")


def measure(options: argparse.Namespace, out: Path) -> dict[str, object]:
    wishes = {"time": options.time, "seed": options.seed, "size": options.size}
    began = time.perf_counter()
    trained = charlm.train(options.text, out=out, split=options.split, **wishes)
    wall = time.perf_counter() - began
    model = charlm.load(trained.run)
    corpus = open_corpus(trained.run / "corpus")
    ids = corpus.ids("test" if corpus.sizes["test"].ids else "valid")
    held_out = [ids.read(0, len(ids))]
    exact = model.evaluate_ids(held_out)
    return {
        "text": options.text.name,
        "split": options.split,
        "time": options.time,
        "seed": options.seed,
        "model": f"{model.config.layers} x {model.config.hidden}, {model.config.parameter_count():,} parameters",
        "steps": trained.step,
        "best step": model.checkpoint.step,
        "wall seconds": wall,
        "exact nats/char": exact.nats_per_char,
        "standard error": exact.standard_error,
        "exact bits/char": exact.bits_per_char,
        "crops of 256, nats/char": model.evaluate_ids(held_out, 256).nats_per_char,
        "crops of 64, nats/char": model.evaluate_ids(held_out, 64).nats_per_char,
        "predictions": exact.predictions,
    }


if __name__ == "__main__":
    main()
