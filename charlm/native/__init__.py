"""The native engine's library: found, checked, and given Python signatures. numpy only, never torch.

The library is plain C++ (the files beside this one; api.h says what its functions take), built when charlm is
installed. Where that could not be done, or where ``CHARLM_ENGINE=torch`` says so, there is none, and ``why_not`` tells
the reason. ``CHARLM_ISA`` names an instruction set (``amx``, ``avx512_bf16``, ``avx512``, ``avx2`` or ``portable``) to
use instead of the best one that the processor has.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import os
from ctypes import c_double, c_int, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.errors import UsageError

INTERFACE = 1
"""What charlm_interface() of a matching library returns."""
STORAGES = {"fp32": 0, "bf16": 1, "int8": 2}
UNIT_PADDING = 16
"""Widths are padded to a multiple of this inside the engine (kernels.h)."""
INSTRUCTION_SETS = ("amx", "avx512_bf16", "avx512", "avx2", "portable")


class Draw(ctypes.Structure):
    """``CharlmDraw``: a ``SamplingConfig`` for the library."""

    _fields_ = [("temperature", c_double), ("top_k", c_int64), ("top_p", c_double), ("min_p", c_double)]


_INT, _SIZE, _POINTER = c_int, c_int64, c_void_p
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "charlm_interface": (_INT, []),
    "charlm_kernels": (_POINTER, [ctypes.c_char_p]),
    "charlm_kernels_name": (ctypes.c_char_p, [_POINTER]),
    "charlm_use_openmp": (None, [_POINTER]),
    "charlm_pack_gates": (None, [_POINTER, _INT, _POINTER, _SIZE, _SIZE, _POINTER, _INT]),
    "charlm_pack_transposed": (None, [_POINTER, _INT, _POINTER, _SIZE, _POINTER, _INT]),
    "charlm_transposed_size": (_SIZE, [_POINTER, _SIZE]),
    "charlm_recurrence": (None, [_POINTER, _INT, *[_SIZE] * 3, _POINTER, _SIZE, *[_POINTER] * 8, _INT]),
    "charlm_recurrence_gradient": (None, [_POINTER, _INT, *[_SIZE] * 3, *[_POINTER] * 7, _INT]),
    "charlm_add_rows": (None, [_POINTER, _INT, _POINTER, _POINTER, _SIZE, _SIZE, _POINTER, _INT]),
    "charlm_weight_gradient": (_INT, [_POINTER, _INT, *[_SIZE] * 3, *[_POINTER] * 3, _INT]),
    "charlm_model_create": (_POINTER, [_POINTER, _INT, _SIZE, _SIZE, *[_POINTER] * 4, _INT]),
    "charlm_model_destroy": (None, [_POINTER]),
    "charlm_model_read": (_INT, [_POINTER, _SIZE, _SIZE, *[_POINTER] * 6, _INT]),
    "charlm_writer_create": (_POINTER, [_POINTER, _SIZE, _POINTER, _SIZE, _POINTER, _POINTER]),
    "charlm_writer_destroy": (None, [_POINTER]),
    "charlm_writer_write": (_INT, [_POINTER, _SIZE, _SIZE, ctypes.POINTER(Draw), *[_POINTER] * 6, _INT]),
}


@dataclass(frozen=True)
class Library:
    """The loaded library and the kernels that run here. ``functions`` has the C functions of api.h as attributes."""

    functions: Any
    kernels: int
    instruction_set: str


@dataclass(frozen=True)
class Missing:
    """Why there is no library to use."""

    reason: str


def find() -> Library | None:
    """The library, or None where there is none or ``CHARLM_ENGINE=torch`` forbids it.

    Raises ``UsageError`` for a ``CHARLM_ENGINE`` or ``CHARLM_ISA`` without meaning here.
    """
    found = _found()
    return found if isinstance(found, Library) else None


def instruction_set() -> str:
    """One of ``INSTRUCTION_SETS``, or "" where ``find`` returns None."""
    library = find()
    return "" if library is None else library.instruction_set


def why_not() -> str:
    """Why ``find`` returned None, in words that can follow "torch, because"."""
    found = _found()
    return found.reason if isinstance(found, Missing) else ""


def _found() -> Library | Missing:
    wanted = os.environ.get("CHARLM_ENGINE") or "auto"
    if wanted not in ("auto", "native", "torch"):
        raise UsageError(f"CHARLM_ENGINE is {wanted!r}; set it to native or torch, or not at all")
    if wanted == "torch":
        return Missing("CHARLM_ENGINE is torch")
    found = _load(os.environ.get("CHARLM_ISA") or "")
    if isinstance(found, Missing) and wanted == "native":
        raise UsageError(f"CHARLM_ENGINE is native, but {found.reason}; install charlm again where there is a compiler")
    return found


@functools.cache
def _load(instruction_set: str) -> Library | Missing:
    if instruction_set and instruction_set not in INSTRUCTION_SETS:
        raise UsageError(f"CHARLM_ISA is {instruction_set!r}; set it to one of {', '.join(INSTRUCTION_SETS)}")
    here = Path(__file__).parent
    paths = [here / f"engine{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return Missing("the native engine was not built when charlm was installed (no C++ compiler?)")
    try:
        functions = ctypes.CDLL(str(path))
        functions.charlm_interface.restype = _INT
        interface = functions.charlm_interface()
    except (OSError, AttributeError) as error:
        return Missing(f"the native engine could not be loaded ({str(error)[:80]})")
    if interface != INTERFACE:
        return Missing("the native engine was built from other sources; install charlm again")
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(functions, name)
        function.restype, function.argtypes = result, arguments
    kernels = functions.charlm_kernels(instruction_set.encode())
    if not kernels:
        raise UsageError(f"CHARLM_ISA is {instruction_set}, which this processor or this build does not have")
    return Library(functions, kernels, functions.charlm_kernels_name(kernels).decode())


def address(array: NDArray[Any] | None) -> int | None:
    """Where the numbers of an array begin, for a pointer argument; None for none. The array must be contiguous."""
    if array is None:
        return None
    assert array.flags.c_contiguous, "the library takes arrays without gaps"
    return int(array.ctypes.data)


class Model:
    """``charlm::Model``: weights packed for inference. Arrays are float32 and int64, shapes as in api.h."""

    def __init__(
        self,
        library: Library,
        precision: str,
        widths: list[int],
        embedding_VE: NDArray[np.float32],
        decoder_bias_V: NDArray[np.float32],
        layers: list[NDArray[np.float32]],
        threads: int,
    ) -> None:
        arrays = [np.ascontiguousarray(array, np.float32) for array in (embedding_VE, decoder_bias_V, *layers)]
        pointers = (ctypes.c_void_p * len(layers))(*[address(array) for array in arrays[2:]])
        self.vocabulary_size = len(embedding_VE)
        self.threads = threads
        self._functions = library.functions
        self._handle = library.functions.charlm_model_create(
            library.kernels, STORAGES[precision], len(embedding_VE), len(widths) - 1,
            (c_int64 * len(widths))(*widths), address(arrays[0]), address(arrays[1]), pointers, threads,
        )  # fmt: skip
        if not self._handle:
            raise MemoryError
        padded = [-(-width // UNIT_PADDING) * UNIT_PADDING for width in widths[1:]]
        self.state_size = sum(padded)
        """Numbers in the h, and in the c, of one stream."""
        self.layer_bounds = np.cumsum(padded)[:-1].tolist()
        """Where in these the second and later layers begin."""

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._functions.charlm_model_destroy(self._handle)

    @property
    def handle(self) -> int:
        """The library's pointer."""
        return int(self._handle)

    def read(
        self,
        ids_TB: NDArray[np.int64],
        h: NDArray[np.float32],
        c: NDArray[np.float32],
        logits_TBV: NDArray[np.float32] | None,
        targets_TB: NDArray[np.int64] | None,
        nats_TB: NDArray[np.float32] | None,
    ) -> None:
        """Read ids; h and c are changed in place, logits or losses filled in."""
        length, batch = ids_TB.shape
        failed = self._functions.charlm_model_read(
            self._handle, length, batch, address(ids_TB), address(h), address(c), address(logits_TBV),
            address(targets_TB), address(nats_TB), self.threads,
        )  # fmt: skip
        if failed:
            raise MemoryError


