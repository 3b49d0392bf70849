"""Loads the native engine's library, checks it, and declares its functions for ctypes. Needs numpy, never torch.

The library is built from the C++ files in this folder when charlm is installed; api.h documents its functions. Without
it, or with ``CHARLM_ENGINE=torch``, ``find_library`` returns None and ``unavailable_reason`` says why. ``CHARLM_ISA``
selects an instruction set (one of ``INSTRUCTION_SETS``) instead of the best one that the processor has.

Shapes: T steps, B streams, N ids to generate, V ids, E embedding width, S states of a constraint, C candidate ids.
"""

from __future__ import annotations

import ctypes
import functools
import os
from ctypes import c_double, c_float, c_int, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.errors import UsageError

LIBRARY = "engine.so"
"""The library's file name, in the folder of this file. CMake uses it on Linux and macOS."""
INTERFACE = 3
"""What ``charlm_interface`` of a matching library returns (``kInterface`` in api.h)."""
STORAGES = {"fp32": 0, "bf16": 1, "int8": 2}
"""``Storage`` in kernels.h."""
UNIT_PADDING = 16
"""The engine pads widths to a multiple of this (``kUnitPadding`` in kernels.h)."""
INSTRUCTION_SETS = ("amx", "avx512_bf16", "avx512", "avx2", "portable")
"""From the most to the least preferred."""


class Sampling(ctypes.Structure):
    """``CharlmSampling`` in api.h: a ``SamplingConfig`` for the library."""

    _fields_ = [("temperature", c_double), ("top_k", c_int64), ("top_p", c_double), ("min_p", c_double)]


class MuonBlock(ctypes.Structure):
    """``CharlmMuonBlock`` in api.h: a block of columns of a weight matrix, its gradient and its momentum."""

    _fields_ = [
        *[(name, c_int64) for name in ("rows", "columns", "stride")],
        *[(name, c_void_p) for name in ("gradient", "momentum", "weight")],
        ("lr", c_float),
    ]


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
    "charlm_muon_step": (_INT, [_POINTER, _INT, _SIZE, ctypes.POINTER(MuonBlock), c_float, c_float, _INT]),
    "charlm_model_create": (_POINTER, [_POINTER, _INT, _SIZE, _SIZE, *[_POINTER] * 4, _INT]),
    "charlm_model_destroy": (None, [_POINTER]),
    "charlm_model_forward": (_INT, [_POINTER, _SIZE, _SIZE, *[_POINTER] * 6, _INT]),
    "charlm_generator_create": (_POINTER, [_POINTER, _SIZE, _POINTER, _SIZE, _POINTER, _POINTER]),
    "charlm_generator_destroy": (None, [_POINTER]),
    "charlm_generator_generate": (_INT, [_POINTER, _SIZE, _SIZE, ctypes.POINTER(Sampling), *[_POINTER] * 6, _INT]),
}


@dataclass(frozen=True)
class Library:
    """The loaded library and its kernels for this processor. ``functions`` has those of api.h as attributes."""

    functions: Any
    kernels: int
    instruction_set: str


@dataclass(frozen=True)
class Unavailable:
    """Why there is no library to use."""

    reason: str


def find_library() -> Library | None:
    """The library, or None if it is unavailable or ``CHARLM_ENGINE=torch`` disables it.

    Raises ``UsageError`` for a value of ``CHARLM_ENGINE`` or ``CHARLM_ISA`` that is unknown or cannot be used here.
    """
    found = _lookup()
    return found if isinstance(found, Library) else None


def instruction_set() -> str:
    """One of ``INSTRUCTION_SETS``, or "" if ``find_library`` returns None."""
    library = find_library()
    return "" if library is None else library.instruction_set


def unavailable_reason() -> str:
    """Why ``find_library`` returned None, or ""."""
    found = _lookup()
    return found.reason if isinstance(found, Unavailable) else ""


def _lookup() -> Library | Unavailable:
    choice = os.environ.get("CHARLM_ENGINE") or "auto"
    if choice not in ("auto", "native", "torch"):
        raise UsageError(f"CHARLM_ENGINE is {choice!r}; set it to native or torch, or not at all")
    if choice == "torch":
        return Unavailable("CHARLM_ENGINE is torch")
    found = _load(os.environ.get("CHARLM_ISA") or "")
    if isinstance(found, Unavailable) and choice == "native":
        raise UsageError(f"CHARLM_ENGINE is native, but {found.reason}; install charlm again where there is a compiler")
    return found


