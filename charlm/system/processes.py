"""Several processes that train one model together. ``torchrun`` starts them and tells each its number.

A ``Group`` is what they do together. In a group of one, a process that trains alone, nothing is exchanged. Every
process must call the methods of its group in the same order: they wait for one another.

Shapes: B rows of a batch, H values of a row.
"""

from __future__ import annotations

import datetime
import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from charlm.errors import InputOutputError

if TYPE_CHECKING:
    from torch import Tensor

_PLAN, _FAILED, _RUN = "plan", "failed", "run"
_WAIT_SECONDS = 0.1
"""Between two looks at the store. A signal ends the wait."""
_TIMEOUT = datetime.timedelta(minutes=30)
"""How long a process waits for another one that is alive. One that has ended is noticed at once."""


class Group:
    """A process that trains alone."""

    rank, size, local_size = 0, 1, 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that prepares, prints and saves."""
        return self.rank == 0

    def rows(self, total: int) -> slice:
        """Those of a batch's ``total`` rows that this process trains on: every ``size``-th one."""
        return slice(self.rank, total, self.size)

    def count(self, total: int) -> int:
        """How many rows these are."""
        return len(range(total)[self.rows(total)])

    def add(self, tensor: Tensor) -> None:
        """Replace ``tensor``, on the training device, by its sum over all processes."""

    def gather_rows(self, rows_BH: Tensor, total: int) -> Tensor:
        """All ``total`` rows of a batch, on every process, given the rows of this one. Several processes get a copy on
        the CPU.
        """
        return rows_BH

    def on_first(self, work: Callable[[], str]) -> str:
        """Call ``work`` on the first process only, and return its result on every process.

        An error of ``work`` is raised on every process, on the others as ``InputOutputError``.
        """
        return work()

    def clock(self) -> float:
        """Seconds that are the same on every process: the first one's, when ``agree`` was called last."""
        return time.monotonic()

    def agree(self, stop: bool) -> bool:
        """Whether any process is asked to stop."""
        return stop


ALONE = Group()


