"""Why backpropagation through time is truncated: memory, time and learning against the length of the chunks.

    python benchmarks/tbptt.py [FILE] [--characters 20000] [--rounds 3] [--json]

Makes one pass over the same text with chunks of T characters, from T = 1 to the whole text in one chunk. The state is
carried from chunk to chunk and detached between them, and each chunk makes one update. Short chunks need little memory
and make many updates, but a gradient does not reach back beyond its chunk. The whole text in one chunk needs memory
for all characters at once and makes a single update. The best length is between these extremes.

The text is the beginning of FILE (UTF-8), or the text of ``charlm train --demo``. Each T runs in a new process.
Characters are counted over all streams.

    updates                   number of chunks in the pass, each with one update of the weights
    peak_mb                   peak resident memory during the pass, minus that before the first chunk
    seconds_per_1000_chars    forward pass, backward pass and update
    nats_per_char             loss of the trained model on the same text, read again from its start
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from common import make_parser, peak_memory_mb, report, run_in_new_process, take_turns

if TYPE_CHECKING:
    from torch import Tensor

    from charlm.model.char_lm import CharLM

CHUNKS = (1, 8, 32, 128, 512, 2048)
SEED = 1


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="a text (default: the demo text of charlm)")
    parser.add_argument("--characters", type=int, default=20_000, help="characters per stream (default 20000)")
    parser.add_argument("--batch", type=int, default=8, help="streams (default 8)")
    parser.add_argument("--hidden", type=int, default=256, help="width of the layer (default 256)")
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate of Adam for all T (default 0.002)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1: the most stable ratios)")
    parser.add_argument("--rounds", type=int, default=3, help="passes for each T (default 3)")
    parser.add_argument("--chunk", type=int, help=argparse.SUPPRESS)  # used in the new process
    arguments = parser.parse_args()
    if arguments.chunk is not None:
        print(json.dumps(measure(arguments)))
        return
    lengths = [*(chunk for chunk in CHUNKS if chunk < arguments.characters), arguments.characters]
    results = take_turns(
        {f"T = {chunk}": _measure_in_new_process(arguments, chunk) for chunk in lengths}, arguments.rounds
    )
    names = [*map(str, lengths[:-1]), "whole text"]
    rows = [{"T": name, **_medians(passes)} for name, passes in zip(names, results.values(), strict=True)]
    report(arguments, rows)


def _measure_in_new_process(arguments: argparse.Namespace, chunk: int) -> Any:
    options = [] if arguments.file is None else [arguments.file]
    for name in ("characters", "batch", "hidden", "lr", "threads"):
        options += [f"--{name}", getattr(arguments, name)]
    return lambda: run_in_new_process(__file__, *options, "--chunk", chunk)


def _medians(passes: list[dict[str, float]]) -> dict[str, float]:
    return {name: median([values[name] for values in passes]) for name in passes[0]}


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """One pass with chunks of ``arguments.chunk``. Runs in a separate process."""
    import torch

    from charlm.config import ModelConfig, TrainingConfig
    from charlm.model.char_lm import CharLM
    from charlm.training.optimizers import make_optimizer

    torch.set_num_threads(arguments.threads)
    ids_TB, vocabulary_size = read_streams(arguments.file, arguments.batch, arguments.characters)
    config = ModelConfig(vocabulary_size, 1, arguments.hidden, arguments.hidden)
    training = TrainingConfig(lr=arguments.lr, batch=arguments.batch)
    # The first step of a process imports and allocates; this does not depend on T.
    warm_up = CharLM(config, SEED)
    train(warm_up, make_optimizer(warm_up, training), ids_TB[:2], 1, training.clip)
    model = CharLM(config, SEED)
    optimizer = make_optimizer(model, training)
    before = peak_memory_mb()
    start = time.perf_counter()
    updates = train(model, optimizer, ids_TB, arguments.chunk, training.clip)
    seconds = time.perf_counter() - start
    return {
        "updates": updates,
        "peak_mb": peak_memory_mb() - before,
        "seconds_per_1000_chars": 1000 * seconds / (arguments.batch * arguments.characters),
        "nats_per_char": mean_loss(model, ids_TB),
    }


def read_streams(file: Path | None, batch: int, characters: int) -> tuple[Tensor, int]:
    """The ids [T + 1, B] of ``batch`` streams of T = ``characters`` inputs and a last target; the vocabulary size."""
    import numpy as np
    import torch

    from charlm.corpus.blocks import read_blocks
    from charlm.corpus.encodings import decode_blocks
    from charlm.tokenizer.characters import CharTokenizer
    from charlm.tokenizer.protocol import code_points
    from charlm.training.text_options import demo_text

    text = demo_text() if file is None else "".join(decode_blocks(read_blocks(file), str(file)))
    needed = batch * characters + 1
    if len(text) < needed:
        raise SystemExit(f"the text has {len(text)} characters, {needed} are needed; use a smaller --characters")
    codes = code_points(text[:needed])
    counts = dict(enumerate(np.bincount(codes).tolist()))
    tokenizer = CharTokenizer.build(counts)
    ids = torch.from_numpy(tokenizer.encode_codes(codes)[:needed].astype(np.int64))
    # Windows of T + 1 that overlap by one: the last target of a stream is the first input of the next.
    return ids.unfold(0, characters + 1, characters).t().contiguous(), tokenizer.vocabulary_size


def chunks(ids_TB: Tensor, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets [T, B] of each chunk. The last may be shorter."""
    for start in range(0, len(ids_TB) - 1, length):
        window_TB = ids_TB[start : start + length + 1]
        yield window_TB[:-1], window_TB[1:]


def train(model: CharLM, optimizer: Any, ids_TB: Tensor, length: int, clip: float) -> int:
    """Train with truncated backpropagation through time on ``ids_TB``. Returns the number of updates."""
    import torch

    from charlm.model.char_lm import cross_entropy, detach

    state = model.initial_state(ids_TB.shape[1])
    updates = 0
    for inputs_TB, targets_TB in chunks(ids_TB, length):
        logits_TBV, state = model(inputs_TB, state)
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(logits_TBV, targets_TB).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        state = detach(state)
        updates += 1
    return updates


def mean_loss(model: CharLM, ids_TB: Tensor) -> float:
    """Mean loss over ``ids_TB`` in nats per character."""
    import torch

    from charlm.model.char_lm import cross_entropy

    with torch.inference_mode():
        state = model.initial_state(ids_TB.shape[1])
        total = 0.0
        for inputs_TB, targets_TB in chunks(ids_TB, 256):
            logits_TBV, state = model(inputs_TB, state)
            total += cross_entropy(logits_TBV, targets_TB).sum().item()
    return total / ids_TB[1:].numel()


if __name__ == "__main__":
    main()