@functools.cache
def _load(instruction_set: str) -> Library | Unavailable:
    if instruction_set and instruction_set not in INSTRUCTION_SETS:
        raise UsageError(f"CHARLM_ISA is {instruction_set!r}; set it to one of {', '.join(INSTRUCTION_SETS)}")
    path = Path(__file__).with_name(LIBRARY)
    if not path.exists():
        return Unavailable(
            f"there is no native engine in {path.parent}: there was no C++ compiler when charlm was installed, or "
            "these are its sources and not the installed package"
        )
    try:
        functions = ctypes.CDLL(str(path))
        functions.charlm_interface.restype = _INT
        interface = functions.charlm_interface()
    except (OSError, AttributeError) as error:
        return Unavailable(f"the native engine could not be loaded ({str(error)[:80]})")
    if interface != INTERFACE:
        return Unavailable("the native engine does not match this version of charlm; install charlm again")
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(functions, name)
        function.restype, function.argtypes = result, arguments
    kernels = functions.charlm_kernels(instruction_set.encode())
    if not kernels:
        raise UsageError(f"CHARLM_ISA is {instruction_set}, which this processor or this build does not have")
    return Library(functions, kernels, functions.charlm_kernels_name(kernels).decode())


def address(array: NDArray[Any] | None) -> int | None:
    """The address of the data of a contiguous array, for a pointer argument; None stays None."""
    if array is None:
        return None
    assert array.flags.c_contiguous, "the library requires contiguous arrays"
    return int(array.ctypes.data)


class Model:
    """``charlm::Model``: weights packed for inference. Shapes are those of ``charlm_model_create`` in api.h."""

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
        """The number of elements in h, and in c, for one stream."""
        self.layer_bounds = np.cumsum(padded)[:-1].tolist()
        """The offsets in h and c at which the second and later layers begin."""

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._functions.charlm_model_destroy(self._handle)

    @property
    def handle(self) -> int:
        """The pointer that the library's functions take."""
        return int(self._handle)

    def forward(
        self,
        ids_TB: NDArray[np.int64],
        h: NDArray[np.float32],
        c: NDArray[np.float32],
        logits_TBV: NDArray[np.float32] | None,
        targets_TB: NDArray[np.int64] | None,
        nats_TB: NDArray[np.float32] | None,
    ) -> None:
        """Read ids. Updates h and c in place, and fills the logits, the losses (with targets), or both."""
        length, batch = ids_TB.shape
        failed = self._functions.charlm_model_forward(
            self._handle, length, batch, address(ids_TB), address(h), address(c), address(logits_TBV),
            address(targets_TB), address(nats_TB), self.threads,
        )  # fmt: skip
        if failed:
            raise MemoryError


class Generator:
    """``charlm::Generator``: samples ids with a model and reads them. Keeps the model alive."""

    def __init__(
        self,
        model: Model,
        candidates_C: NDArray[np.int64],
        allowed_SC: NDArray[np.uint8],
        transitions_SC: NDArray[np.int64],
    ) -> None:
        self._model = model
        self._functions = model._functions
        self._handle = self._functions.charlm_generator_create(
            model.handle, len(candidates_C), address(candidates_C), len(allowed_SC), address(allowed_SC),
            address(transitions_SC),
        )  # fmt: skip
        if not self._handle:
            raise MemoryError

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._functions.charlm_generator_destroy(self._handle)

    def generate(
        self,
        sampling: Sampling,
        h: NDArray[np.float32],
        c: NDArray[np.float32],
        logits_BC: NDArray[np.float32],
        constraint_state_B: NDArray[np.int64],
        uniform_NB: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """N ids for each of B streams. Updates h, c, logits and constraint states in place."""
        ids_NB = np.empty(uniform_NB.shape, np.int64)
        failed = self._functions.charlm_generator_generate(
            self._handle, *uniform_NB.shape, ctypes.byref(sampling), address(h), address(c), address(logits_BC),
            address(constraint_state_B), address(uniform_NB), address(ids_NB), self._model.threads,
        )  # fmt: skip
        if failed:
            raise MemoryError
        return ids_NB
