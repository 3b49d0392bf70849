import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from charlm.checkpoint.tensors import tensors_from_bytes, tensors_to_bytes
from charlm.checkpoint.weights import dequantize, quantize, weights_from_bytes, weights_to_bytes
from charlm.errors import DataError

SHAPES = {"a": (2, 3), "b": (2,)}
WEIGHTS = {"a": np.array([[0.5, -1, 0.25], [0, 0, 0]], np.float32), "b": np.array([3, 0.1], np.float32)}
MATRICES = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(-(2.0**127), 2.0**127, width=32)
)


def native_integers(weight_RC):
    """The int8 quantization of ``Model::pack_gates``: integers, and the factors for their sums."""
    max_R = np.maximum(np.abs(weight_RC).max(axis=1), np.float32(1e-12))
    factor_R = np.float32(127) / max_R
    return np.rint(weight_RC * factor_R[:, None]), max_R / np.float32(127 * 127)


@settings(max_examples=300)
@given(MATRICES)
def test_products_are_within_half_a_scale(weight_RC):
    integers_RC, scale_R = quantize(weight_RC)
    assert integers_RC.dtype == np.int8
    assert np.abs(integers_RC.astype(int)).max() <= 127
    error_RC = np.abs(dequantize(integers_RC, scale_R).astype(np.float64) - weight_RC)
    assert (error_RC <= 0.5001 * scale_R[:, None].astype(np.float64)).all()


@settings(max_examples=300)
@given(MATRICES)
def test_quantizing_again_changes_nothing(weight_RC):
    integers_RC, scale_R = quantize(weight_RC)
    restored_RC = dequantize(integers_RC, scale_R)
    assert (restored_RC == integers_RC.astype(np.float64) * scale_R[:, None].astype(np.float64)).all(), "not exact"
    again_RC, scale_again_R = quantize(restored_RC)
    assert (again_RC == integers_RC).all()
    assert (scale_again_R == scale_R).all()
    assert (native_integers(restored_RC)[0] == integers_RC).all()


def test_weights_are_restored_from_every_format():
    for weight_format, tolerance in (("f32", 0), ("f16", 1e-4), ("int8", 0.004)):
        again = weights_from_bytes(weights_to_bytes(WEIGHTS, weight_format), "here", SHAPES, weight_format)
        assert set(again) == set(SHAPES)
        for name, array in again.items():
            assert array.dtype == np.float32
            assert np.abs(array - WEIGHTS[name]).max() <= tolerance


def test_weights_in_another_format_than_stated_are_refused():
    formats = ("f32", "f16", "int8")
    data = {stored: weights_to_bytes(WEIGHTS, stored) for stored in formats}
    for stored in formats:
        for stated in formats:
            if stated != stored:
                with pytest.raises(DataError):
                    weights_from_bytes(data[stored], "here", SHAPES, stated)
    for stored in ("f32", "f16"):
        weights_from_bytes(data[stored], "here", SHAPES)
    with pytest.raises(DataError):
        weights_from_bytes(data["int8"], "here", SHAPES)
    for unknown in ("int4", 8, ["f16"], {}, True):
        with pytest.raises(DataError, match="update charlm"):
            weights_from_bytes(data["f32"], "here", SHAPES, unknown)


def test_other_names_shapes_and_types_are_refused():
    data = weights_to_bytes(WEIGHTS, "f32")
    for wrong in ({"a": (2, 3)}, {"a": (3, 2), "b": (2,)}, {**SHAPES, "c": (1,)}):
        with pytest.raises(DataError, match="config"):
            weights_from_bytes(data, "here", wrong)
    for bad in (np.array([np.nan], np.float32), np.array([1], np.int64), np.array([1.0])):
        with pytest.raises(DataError):
            weights_from_bytes(tensors_to_bytes({"a": bad}), "here", {"a": (1,)})


TENSORS = tensors_from_bytes(weights_to_bytes(WEIGHTS, "int8"), "here")
HOSTILE = [
    *({"a.scale": np.array([1, bad], np.float32)} for bad in (np.nan, np.inf, -np.inf, 0, -0.0, -1, 3e38)),
    {"a.scale": np.ones(3, np.float32)},
    {"a.scale": np.ones((2, 1), np.float32)},
    {"a.scale": np.ones(2, np.float16)},
    {"a.scale": np.ones(2, np.float64)},
    {"a.scale": np.ones(0, np.float32)},
    {"a": np.full((2, 3), -128, np.int8)},
    {"a": TENSORS["a"].astype(np.uint8)},
    {"a": TENSORS["a"].astype(np.float32)},
    {"a": TENSORS["a"].T.copy()},
    {"b": np.ones(2, np.float16)},
    {"b": np.ones(2, np.int8)},
    {"b.scale": np.ones(2, np.float32)},
    {"a.scale.scale": np.ones(2, np.float32)},
]


@pytest.mark.parametrize("changes", HOSTILE, ids=[re.sub(r"\s+", "", str(changes)) for changes in HOSTILE])
def test_hostile_tensors_are_refused(changes):
    data = tensors_to_bytes({**TENSORS, **changes})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError) as error:
            weights_from_bytes(data, "here", SHAPES, "int8")
    assert "\n" not in str(error.value)
    weights_from_bytes(tensors_to_bytes(TENSORS), "here", SHAPES, "int8")


@pytest.mark.parametrize("gone", ["a", "a.scale", "b"])
def test_missing_tensors_are_refused(gone):
    rest = {name: array for name, array in TENSORS.items() if name != gone}
    with pytest.raises(DataError, match="config"):
        weights_from_bytes(tensors_to_bytes(rest), "here", SHAPES, "int8")


def test_weights_too_large_for_float16_are_refused():
    with pytest.raises(DataError, match="int8"):
        weights_to_bytes({"a": np.full((1, 1), 70000, np.float32)}, "f16")
    weights_to_bytes({"a": np.full((1, 1), 65504, np.float32)}, "f16")
