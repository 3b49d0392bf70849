"""The device and the precision: from torch, or measured where torch does not know."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch

from charlm.errors import OutOfMemoryError, UsageError
from charlm.system.memory import machine_bytes

# Parameters of mallopt in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def choose_device(name: str) -> torch.device:
    """The torch device for "auto", "cpu", "cuda", "cuda:1" or "mps". Raises ``UsageError`` where it is missing."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name!r} is not a device; use auto, cpu, cuda or mps") from None
    present: dict[str, Callable[[], bool]] = {
        "cpu": lambda: True,
        "cuda": lambda: torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available,
    }
    if device.type not in present or not present[device.type]():
        raise UsageError(f"--device {name}: this machine (or this build of torch) has no such device; use --device cpu")
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """ "fp32" or "bf16" for "auto": bfloat16 autocast where the device multiplies matrices faster with it."""
    if name not in ("auto", "fp32", "bf16"):
        raise UsageError(f"--precision must be auto, fp32 or bf16, not {name!r}")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and _bfloat16_gain() > 1.4 else "fp32"


def _bfloat16_gain() -> float:
    """How many times faster a matrix product is in bfloat16; about 2 with hardware for it, far below 1 without."""
    a, b = torch.randn(512, 512), torch.randn(512, 512)
    a_half, b_half = a.bfloat16(), b.bfloat16()
    return _median_seconds(lambda: a @ b) / _median_seconds(lambda: a_half @ b_half)


def _median_seconds(work: Callable[[], object], rounds: int = 9) -> float:
    work()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[rounds // 2]


def autocast(device_type: str, precision: str) -> AbstractContextManager[object]:
    """The context in which a forward pass runs at ``precision``."""
    if precision == "bf16":
        return torch.autocast(device_type, torch.bfloat16)
    return contextlib.nullcontext()


def keep_freed_memory() -> None:
    """Let glibc keep memory that a training step frees for the next step, instead of returning it to the kernel.

    Every step allocates and frees the same hundreds of megabytes. Getting them from the kernel each time makes training
    on a CPU slower by about a quarter. Without glibc this does nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20)):
            libc.mallopt(option, value)


def memory_bytes(device: torch.device) -> int | None:
    """The memory of ``device`` in bytes; None where it is unknown."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return machine_bytes()


@contextlib.contextmanager
def memory_errors(advice: str) -> Iterator[None]:
    """Turn errors of an exhausted memory into ``OutOfMemoryError``. Its text ends with ``advice``: what to lower."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        said = " ".join(str(error).split())[:100]
        raise OutOfMemoryError(f"out of memory{f' ({said})' if said else ''}; {advice}") from None
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error) and "not enough memory" not in str(error):
            raise
        raise OutOfMemoryError(f"out of memory; {advice}") from None
