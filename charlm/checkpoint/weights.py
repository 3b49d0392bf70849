"""How weights lie in ``model.safetensors``: as floats of 32 or 16 bits, or as 8-bit integers with scales.

In "int8" a matrix [R, C] is the I8 tensor ``NAME`` [R, C] and the F32 tensor ``NAME.scale`` [R], one scale for each
unit or character; a weight is their product. Biases stay F32. A scale is the row's largest weight over 127, as the
native engine has it, but cut to 17 significant bits: then every product is exact, and the engine's own int8 finds the
same integers.
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

FORMS = ("f32", "f16", "int8")
"""What config.json may say under "weights"; where it says nothing, each tensor is F32 or F16."""
SCALE = ".scale"
_MOST = 127
_LEAST_ROW = np.float32(1e-12)
"""A row without any larger weight has the scale of one: the native engine's rule."""
_KEPT_BITS = np.uint32(0xFFFFFF80)
"""Of a float32, all but the last 7 bits: with those gone, its product with 127 is exact."""
_MOST_SCALE = np.finfo(np.float32).max / _MOST


def weights_to_bytes(weights: Mapping[str, FloatArray], form: str) -> bytes:
    """The bytes of a safetensors file with ``weights`` in one of ``FORMS``.

    Raises ``DataError`` for weights that float16 cannot hold.
    """
    if form == "int8":
        return tensors_to_bytes(_quantised(weights))
    if form == "f16" and any(np.abs(array).max(initial=0) > np.finfo(np.float16).max for array in weights.values()):
        raise DataError("a weight is larger than float16 can hold; export with --weights int8")
    dtype = np.float16 if form == "f16" else np.float32
    return tensors_to_bytes({name: array.astype(dtype) for name, array in weights.items()})


def _quantised(weights: Mapping[str, FloatArray]) -> dict[str, NDArray[Any]]:
    tensors: dict[str, NDArray[Any]] = {}
    for name, array in weights.items():
        if array.ndim == 2:
            tensors[name], tensors[name + SCALE] = quantise(array)
        else:
            tensors[name] = array
    return tensors


def quantise(weight_RC: FloatArray) -> tuple[NDArray[np.int8], FloatArray]:
    """Integers [R, C] of -127 to 127 and the scales [R] of their rows: products within half a scale of the weights."""
    most_R = np.maximum(np.abs(weight_RC).max(axis=1, initial=0), _LEAST_ROW).astype(np.float32)
    scale_R = ((most_R / np.float32(_MOST)).view(np.uint32) & _KEPT_BITS).view(np.float32)
    return np.rint(weight_RC / scale_R[:, None]).astype(np.int8), scale_R


def dequantise(integers_RC: NDArray[np.int8], scale_R: FloatArray) -> FloatArray:
    """The weights [R, C] that ``quantise`` stands for."""
    return integers_RC.astype(np.float32) * scale_R[:, None]


def weights_from_bytes(data: bytes, where: str, shapes: Shapes, form: Any = None) -> dict[str, FloatArray]:
    """Weights of exactly these ``shapes``, stored as ``form`` says (None: it is not said). Raises ``DataError``."""
    layout = _layout(shapes, form, where)
    tensors = tensors_from_bytes(data, where)
    if {name: tensor.shape for name, tensor in tensors.items()} != {name: shape for name, (shape, _) in layout.items()}:
        raise DataError(f"{where} does not hold the weights that its config.json describes")
    for name, (_, dtypes) in layout.items():
        if tensors[name].dtype not in dtypes:
            wanted = " or ".join(np.dtype(dtype).name for dtype in dtypes)
            raise DataError(f"{where}: {name} is {tensors[name].dtype}, not {wanted}")
    if form != "int8":
        return {name: tensor.astype(np.float32, copy=False) for name, tensor in tensors.items()}
    return {name: _restored(name, tensors, where) for name in shapes}


_Layout = dict[str, tuple[tuple[int, ...], tuple[type, ...]]]


def _layout(shapes: Shapes, form: Any, where: str) -> _Layout:
    """Name -> shape and possible types of every tensor in the file."""
    if form is not None and form not in FORMS:
        raise DataError(f"{where} has weights stored as {form!r:.40}, which this charlm does not know; update charlm")
    if form != "int8":
        dtypes = {"f32": (np.float32,), "f16": (np.float16,)}.get(form, (np.float32, np.float16))
        return {name: (shape, dtypes) for name, shape in shapes.items()}
    layout: _Layout = {}
    for name, shape in shapes.items():
        layout[name] = shape, (np.int8 if len(shape) == 2 else np.float32,)
        if len(shape) == 2:
            layout[name + SCALE] = shape[:1], (np.float32,)
    return layout


def _restored(name: str, tensors: Mapping[str, NDArray[Any]], where: str) -> FloatArray:
    array, scale_R = tensors[name], tensors.get(name + SCALE)
    if scale_R is None:
        return array
    if not ((scale_R > 0) & (scale_R <= _MOST_SCALE)).all():
        raise DataError(f"{where}: {name}{SCALE} has numbers that are no scales; export the model again")
    if (array < -_MOST).any():
        raise DataError(f"{where}: {name} has integers below {-_MOST}; export the model again")
    return dequantise(array, scale_R)
