"""Training on documents of different lengths: the cost of padding, bucketing by length, and packing.

    python benchmarks/documents.py FILE... [--lengths 10 80 | --cut 10 80] [--layers 2] [--hidden 256] [--rounds 5]

Each line of a FILE is a document. With --lengths 10 80, only lines of 10 to 80 characters are used. With --cut 10 80,
the text is cut into lines whose random lengths are uniform in this range. Each layout trains on the same documents,
with the same number of real characters per step:

    padded      documents in shuffled order, padded to the longest of a batch
    bucketed    documents of similar length in a batch: the batches of charlm
    packed      documents in shuffled order, in a PackedSequence: no padding, but also no fast kernel on a CPU

The engines are charlm's native engine (bf16) and torch's kernels (fp32), which a PackedSequence needs. A step is
forward pass, cross entropy over the real characters, backward pass, clipping and Adam. ``chars_per_s`` counts real
characters and end markers, medians over interleaved rounds. ``padding`` is the share of positions that are padding.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

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
from charlm.model.char_lm import CharLM, State, cross_entropy, detach
from charlm.system.devices import autocast, keep_freed_memory
from charlm.training.optimizers import make_optimizer

BATCH, BPTT = 32, 128
STEPS_A_TURN = 12


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--lengths", nargs=2, type=int, metavar=("MIN", "MAX"))
    parser.add_argument("--cut", nargs=2, type=int, metavar=("MIN", "MAX"))
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
    min_length, max_length = lengths or (1, 10**9)
    if cut:
        lines = cut_at_random(text, *cut)
    else:
        lines = [line for line in text.splitlines() if min_length <= len(line) <= max_length]
    chosen = folder / "lines.txt"
    chosen.write_text("\n".join(lines), "utf-8")
    return prepare(folder / "corpus", open_source([str(chosen)]), documents=DocumentOptions("lines"))


def cut_at_random(text: str, min_length: int, max_length: int) -> list[str]:
    """Cut the text, whose line ends become spaces, into lines of ``min_length`` to ``max_length`` characters."""
    text = text.replace("\n", " ")
    sizes = np.random.default_rng(1).integers(min_length, max_length + 1, 2 * len(text) // (min_length + max_length))
    bounds = np.append(0, np.cumsum(sizes)).tolist()
    return [text[start:stop] for start, stop in itertools.pairwise(bounds) if stop <= len(text)]


def compare(name: str, corpus: Corpus, layers: int, hidden: int, rounds: int) -> list[dict[str, object]]:
    layouts: dict[str, Callable[[Corpus], Iterator[Chunk]]] = {
        "padded": lambda corpus: shuffled_batches(corpus, sort=False),
        "bucketed": bucketed,
        "packed": lambda corpus: shuffled_batches(corpus, sort=True),
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
    """The chunks that ``charlm train`` reads."""
    boundary = corpus.tokenizer.end_id
    assert boundary is not None
    batches, cursor = DocumentBatches(corpus.ids("train"), corpus.ends("train"), boundary, BATCH, BPTT, 1), Cursor()
    while True:
        yield batches.chunk(cursor)
        cursor = batches.next_cursor(cursor)


def shuffled_batches(corpus: Corpus, sort: bool) -> Iterator[Chunk]:
    """Batches of shuffled documents. Packing needs the longest of a batch first (``sort``)."""
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
            yield Chunk(chunk.inputs_TB, chunk.targets_TB, True, is_padded=True)
        epoch += 1


class PackedLM(CharLM):
    """A ``CharLM`` without dropout whose layers read a PackedSequence of ``lengths_B``, the longest first."""

    lengths_B: torch.Tensor

    def forward(  # type: ignore[override]  # it has no dropout
        self, ids_TB: torch.Tensor, state: State
    ) -> tuple[torch.Tensor, State]:
        x_TBI, after = self.embedding(ids_TB), []
        for layer, (h_BH, c_BH) in zip(self.layers(), state, strict=True):
            packed = torch.nn.utils.rnn.pack_padded_sequence(x_TBI, self.lengths_B)
            weights = [layer.weight_ih, layer.weight_hh, layer.bias, torch.zeros_like(layer.bias)]
            output, h_1BH, c_1BH = torch.lstm(
                packed.data, packed.batch_sizes, (h_BH[None], c_BH[None]), weights, True, 1, 0.0, True, False
            )
            unpacked = torch.nn.utils.rnn.PackedSequence(output, packed.batch_sizes)
            x_TBI, _ = torch.nn.utils.rnn.pad_packed_sequence(unpacked, total_length=len(ids_TB))
            after.append((h_1BH[0], c_1BH[0]))
        return self.decoder(x_TBI), tuple(after)


def lengths_of(chunk: Chunk) -> torch.Tensor:
    """[B] the number of steps of each document."""
    return torch.from_numpy((chunk.targets_TB != IGNORE_INDEX).sum(axis=0))


class Contender:
    """A model that is trained on one layout of a corpus."""

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
        self._engine, self._precision = engine, precision
        config = ModelConfig(corpus.tokenizer.vocabulary_size, layers, hidden, hidden)
        self._model = PackedLM(config, seed=1) if packed else CharLM(config, seed=1)
        self._optimizer = make_optimizer(self._model, TrainingConfig(lr=2e-3))
        self._state = self._model.initial_state(1)
        self._positions = self._predictions = 0

    def turn(self) -> float:
        """Train for some steps. Returns real characters per second."""
        with charlm_engine(self._engine):
            self._step()
            start, done = time.perf_counter(), 0
            for _ in range(STEPS_A_TURN):
                done += self._step()
            return done / (time.perf_counter() - start)

    def padding(self) -> float:
        """The share of padding so far."""
        return 1 - self._predictions / self._positions

    def _step(self) -> int:
        chunk = next(self._chunks)
        rows = chunk.inputs_TB.shape[1]
        state = self._model.initial_state(rows) if chunk.fresh else tuple((h[:rows], c[:rows]) for h, c in self._state)
        with autocast("cpu", self._precision):
            if isinstance(self._model, PackedLM):
                self._model.lengths_B = lengths_of(chunk)
            logits, state = self._model(torch.from_numpy(chunk.inputs_TB), state)
        loss = cross_entropy(logits, torch.from_numpy(chunk.targets_TB)).sum() / chunk.predictions
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._state = detach(state)
        self._positions += chunk.inputs_TB.size
        self._predictions += chunk.predictions
        return chunk.predictions


if __name__ == "__main__":
    main()
