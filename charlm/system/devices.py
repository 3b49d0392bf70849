"""The device and the precision: from torch, or measured where torch does not know."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from numpy.typing import NDArray

from charlm.arguments import check_device_name
from charlm.errors import OutOfMemoryError, UsageError
from charlm.system.forks import has_lost_threads
from charlm.system.memory import machine_bytes

logger = logging.getLogger("charlm")

_OUT_OF_MEMORY = (
    "DefaultCPUAllocator", "not enough memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)  # fmt: skip
# Parameters of mallopt in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def choose_device(name: str) -> torch.device:
    """The torch device for "auto", "cpu", "cuda", "cuda:1" or "mps". Raises ``UsageError`` where it is missing."""
    check_device_name(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    present: dict[str, Callable[[], bool]] = {
        "cpu": lambda: True,
        "cuda": lambda: torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available,
    }
    if device.type not in present or not present[device.type]():
        raise UsageError(f"--device {name}: this machine (or this build of torch) has no such device; use --device cpu")
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """ "fp32", "bf16" or "fp16" for "auto": 16 bits where the device multiplies matrices faster with them.

    On CUDA that is float16, which rounds gradients eight times finer than bfloat16 and takes the same time.
    """
    if name not in ("auto", "fp32", "bf16", "fp16"):
        raise UsageError(f"--precision must be auto, fp32, bf16 or fp16, not {name!r}")
    if name == "fp16" and device.type != "cuda":
        raise UsageError("--precision fp16 needs a CUDA device; use bf16 or fp32")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "fp16"
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
    if precision == "fp32":
        return contextlib.nullcontext()
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    # A cached copy of a weight would belong to the memory of a CUDA graph.
    return torch.autocast(device_type, dtype, cache_enabled=device_type != "cuda")


def make_reproducible(device: torch.device) -> None:
    """Let CUDA compute the same bits each time, and products of float32 matrices in float32.

    By default torch's LSTM takes TF32 there, and the gradient of a large embedding look-up adds in any order. On an
    H200 a training step takes 1% longer for it.
    """
    if device.type != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Nothing here reads memory before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch declares it nowhere
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def copy_to(device: torch.device, array: NDArray[Any]) -> torch.Tensor:
    """``array`` as a tensor on ``device``. On CUDA the host does not wait for the work that is queued there."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def avoid_lost_threads(threads: int | None) -> None:
    """In a forked process whose parent has used threads, compute in one thread, because more would never end.

    Raises ``UsageError`` if more ``threads`` are asked for.
    """
    if not has_lost_threads():
        return
    if threads is not None and threads > 1:
        raise UsageError(
            "this process was forked from one that had used threads, which torch does not survive; use --threads 1, or "
            'start processes with multiprocessing.get_context("spawn")'
        )
    if torch.get_num_threads() > 1:
        logger.warning("this process was forked from one that had used threads, so torch computes in one thread")
    torch.set_num_threads(1)


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
        detail = " ".join(str(error).split())[:100]
        raise OutOfMemoryError(f"out of memory{f' ({detail})' if detail else ''}; {advice}") from None
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _OUT_OF_MEMORY):
            raise
        raise OutOfMemoryError(f"out of memory; {advice}") from None
