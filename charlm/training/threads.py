"""The number of threads of a training: as many as its batch can use."""

from __future__ import annotations

import torch

from charlm.config import TrainingConfig
from charlm.system.cores import cores, useful_threads
from charlm.system.devices import avoid_lost_threads

_reduced: tuple[int, int] | None = None
"""The threads that ``use_threads`` chose, and how many there were before: the next training may use those again."""


def use_threads(config: TrainingConfig, processes: int = 1, local_processes: int = 1) -> None:
    """Let torch and the native engine use the threads that ``config`` names, by default as many as its batch can use.

    At most one for each core: a run that was started on a larger machine may name more threads. Several ``processes``
    divide the batch, and the ``local_processes`` among them the cores. Raises ``UsageError``
    for several threads in a forked process that cannot have them.
    """
    global _reduced  # noqa: PLW0603  # torch's number of threads is global as well
    avoid_lost_threads(config.threads)
    if config.threads is not None:
        torch.set_num_threads(min(config.threads, cores()))
        return
    if processes > 1:  # torchrun lets each process use one core
        torch.set_num_threads(useful_threads(max(1, cores() // local_processes), config.batch // processes))
        return
    now = torch.get_num_threads()
    available = _reduced[1] if _reduced is not None and _reduced[0] == now else now
    threads = useful_threads(available, config.batch)
    _reduced = (threads, available) if threads < available else None
    torch.set_num_threads(threads)
