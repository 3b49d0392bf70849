"""How weights are stored in ``model.safetensors``: as floats of 32 or 16 bits, or as 8-bit integers with scales.

In "int8" a matrix [R, C] is the I8 tensor ``NAME`` [R, C] and the F32 tensor ``NAME.scale`` [R], one scale for each
unit or character; a weight is their product. Biases stay F32. A scale is the row's largest absolute weight over 127, as
in the native engine, but truncated to 17 significant bits. So every product is exact, and the engine's own int8
quantization gives the same integers.

R rows and C columns of a matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.checkpoint.tensors import tensors_from_bytes, tensors_to_bytes
from charlm.errors import DataError

FloatArray = NDArray[np.float32]
Shapes = Mapping[str, tuple[int, ...]]

WEIGHT_FORMATS = ("f32", "f16", "int8")
"""The possible values of "weights" in config.json. Without that key each tensor is F32 or F16."""
SCALE_SUFFIX = ".scale"
_MAX_INT8 = 127
_MIN_ROW_MAX = np.float32(1e-12)
"""A row without a larger weight gets the scale of one with this weight, as in the native engine."""
_SCALE_MASK = np.uint32(0xFFFFFF80)
"""Clears the last 7 bits of a float32, which makes its product with 127 exact."""
_MAX_SCALE = np.finfo(np.float32).max / _MAX_INT8


def weights_to_bytes(weights: Mapping[str, FloatArray], weight_format: str) -> bytes:
    """The bytes of a safetensors file with ``weights`` in one of ``WEIGHT_FORMATS``.

    Raises ``DataError`` for weights that float16 cannot represent.
    """
    if weight_format == "int8":
        return tensors_to_bytes(_quantize_matrices(weights))
    max_float16 = np.finfo(np.float16).max
    if weight_format == "f16" and any(np.abs(array).max(initial=0) > max_float16 for array in weights.values()):
        raise DataError("a weight is too large for float16; export with --weights int8")
    dtype = np.float16 if weight_format == "f16" else np.float32
    return tensors_to_bytes({name: array.astype(dtype) for name, array in weights.items()})


def _quantize_matrices(weights: Mapping[str, FloatArray]) -> dict[str, NDArray[Any]]:
    tensors: dict[str, NDArray[Any]] = {}
    for name, array in weights.items():
        if array.ndim == 2:
            tensors[name], tensors[name + SCALE_SUFFIX] = quantize(array)
        else:
            tensors[name] = array
    return tensors


def quantize(weight_RC: FloatArray) -> tuple[NDArray[np.int8], FloatArray]:
    """Integers [R, C] in -127 to 127 and row scales [R]. A product differs from its weight by half a scale at most."""
    max_R = np.maximum(np.abs(weight_RC).max(axis=1, initial=0), _MIN_ROW_MAX).astype(np.float32)
    scale_R = ((max_R / np.float32(_MAX_INT8)).view(np.uint32) & _SCALE_MASK).view(np.float32)
    return np.rint(weight_RC / scale_R[:, None]).astype(np.int8), scale_R


def dequantize(integers_RC: NDArray[np.int8], scale_R: FloatArray) -> FloatArray:
    """The weights [R, C] from the result of ``quantize``."""
    return integers_RC.astype(np.float32) * scale_R[:, None]


def weights_from_bytes(data: bytes, where: str, shapes: Shapes, weight_format: Any = None) -> dict[str, FloatArray]:
    """Weights of exactly these ``shapes``, stored in ``weight_format`` (None: F32 or F16). Raises ``DataError``."""
    layout = _layout(shapes, weight_format, where)
    tensors = tensors_from_bytes(data, where)
    if {name: tensor.shape for name, tensor in tensors.items()} != {name: shape for name, (shape, _) in layout.items()}:
        raise DataError(f"{where} does not hold the weights that its config.json describes; use another step")
    for name, (_, dtypes) in layout.items():
        if tensors[name].dtype not in dtypes:
            expected = " or ".join(np.dtype(dtype).name for dtype in dtypes)
            raise DataError(f"{where}: {name} is {tensors[name].dtype}, not {expected}; use another step")
    if weight_format != "int8":
        return {name: tensor.astype(np.float32, copy=False) for name, tensor in tensors.items()}
    return {name: _dequantize_checked(name, tensors, where) for name in shapes}


_Layout = dict[str, tuple[tuple[int, ...], tuple[type, ...]]]


def _layout(shapes: Shapes, weight_format: Any, where: str) -> _Layout:
    """Name -> shape and possible dtypes of every tensor in the file."""
    if weight_format is not None and weight_format not in WEIGHT_FORMATS:
        raise DataError(f"{where} has weights stored as {weight_format!r:.40}, unknown to this charlm; update charlm")
    if weight_format != "int8":
        dtypes = {"f32": (np.float32,), "f16": (np.float16,)}.get(weight_format, (np.float32, np.float16))
        return {name: (shape, dtypes) for name, shape in shapes.items()}
    layout: _Layout = {}
    for name, shape in shapes.items():
        layout[name] = shape, (np.int8 if len(shape) == 2 else np.float32,)
        if len(shape) == 2:
            layout[name + SCALE_SUFFIX] = shape[:1], (np.float32,)
    return layout


def _dequantize_checked(name: str, tensors: Mapping[str, NDArray[Any]], where: str) -> FloatArray:
    array, scale_R = tensors[name], tensors.get(name + SCALE_SUFFIX)
    if scale_R is None:
        return array
    if not ((scale_R > 0) & (scale_R <= _MAX_SCALE)).all():
        raise DataError(f"{where}: {name}{SCALE_SUFFIX} has invalid scales; export the model again")
    if (array < -_MAX_INT8).any():
        raise DataError(f"{where}: {name} has integers below {-_MAX_INT8}; export the model again")
    return dequantize(array, scale_R)