class ProcessGroup(Group):
    """The processes of one ``Launch``. Gradients are added on their device, all else is exchanged on the CPU.

    Raises ``InputOutputError`` in any method if a process has ended.
    """

    def __init__(self, launch: Launch, device_type: str) -> None:
        import torch.distributed as dist

        self.rank, self.size, self.local_size = launch.rank, launch.size, launch.local_size
        self._now = 0.0
        with _connection_errors():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo",
                store=dist.distributed_c10d.PrefixStore(f"group/{launch.restarts}", launch.store()),
                rank=self.rank,
                world_size=self.size,
                timeout=_TIMEOUT,
            )
        self.agree(False)

    def add(self, tensor: Tensor) -> None:
        import torch.distributed as dist

        with _connection_errors():
            dist.all_reduce(tensor)

    def gather_rows(self, rows_BH: Tensor, total: int) -> Tensor:
        import torch
        import torch.distributed as dist

        most = -(-total // self.size)
        own_BH = torch.zeros(most, *rows_BH.shape[1:], dtype=rows_BH.dtype)
        own_BH[: len(rows_BH)] = rows_BH.detach().cpu()
        parts = [torch.empty_like(own_BH) for _ in range(self.size)]
        with _connection_errors():
            dist.all_gather(parts, own_BH)
        return torch.stack(parts, 1).flatten(0, 1)[:total]

    def on_first(self, work: Callable[[], str]) -> str:
        if not self.is_first:
            outcome = json.loads(self._broadcast(b""))
            if "error" in outcome:
                raise InputOutputError(outcome["error"])
            result: str = outcome["result"]
            return result
        try:
            result = work()
        except Exception as error:
            self._broadcast(json.dumps({"error": str(error)}).encode())
            raise
        self._broadcast(json.dumps({"result": result}).encode())
        return result

    def _broadcast(self, data: bytes) -> bytes:
        """The ``data`` of the first process."""
        import torch
        import torch.distributed as dist

        length_1 = torch.tensor([len(data)])
        with _connection_errors():
            dist.broadcast(length_1, src=0)
            data_N = torch.frombuffer(bytearray(data.ljust(int(length_1), b" ")), dtype=torch.uint8)
            dist.broadcast(data_N, src=0)
        return data_N.numpy().tobytes()

    def clock(self) -> float:
        return self._now

    def agree(self, stop: bool) -> bool:
        import torch
        import torch.distributed as dist

        values_2 = torch.tensor([time.monotonic() if self.is_first else 0.0, float(stop)], dtype=torch.float64)
        with _connection_errors():
            dist.all_reduce(values_2)
        self._now, stops = values_2.tolist()
        return bool(stops > 0)


@contextmanager
def _connection_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(str(error)) from None


class LostProcessError(InputOutputError):
    """Another process of the group has ended or cannot be reached."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            "another process of this training has ended or cannot be reached "
            f"({' '.join(reason.split())[:80]}); continue the run from its last checkpoint with --resume"
        )


@dataclass(frozen=True)
class Launch:
    """What torchrun tells a process: its number among ``size`` processes, and how often they were restarted."""

    rank: int
    size: int
    local_rank: int
    """Its number on this machine, and of its GPU."""
    local_size: int
    restarts: int

    @property
    def is_first(self) -> bool:
        """Whether this process prepares the run."""
        return self.rank == 0

    def announce(self, plan: dict[str, Any]) -> None:
        """Tell the others what to train. ``plan`` is made of JSON values."""
        store = self.store()
        store.set(_RUN, plan["run"])
        store.set(f"{_PLAN}/{self.restarts}", json.dumps(plan))

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Let the other processes end if an error ends this one."""
        try:
            yield
        except BaseException:
            with suppress(Exception):  # the others have ended already
                self.store().set(f"{_FAILED}/{self.restarts}", "1")
            raise

    def plan(self) -> dict[str, Any]:
        """What the first process has announced; waits for it. Raises ``LostProcessError`` if it has failed."""
        store = self.store()
        key, failed = f"{_PLAN}/{self.restarts}", f"{_FAILED}/{self.restarts}"
        with _connection_errors():
            while not store.check([key]):
                if store.check([failed]):
                    raise LostProcessError("the first process has failed")
                time.sleep(_WAIT_SECONDS)
            plan: dict[str, Any] = json.loads(store.get(key))
        return plan

    def run_before(self) -> str | None:
        """The folder of the run that these processes trained before they were restarted."""
        store = self.store()
        return store.get(_RUN).decode() if self.restarts and store.check([_RUN]) else None

    def store(self) -> Any:
        """What all processes share about the current training. It outlives a restart if torchrun keeps it."""
        import torch.distributed as dist

        return dist.distributed_c10d.PrefixStore(f"charlm/{_trainings}", _connected(self.is_first))


_trainings = 0
"""How many trainings this process has taken part in, and left."""


@functools.cache
def _connected(is_first: bool) -> Any:
    import torch.distributed as dist

    kept_by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    with _connection_errors():
        return dist.TCPStore(  # type: ignore[attr-defined]  # torch does not export it
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=is_first and not kept_by_torchrun,
            timeout=_TIMEOUT,
            wait_for_workers=False,
        )


def launched() -> Launch | None:
    """What torchrun has told this process; None if it was started in another way."""
    needed = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if any(name not in os.environ for name in needed):
        return None
    rank, size, local_rank = (int(os.environ[name]) for name in needed[:3])
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "0")) or size
    return Launch(rank, size, local_rank, local_size, int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")))


def is_first_process() -> bool:
    """Whether this is the only process, or the one of its launch that prints."""
    launch = launched()
    return launch is None or launch.is_first


def is_restarted() -> bool:
    """Whether torchrun has restarted this process."""
    launch = launched()
    return launch is not None and launch.restarts > 0


def leave() -> None:
    """Wait until all processes of the group are done with a training, and leave it."""
    global _trainings  # noqa: PLW0603  # torch's process group is global as well
    import torch.distributed as dist

    _trainings += 1
    if dist.is_available() and dist.is_initialized():
        with _connection_errors():
            dist.barrier()
            dist.destroy_process_group()
