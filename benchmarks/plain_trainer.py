"""The trainer that the tutorials of PyTorch teach, written afresh, for peers.py: see there for what it is.

It trains in turns: its clock stands still while others have theirs.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from charlm.corpus.prepared import Corpus
from charlm.evaluation.measure import evaluate

LAYERS, DROPOUT, BATCH, BPTT, CLIP, SGD_RATE, ANNEAL = 2, 0.2, 20, 35, 0.25, 20.0, 4.0
VALIDATION_BATCH = 10
WINDOW = 64


class Clock:
    """Seconds spent inside ``with clock``."""

    def __init__(self) -> None:
        self._spent = 0.0
        self._since: float | None = None

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._spent, self._since = self.seconds, None

    @property
    def seconds(self) -> float:
        return self._spent + (0.0 if self._since is None else time.monotonic() - self._since)


class PlainModel(nn.Module):
    """What the tutorials build: ids [T, B] and a state to logits [T, B, V] and the next state."""

    def __init__(self, vocabulary_size: int, hidden: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(DROPOUT)
        self.embedding = nn.Embedding(vocabulary_size, hidden)
        self.lstm = nn.LSTM(hidden, hidden, LAYERS, dropout=DROPOUT)
        self.decoder = nn.Linear(hidden, vocabulary_size)
        self.decoder.weight = self.embedding.weight
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def start(self, batch: int) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(LAYERS, batch, self.lstm.hidden_size)
        return zeros, zeros

    def forward(self, ids_TB: Tensor, state: Any) -> tuple[Tensor, Any]:
        output_TBH, state = self.lstm(self.dropout(self.embedding(ids_TB)), state)
        return self.decoder(self.dropout(output_TBH)), state


class PlainEngine:
    """The part of charlm's ``Engine`` that its evaluations use, for a ``PlainModel``."""

    def __init__(self, model: PlainModel) -> None:
        self.model = model.eval()

    def initial_state(self, batch: int) -> Any:
        return self.model.start(batch)

    @torch.inference_mode()
    def losses(self, ids_TB: Any, targets_TB: Any, state: Any) -> tuple[Any, Any]:
        logits_TBV, state = self.model(torch.from_numpy(ids_TB), state)
        targets_TB = torch.from_numpy(np.ascontiguousarray(targets_TB))
        nats = nn.functional.cross_entropy(logits_TBV.flatten(0, 1), targets_TB.flatten(), reduction="none")
        return nats.view_as(targets_TB).numpy(), state


def batchify(ids: Tensor, batch: int) -> Tensor:
    """``ids`` as parallel streams, [length, batch]; what is left over is cut off."""
    return ids[: len(ids) // batch * batch].view(batch, -1).t().contiguous()


class Peer:
    """The plain trainer: a model, an optimizer, an epoch after another."""

    def __init__(self, corpus: Corpus, hidden: int, optimizer: str, rate: float, seed: int) -> None:
        torch.manual_seed(seed)
        self.corpus = corpus
        self.clock = Clock()
        self.train_LB = batchify(_read(corpus, "train"), BATCH)
        self.valid_LB = batchify(_read(corpus, "valid"), VALIDATION_BATCH)
        self.model = PlainModel(corpus.tokenizer.vocabulary_size, hidden)
        self.optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer](self.model.parameters(), rate)
        self.best = math.inf
        self.best_model = copy.deepcopy(self.model)
        self.steps = self.epochs = 0
        self.work = self.train()

    def train(self) -> Iterator[None]:
        """Without end; a pause after each step."""
        while True:
            self.model.train()
            state = self.model.start(BATCH)
            for inputs_TB, targets_TB in chunks(self.train_LB):
                state = tuple(part.detach() for part in state)
                self.optimizer.zero_grad()
                logits_TBV, state = self.model(inputs_TB, state)
                nn.functional.cross_entropy(logits_TBV.flatten(0, 1), targets_TB.flatten()).backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
                self.optimizer.step()
                self.steps += 1
                yield
            self.epochs += 1
            if not self.validate():
                for group in self.optimizer.param_groups:
                    group["lr"] /= ANNEAL

    @torch.no_grad()
    def validate(self) -> bool:
        """Whether the loss is the best so far; then the weights are kept."""
        self.model.eval()
        state, total = self.model.start(VALIDATION_BATCH), 0.0
        for inputs_TB, targets_TB in chunks(self.valid_LB):
            logits_TBV, state = self.model(inputs_TB, state)
            loss = nn.functional.cross_entropy(logits_TBV.flatten(0, 1), targets_TB.flatten())
            total += len(inputs_TB) * loss.item()
        loss = total / (len(self.valid_LB) - 1)
        if loss >= self.best:
            return False
        self.best, self.best_model = loss, copy.deepcopy(self.model)
        return True

    def turn(self, until: float) -> None:
        with self.clock:
            while self.clock.seconds < until:
                next(self.work)

    def finish(self) -> dict[str, Any]:
        self.validate()  # the part of an epoch at the end may be the best; not counted
        engine, tokenizer, held_out = PlainEngine(self.best_model), self.corpus.tokenizer, [held_out_ids(self.corpus)]
        return {
            "exact": evaluate(engine, tokenizer, held_out).nats_per_char,
            "crops_64": evaluate(engine, tokenizer, held_out, WINDOW).nats_per_char,
            "steps": self.steps,
            "epochs": self.epochs,
            "rate": self.optimizer.param_groups[0]["lr"],
            "seconds": self.clock.seconds,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
        }


def chunks(ids_LB: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets of an epoch."""
    for start in range(0, len(ids_LB) - 1, BPTT):
        stop = min(start + BPTT, len(ids_LB) - 1)
        yield ids_LB[start:stop], ids_LB[start + 1 : stop + 1]


def _read(corpus: Corpus, part: str) -> Tensor:
    ids = corpus.ids(part)
    return torch.from_numpy(ids.read(0, len(ids)).astype("int64"))


def held_out_ids(corpus: Corpus) -> Any:
    """The test part, or where there is none, validation."""
    ids = corpus.ids("test" if corpus.sizes["test"].ids else "valid")
    return ids.read(0, len(ids))
