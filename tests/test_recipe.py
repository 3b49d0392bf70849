import dataclasses

import pytest

from charlm.config import ModelConfig
from charlm.corpus import SplitSize
from charlm.recipe import SIZES, Request, resolve


def sizes(characters):
    return SplitSize(characters, characters, characters)


def chosen(characters, device="cpu", **wishes):
    return resolve(Request(**wishes), sizes(characters), sizes(characters // 20), 300, device=device, precision="fp32")


def test_automatic_choices_grow_with_the_text():
    counts = [chosen(10**power).model.parameter_count() for power in range(3, 9)]
    assert counts == sorted(counts)
    assert chosen(10**6, "cuda").model.parameter_count() >= chosen(10**6).model.parameter_count()
    assert chosen(10**5).model.dropout_output > chosen(10**8).model.dropout_output
    assert chosen(1000).training.batch < 32


def test_every_choice_can_be_overridden():
    shape = {"layers": 3, "hidden": 40, "embedding": 30, "dropout_output": 0.11, "weight_drop": 0.3}
    way = {"lr": 0.5, "optimizer": "sgd", "batch": 5, "bptt": 9, "eval_every": 3, "clip": 2.0, "seed": 9, "warmup": 4}
    said = {**shape, **way}
    recipe = chosen(10**6, **said)
    have = {**dataclasses.asdict(recipe.model), **dataclasses.asdict(recipe.training)}
    assert {name: have[name] for name in said} == said
    assert chosen(10**6, hidden=40).model.embedding == 40
    assert chosen(10**6, save_every="20s").training.save_every == 20
    assert chosen(10**6, save_every="20").training.save_every_unit == "steps"


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_valid_models(size):
    assert isinstance(chosen(10**6, size=size).model, ModelConfig)