class Writer:
    """``charlm::Writer``: draws ids and reads them again. Keeps its model alive."""

    def __init__(
        self,
        model: Model,
        ids: NDArray[np.int64],
        allowed_SC: NDArray[np.uint8],
        following_SC: NDArray[np.int64],
    ) -> None:
        self._model = model
        self._functions = model._functions
        self._handle = self._functions.charlm_writer_create(
            model.handle, len(ids), address(ids), len(allowed_SC), address(allowed_SC), address(following_SC)
        )
        if not self._handle:
            raise MemoryError

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._functions.charlm_writer_destroy(self._handle)

    def write(
        self,
        draw: Draw,
        h: NDArray[np.float32],
        c: NDArray[np.float32],
        logits_BC: NDArray[np.float32],
        place_B: NDArray[np.int64],
        uniform_NB: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """N ids for each of B streams; all but ``draw`` and ``uniform_NB`` are changed in place."""
        written_NB = np.empty(uniform_NB.shape, np.int64)
        failed = self._functions.charlm_writer_write(
            self._handle, *uniform_NB.shape, ctypes.byref(draw), address(h), address(c), address(logits_BC),
            address(place_B), address(uniform_NB), address(written_NB), self._model.threads,
        )  # fmt: skip
        if failed:
            raise MemoryError
        return written_NB
