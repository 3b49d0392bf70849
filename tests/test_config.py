import dataclasses
import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.config import (
    MAX_JSON_BYTES,
    ModelConfig,
    SamplingConfig,
    TrainingConfig,
    dump_json,
    from_dict,
    parse_duration,
    parse_json,
    to_dict,
)
from charlm.errors import DataError, UsageError

EXAMPLES = [
    ModelConfig(300, 2, 512, 256, dropout_output=0.3),
    TrainingConfig(clip=math.inf, seconds=120.0, device="cuda:1"),
    SamplingConfig(0.0, 5, 0.9, 0.05),
]


@pytest.mark.parametrize("config", EXAMPLES, ids=lambda c: type(c).__name__)
def test_configs_are_restored_from_json(config):
    assert from_dict(type(config), parse_json(dump_json(to_dict(config)), "here"), "here") == config


@pytest.mark.parametrize("config", EXAMPLES, ids=lambda c: type(c).__name__)
def test_invalid_values_are_refused(config):
    values = to_dict(config)
    name = next(iter(values))
    for wrong in ({**values, "surprise": 1}, {**values, name: [1]}, {**values, name: {}}, [], None, "x"):
        with pytest.raises(DataError, match="here"):
            from_dict(type(config), wrong, "here")


def test_types_are_exact():
    values = to_dict(EXAMPLES[0])
    for wrong in ({"layers": True}, {"layers": 2.0}, {"layers": "2"}, {"hidden": 10**12}, {"dropout_output": 1.5}):
        with pytest.raises(DataError):
            from_dict(ModelConfig, {**values, **wrong}, "here")
    del values["layers"]
    with pytest.raises(DataError, match="lacks"):
        from_dict(ModelConfig, values, "here")


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b"\xff",
        b"",
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b" " * (MAX_JSON_BYTES + 1),
    ],
)
def test_hostile_json_is_refused(data):
    with pytest.raises(DataError, match="here"):
        parse_json(data, "here")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
    )
)
def test_json_is_restored(values):
    assert parse_json(dump_json(values), "here") == json.loads(json.dumps(values))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("2h", 7200),
        ("1h30m", 5400),
        ("0.5m", 30),
        ("2H", 7200),
        ("10min", 600),
        ("10 minutes", 600),
        ("1 hour 30 min", 5400),
        ("2d", 172_800),
        ("1d12h", 129_600),
        ("1.5 hours", 5400),
        ("1h 30s", 3630),
        (" 45 Sec ", 45),
        ("1000h", 3_600_000),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "-5m",
        "0s",
        "0h0m",
        "m",
        "inf",
        "nan",
        "5 m m",
        "1e9h",
        "5m5m",
        "30m1h",
        "1_0s",
        "1h30",
        "10mins5",
        "٣s",
        "9" * 400 + "h",
    ],
)
def test_invalid_durations(text):
    with pytest.raises(UsageError, match="write 90s"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["45", " 10 ", "1.5", "0"])
def test_a_duration_needs_a_unit(text):
    number = text.strip()
    with pytest.raises(UsageError, match=re.escape(f"--time {text!r} has no unit; write {number}s, {number}m or")):
        parse_duration(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimizer": "adagrad"}, {"schedule": "linear"}, {"schedule": "cosine"}, {"lr": 0.0}, {"lr": math.nan},
        {"clip": 0.0}, {"clip": math.nan}, {"batch": 0}, {"bptt": 0}, {"epochs": 2, "steps": 3}, {"steps": 0},
        {"seconds": -1.0}, {"eval_every": 0}, {"save_every": 0.0}, {"seed": -1}, {"threads": 0}, {"precision": "fp8"},
        {"state_reset": 1.0}, {"weight_decay": -0.1}, {"warmup": -1},
    ],
)  # fmt: skip
def test_invalid_training_configs_are_refused(wrong):
    with pytest.raises(UsageError, match="--"):
        TrainingConfig(**wrong)


@pytest.mark.parametrize(
    ("name", "values"),
    [("warmup_share", (1.0, -0.1)), ("validation_ids", (0,)), ("ids_per_second", (0.0, math.inf, math.nan))],
)
def test_invalid_values_of_what_is_no_option_are_refused(name, values):
    for value in values:
        with pytest.raises(UsageError, match=name):
            TrainingConfig(**{name: value})


def test_a_single_layer_has_one_width():
    with pytest.raises(UsageError, match="--hidden and --embedding"):
        ModelConfig(300, 1, 64, 32)
    assert ModelConfig(300, 3, 64, 32).layer_widths() == [(32, 64), (64, 64), (64, 32)]


def test_tying_saves_the_decoder():
    config = ModelConfig(300, 1, 64, 64)
    assert config.parameter_count() == 300 * 64 + 300 + 2 * 4 * 64 * 64 + 4 * 64
    assert config.saved_by_tying() == 300 * 64


def test_configurations_are_frozen():
    for config in EXAMPLES:
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.seed = 1
