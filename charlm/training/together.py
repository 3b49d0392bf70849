"""How the processes that torchrun has started come to train one run together.

The first process prepares the run and announces a plan; then all form a group. The others read the run's folder, so all
machines must see it at the same place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from charlm.checkpoint.step import ALL_FILES, Checkpoint, open_checkpoint
from charlm.config import ModelConfig, TrainingConfig, from_dict, to_dict
from charlm.corpus.prepared import open_corpus
from charlm.errors import UsageError
from charlm.system.processes import ALONE, Group, Launch, ProcessGroup, leave
from charlm.training.trainer import Trainer

_WHERE = "what the first process announced"


@contextmanager
def taking_part(launch: Launch | None) -> Iterator[None]:
    """A context in which this process trains with the others. They end together, also where preparing fails.

    Without a ``launch`` there are no others.
    """
    if launch is None:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(launch.local_rank % torch.cuda.device_count())
    if launch.is_first:
        with launch.preparing():
            yield
    else:
        yield
    leave()


def check_batch(launch: Launch | None, batch: int | None) -> None:
    """Raise ``UsageError`` for a ``batch`` that the processes cannot divide."""
    if launch is not None and batch is not None and batch % launch.size:
        raise UsageError(
            f"--batch {batch} cannot be divided among {launch.size} processes; use a multiple of {launch.size}, such "
            f"as --batch {-(-batch // launch.size) * launch.size}"
        )


def form_group(
    launch: Launch,
    run: Path,
    config: TrainingConfig,
    *,
    model: ModelConfig | None = None,
    step: int | None = None,
    begin: tuple[float, float] | None = None,
    is_extended: bool = False,
) -> Group:
    """Announce what to train and wait for the other processes.

    A new run needs a ``model`` and, with a time limit, the arguments of ``Trainer.begin``; a resumed run needs the
    ``step`` that it continues from.
    """
    plan = {
        "run": str(run.resolve()),
        "training": to_dict(config),
        "model": None if model is None else to_dict(model),
        "step": step,
        "begin": begin,
        "is_extended": is_extended,
    }
    launch.announce(plan)
    return _group(launch, config)


def join(launch: Launch) -> tuple[Trainer, Checkpoint | None, bool]:
    """A trainer for what the first process announces, the checkpoint that it continues, and whether it is extended."""
    plan = launch.plan()
    config = from_dict(TrainingConfig, plan["training"], _WHERE)
    group = _group(launch, config)
    run = Path(plan["run"])
    corpus = open_corpus(run / "corpus")
    if plan["step"] is None:
        trainer = Trainer(run, corpus, from_dict(ModelConfig, plan["model"], _WHERE), config, group=group)
        if plan["begin"] is not None:
            trainer.begin(*plan["begin"])
        return trainer, None, False
    checkpoint = open_checkpoint(run / f"step-{plan['step']}", names=ALL_FILES)
    return Trainer.resume(run, corpus, checkpoint, config, group=group), checkpoint, bool(plan["is_extended"])


def _group(launch: Launch, config: TrainingConfig) -> Group:
    return ALONE if launch.size == 1 else ProcessGroup(launch, torch.device(config.device).type)
