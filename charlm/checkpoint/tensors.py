"""Arrays to the bytes of a safetensors file and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.config import MAX_JSON_BYTES
from charlm.errors import DataError


def tensors_to_bytes(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of a safetensors file with ``tensors``."""
    from safetensors.numpy import save

    return save({name: np.asarray(array, order="C") for name, array in tensors.items()})


def tensors_from_bytes(data: bytes, where: str) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file. Raises ``DataError`` for another format and for non-finite values."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        if int.from_bytes(data[:8], "little") > MAX_JSON_BYTES:
            raise ValueError("its header is too long")
        tensors: dict[str, NDArray[Any]] = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error)
        raise DataError(
            f"{where} is not a safetensors file that charlm can read ({reason!r:.80}); use another step"
        ) from None
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise DataError(f"{where}: {name!r:.80} has non-finite values; use an earlier step")
    return tensors
