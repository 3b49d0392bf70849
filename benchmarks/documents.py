"""Training on documents of different lengths: what padding, sorting by length, and packing cost on this machine.

    python benchmarks/documents.py FILE... [--lengths 10 80 | --cut 10 80] [--layers 2] [--hidden 256] [--rounds 5]

Every line of a FILE is a document; with --lengths 10 80 only lines of so many characters are, and with --cut 10 80 the
text is cut anew into lines of random lengths, all as frequent. The same documents are learnt from in each layout, and
as many real characters in a step:

    padded      documents as they come, side by side, filled up to the longest of a batch
    bucketed    documents of like length side by side: charlm's own batches
    packed      documents as they come, in a PackedSequence: no padding, but on a CPU no fast path either

by charlm's native engine (bf16) and by torch's own kernels, which a PackedSequence needs (fp32). A step is forward
pass, cross entropy over the real characters, backward pass, clipping and Adam. ``chars_per_s`` are real characters with
their ends, medians over interleaved rounds; ``padding`` is the share of places that are none.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
import torch
from common import charlm_engine, make_parser, report, take_turns

from charlm.config import ModelConfig, TrainingConfig
from charlm.corpus.batches import IGNORE_INDEX, Chunk, Cursor, DocumentBatches
from charlm.corpus.padding import pad
from charlm.corpus.preparation import prepare
from charlm.corpus.prepared import Corpus
from charlm.corpus.shuffling import shuffled
from charlm.corpus.splitting import DocumentOptions
from charlm.corpus.text import open_source
from charlm.model import char_lm as model_module
from charlm.model.char_lm import CharLM, cross_entropy, detach
from charlm.system.devices import autocast, keep_freed_memory
from charlm.training.optimizers import make_optimizer

BATCH, BPTT = 32, 128
STEPS_A_TURN = 12


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--lengths", nargs=2, type=int, metavar=("LEAST", "MOST"))
    parser.add_argument("--cut", nargs=2, type=int, metavar=("LEAST", "MOST"))
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    keep_freed_memory()
    rows = []
    for path in arguments.files:
        with tempfile.TemporaryDirectory() as folder:
            corpus = make_corpus(path, Path(folder), arguments.lengths, arguments.cut)
            rows += compare(path.name, corpus, arguments.layers, arguments.hidden, arguments.rounds)
    report(arguments, rows)


def make_corpus(path: Path, folder: Path, lengths: list[int] | None, cut: list[int] | None) -> Corpus:
    text = path.read_text("utf-8")
    least, most = lengths or (1, 10**9)
    lines = cut_at_random(text, *cut) if cut else [line for line in text.splitlines() if least <= len(line) <= most]
    chosen = folder / "lines.txt"
    chosen.write_text("\n".join(lines), "utf-8")
    return prepare(folder / "corpus", open_source([str(chosen)]), documents=DocumentOptions("lines"))


def cut_at_random(text: str, least: int, most: int) -> list[str]:
    """The text without its own line ends in lines of ``least`` to ``most`` characters."""
    text = text.replace("\n", " ")
    sizes = np.random.default_rng(1).integers(least, most + 1, 2 * len(text) // (least + most))
    bounds = np.append(0, np.cumsum(sizes)).tolist()
    return [text[start:stop] for start, stop in itertools.pairwise(bounds) if stop <= len(text)]


def compare(name: str, corpus: Corpus, layers: int, hidden: int, rounds: int) -> list[dict[str, object]]:
    layouts: dict[str, Callable[[Corpus], Iterator[Chunk]]] = {
        "padded": lambda corpus: as_they_come(corpus, sort=False),
        "bucketed": bucketed,
        "packed": lambda corpus: as_they_come(corpus, sort=True),
    }
    contenders = {
        ("native", "padded"): Contender(corpus, layers, hidden, layouts["padded"], None, "bf16"),
        ("native", "bucketed"): Contender(corpus, layers, hidden, layouts["bucketed"], None, "bf16"),
        ("torch", "padded"): Contender(corpus, layers, hidden, layouts["padded"], "torch", "fp32"),
        ("torch", "bucketed"): Contender(corpus, layers, hidden, layouts["bucketed"], "torch", "fp32"),
        ("torch", "packed"): Contender(corpus, layers, hidden, layouts["packed"], "torch", "fp32", packed=True),
    }
    turns = take_turns({" ".join(key): contender.turn for key, contender in contenders.items()}, rounds)
    speed = {key: median(turns[" ".join(key)]) for key in contenders}
    return [
        {
            "documents": name,
            "engine": key[0],
            "layout": key[1],
            "chars_per_s": speed[key],
            "padding": contenders[key].padding(),
            "bucketed_over_it": speed[(key[0], "bucketed")] / speed[key],
        }
        for key in contenders
    ]


def bucketed(corpus: Corpus) -> Iterator[Chunk]:
    """What ``charlm train`` reads."""
    boundary = corpus.tokenizer.end_id
    assert boundary is not None
    batches, cursor = DocumentBatches(corpus.ids("train"), corpus.ends("train"), boundary, BATCH, BPTT, 1), Cursor()
    while True:
        yield batches.chunk(cursor)
        cursor = batches.next_cursor(cursor)


def as_they_come(corpus: Corpus, sort: bool) -> Iterator[Chunk]:
    """Shuffled documents side by side; packing wants the longest of a batch first."""
    ids, ends = corpus.ids("train"), corpus.ends("train")
    flat, bounds = ids.read(0, len(ids)).astype(np.int64), np.append(0, ends.read(0, len(ends))).astype(np.int64)
    lengths, count = np.diff(bounds), round(BATCH * BPTT * len(ends) / len(ids))
    start_id, epoch = corpus.tokenizer.start_id, 0
    while True:
        order = shuffled(np.arange(len(lengths)), len(lengths), 1, epoch)
        for first in range(0, len(order) - count + 1, count):
            rows = order[first : first + count]
            rows = rows[np.argsort(-lengths[rows], kind="stable")] if sort else rows
            read = np.concatenate([flat[bounds[row] : bounds[row + 1]] for row in rows])
            chunk = pad(read, lengths[rows], np.full(count, start_id))
            chunk.targets_TB[~chunk.real_TB] = IGNORE_INDEX
            yield Chunk(chunk.inputs_TB, chunk.targets_TB, True, lengths[rows])
        epoch += 1


class Contender:
    """A model in training on one layout of a corpus."""

    def __init__(
        self,
        corpus: Corpus,
        layers: int,
        hidden: int,
        chunks: Callable[[Corpus], Iterator[Chunk]],
        engine: str | None,
        precision: str,
        packed: bool = False,
    ) -> None:
        self._chunks = chunks(corpus)
        self._engine, self._precision, self._packed = engine, precision, packed
        self._model = CharLM(ModelConfig(corpus.tokenizer.vocabulary_size, layers, hidden, hidden), seed=1)
        self._optimizer = make_optimizer(self._model, TrainingConfig(lr=2e-3))
        self._state = self._model.initial_state(1)
        self._places = self._real = 0

    def turn(self) -> float:
        """Real characters a second over some steps."""
        with charlm_engine(self._engine), self._layout():
            self._step()
            began, done = time.perf_counter(), 0
            for _ in range(STEPS_A_TURN):
                done += self._step()
            return done / (time.perf_counter() - began)

    def padding(self) -> float:
        return 1 - self._real / self._places

    def _layout(self) -> AbstractContextManager[object]:
        return patch.object(model_module, "packs", lambda tensor: True) if self._packed else nullcontext()

    def _step(self) -> int:
        chunk = next(self._chunks)
        rows = chunk.inputs_TB.shape[1]
        state = self._model.initial_state(rows) if chunk.fresh else tuple((h[:rows], c[:rows]) for h, c in self._state)
        assert chunk.lengths_B is not None
        with autocast("cpu", self._precision):
            logits, state = self._model(
                torch.from_numpy(chunk.inputs_TB), state, None, torch.from_numpy(chunk.lengths_B)
            )
        loss = cross_entropy(logits, torch.from_numpy(chunk.targets_TB)).sum() / chunk.predictions
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._state = detach(state)
        self._places += chunk.inputs_TB.size
        self._real += chunk.predictions
        return chunk.predictions


if __name__ == "__main__":
    main()
