import dataclasses
import math
import re

import pytest

from charlm.config import ModelConfig
from charlm.corpus.prepared import SplitSize
from charlm.errors import UsageError
from charlm.training.options import TrainingOptions
from charlm.training.recipe import LEARNING_RATES, SIZES, resolve, validate


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    """The estimate for a time budget depends on the number of cores."""
    monkeypatch.setattr("charlm.training.budget.cores", lambda: 2)


def sizes(characters):
    return SplitSize(characters, characters, characters)


def chosen(characters, device="cpu", precision="fp32", instruction_set="avx512_bf16", **options):
    machine = {"device": device, "precision": precision, "instruction_set": instruction_set}
    return resolve(TrainingOptions(**options), sizes(characters), sizes(characters // 20), 300, **machine)


def test_automatic_choices_grow_with_the_text():
    counts = [chosen(10**power).model.parameter_count() for power in range(3, 9)]
    assert counts == sorted(counts)
    assert chosen(10**6, "cuda").model.parameter_count() >= chosen(10**6).model.parameter_count()
    assert chosen(1000).training.batch < 32


def regularization(recipe):
    return recipe.training.weight_decay, recipe.model.dropout_output


def test_longer_trainings_have_lower_learning_rates_and_more_regularization():
    budgets = [chosen(10**6, time=time, size="medium") for time in ("30s", "2m", "10m", "1h", "100h")]
    rates = [recipe.training.lr for recipe in budgets]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == LEARNING_RATES["adamw"] > rates[-1] > 0
    decays, dropouts = zip(*map(regularization, budgets), strict=True)
    assert list(decays) == sorted(decays)
    assert list(dropouts) == sorted(dropouts)
    assert decays[0] < decays[-1] < 1
    assert 0 == dropouts[0] < dropouts[-1] < 1


def test_a_shorter_text_gets_more_regularization_in_the_same_time():
    assert regularization(chosen(10**8, time="10m")) < regularization(chosen(10**6, time="10m"))


@pytest.mark.parametrize(("name", "value"), [("steps", 1000), ("epochs", 5)])
def test_steps_and_epochs_give_the_same_weight_decay_for_the_same_amount_of_text(name, value):
    """1,000 steps of 32 x 128 ids are 4.096 epochs of a million characters."""
    budget = chosen(10**6, **{name: value})
    epochs = value * 4096 / 10**6 if name == "steps" else value
    assert budget.training.weight_decay == pytest.approx(0.04 * epochs, rel=0.05)


def test_chunks_are_shorter_if_the_time_allows_few_steps():
    lengths = [chosen(10**6, time=time, size="medium").training.bptt for time in ("2s", "30s", "2m", "10m")]
    assert lengths == [32, 64, 128, 128]
    short = chosen(10**6, time="2s", size="medium")
    assert any("--bptt 32" in reason for reason in short.reasons)
    assert short.training.batch == 32
    assert [chosen(10**6, epochs=epochs).training.bptt for epochs in (10, 1)] == [128, 64]


def test_warm_up_is_a_fifth_of_a_short_training_whichever_option_limits_it():
    assert chosen(20_000, epochs=2).training.warmup < 10
    assert chosen(10**6, steps=50).training.warmup == 10
    assert chosen(10**6, time="60m").training.warmup == 100


def test_chunks_are_not_shortened_if_bptt_or_steps_are_given_or_for_documents():
    assert chosen(10**6, time="2s", size="medium", bptt=128).training.bptt == 128
    assert chosen(10**6, steps=50, size="medium").training.bptt == 128
    documents = resolve(
        TrainingOptions(time="2s", size="medium"), SplitSize(10**6, 10**6, 10**6, 10**5), sizes(1000), 300,
        device="cpu", precision="fp32", instruction_set="avx2",
    )  # fmt: skip
    assert documents.training.bptt == 128


def test_two_layers_need_time_and_have_dropout_between_them():
    assert [chosen(10**6, time=time).model.layers for time in ("2m", "60m")] == [1, 2]
    deep = chosen(10**6, time="60m").model
    assert deep.dropout_hidden == deep.dropout_output > 0
    assert chosen(10**6, time="60m", layers=1).model.dropout_hidden == 0


def test_one_layer_has_no_dropout_between_layers():
    shallow = chosen(10**6, steps=100, layers=1, dropout_hidden=0.3)
    assert shallow.model.dropout_hidden == 0
    assert any(reason.startswith("no --dropout-hidden") for reason in shallow.reasons)
    assert chosen(10**6, steps=100, layers=2, dropout_hidden=0.3).model.dropout_hidden == 0.3


def test_fewer_threads_are_estimated_to_be_slower():
    decays = [chosen(10**6, time="1m", threads=threads).training.weight_decay for threads in (1, 2, 99, None)]
    assert decays[0] < decays[1] == decays[2] == decays[3]


def test_slower_instruction_sets_are_estimated_to_be_slower():
    def decay(instruction_set, precision="fp32", **budget):
        return chosen(10**6, precision=precision, instruction_set=instruction_set, **budget).training.weight_decay

    assert decay("avx2", time="2m") < decay("avx512", time="2m") < decay("avx512_bf16", "bf16", time="2m")
    assert decay("amx", time="2m") < decay("amx", "bf16", time="2m") < decay("avx512_bf16", "bf16", time="2m")
    assert decay("", time="2m") <= decay("avx2", time="2m")
    assert decay("avx2", steps=900) == decay("avx512_bf16", "bf16", steps=900)


def test_a_device_with_a_number_is_treated_like_one_without():
    assert chosen(10**6, "cpu:0").training.batch == chosen(10**6, "cpu").training.batch


def test_only_muon_and_adamw_have_weight_decay():
    assert chosen(10**6).training.optimizer == "muon"
    assert chosen(10**6, optimizer="adamw").training.weight_decay > 0
    assert [chosen(10**6, optimizer=name).training.weight_decay for name in ("adam", "sgd", "rmsprop")] == [0, 0, 0]


def test_muon_has_less_momentum_for_few_steps():
    assert chosen(10**6, steps=300).training.momentum == 0.8
    assert chosen(10**6, steps=3000).training.momentum == 0.9
    assert chosen(10**6, steps=300, optimizer="sgd").training.momentum == 0.9


def test_reasons_name_what_was_chosen_and_not_what_was_given():
    reasons = chosen(10**6, time="2m", dropout_output=0.3, size="medium").reasons
    (reason,) = reasons
    assert "--lr 0.01" in reason
    assert "--weight-decay" in reason
    assert " epochs" in reason
    assert "dropout" not in reason
    given = chosen(10**6, time="2m", dropout_output=0.3, size="medium", lr=0.1, weight_decay=0.1)
    assert given.reasons == []
    assert (given.model.dropout_output, given.training.lr, given.training.weight_decay) == (0.3, 0.1, 0.1)


def test_every_option_can_be_given():
    shape = {"layers": 3, "hidden": 40, "embedding": 30, "dropout_output": 0.11, "weight_drop": 0.3}
    way = {"lr": 0.5, "optimizer": "sgd", "batch": 5, "bptt": 9, "eval_every": 3, "clip": 2.0, "seed": 9, "warmup": 4}
    given = {**shape, **way}
    recipe = chosen(10**6, **given)
    have = {**dataclasses.asdict(recipe.model), **dataclasses.asdict(recipe.training)}
    assert {name: have[name] for name in given} == given
    assert chosen(10**6, hidden=40).model.embedding == 40
    assert chosen(10**6, save_every="20s").training.save_every == 20
    for steps in ("20", 20):
        assert chosen(10**6, save_every=steps).training.save_every_unit == "steps"


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_valid_models(size):
    assert isinstance(chosen(10**6, size=size).model, ModelConfig)


WIDE = ModelConfig(300, 1, 512, 512)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": "vast"}, "--size must be one of tiny"),
        ({"layers": 1, "hidden": 8, "embedding": 4}, "--layers 2"),
        ({"layers": 1, "embedding": 7}, "--layers 2"),
        ({"size": "medium", "embedding": 7}, "--layers 2"),
        ({"layers": 0}, "--layers"),
        ({"dropout_hidden": 1.0}, "--dropout-hidden"),
        ({"weight_drop": math.nan}, "--weight-drop"),
        ({"lr": math.nan}, "--lr"),
        ({"steps": 1, "epochs": 1}, "only one of"),
        ({"steps": 1, "time": "1m"}, "only one of"),
        ({"time": "soon"}, "90s, 10m or 2h"),
        ({"save_every": 0}, "--save-every"),
        ({"save_every": "often"}, "--save-every"),
        ({"schedule": "cosine"}, "--schedule cosine needs"),
        ({"optimizer": "lion"}, "--optimizer"),
        ({"threads": 0}, "--threads"),
        ({"documents": True, "state_reset": 0.1}, "--state-reset"),
        ({"documents": True, "bptt_jitter": 0.1}, "--bptt-jitter"),
        ({"architecture": WIDE, "size": "small"}, "--init-from"),
        ({"architecture": WIDE, "hidden": 512}, "--init-from"),
    ],
)
def test_contradictions_are_found_without_a_corpus_and_with_one(options, words):
    options = dict(options)
    documents, architecture = options.pop("documents", False), options.pop("architecture", None)
    with pytest.raises(UsageError, match=re.escape(words)):
        validate(TrainingOptions(**options), documents=documents, architecture=architecture)
    corpus = SplitSize(10**9, 10**9, 10**9, 10**6 if documents else 0)
    with pytest.raises(UsageError, match=re.escape(words)):
        resolve(
            TrainingOptions(**options), corpus, corpus, 300, device="cpu", precision="fp32", instruction_set="",
            architecture=architecture,
        )  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [{}, {"embedding": 256}, {"layers": 1}, {"hidden": 40}, {"schedule": "cosine", "steps": 9}, {"state_reset": 0.0}],
)
def test_what_depends_on_the_corpus_is_not_refused_without_one(options):
    validate(TrainingOptions(**options), documents=True)
