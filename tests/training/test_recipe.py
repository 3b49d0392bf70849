import dataclasses

import pytest

from charlm.config import ModelConfig
from charlm.corpus.prepared import SplitSize
from charlm.training.recipe import LEARNING_RATES, SIZES, Request, resolve


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    """What a time budget is worth depends on the machine."""
    monkeypatch.setattr("charlm.training.budget.cores", lambda: 2)


def sizes(characters):
    return SplitSize(characters, characters, characters)


def chosen(characters, device="cpu", precision="fp32", instruction_set="avx512_bf16", **wishes):
    machine = {"device": device, "precision": precision, "instruction_set": instruction_set}
    return resolve(Request(**wishes), sizes(characters), sizes(characters // 20), 300, **machine)


def test_automatic_choices_grow_with_the_text():
    counts = [chosen(10**power).model.parameter_count() for power in range(3, 9)]
    assert counts == sorted(counts)
    assert chosen(10**6, "cuda").model.parameter_count() >= chosen(10**6).model.parameter_count()
    assert chosen(1000).training.batch < 32


def regularisation(recipe):
    return recipe.training.weight_decay, recipe.model.dropout_output


def test_the_longer_a_training_the_lower_its_rate_and_the_more_it_is_kept_from_learning_by_heart():
    budgets = [chosen(10**6, time=time, size="medium") for time in ("30s", "2m", "10m", "1h", "100h")]
    rates = [recipe.training.lr for recipe in budgets]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == LEARNING_RATES["adamw"] > rates[-1] > 0
    decays, dropouts = zip(*map(regularisation, budgets), strict=True)
    assert list(decays) == sorted(decays)
    assert list(dropouts) == sorted(dropouts)
    assert decays[0] < decays[-1] < 1
    assert 0 == dropouts[0] < dropouts[-1] < 1


def test_what_a_text_is_read_often_enough_for_depends_on_its_length():
    assert regularisation(chosen(10**8, time="10m")) < regularisation(chosen(10**6, time="10m"))


@pytest.mark.parametrize(("name", "value"), [("steps", 1000), ("epochs", 5)])
def test_passes_are_passes_however_they_are_said(name, value):
    """1,000 steps of 32 x 128 are 4.096 passes over a million characters, and so on."""
    budget = chosen(10**6, **{name: value})
    passes = value * 4096 / 10**6 if name == "steps" else value
    assert budget.training.weight_decay == pytest.approx(0.04 * passes, rel=0.05)


def test_where_a_time_allows_few_steps_chunks_are_shorter():
    lengths = [chosen(10**6, time=time, size="medium").training.bptt for time in ("2s", "30s", "2m", "10m")]
    assert lengths == [32, 64, 128, 128]
    short = chosen(10**6, time="2s", size="medium")
    assert any("--bptt 32" in reason for reason in short.reasons)
    assert short.training.batch == 32
    assert [chosen(10**6, epochs=epochs).training.bptt for epochs in (10, 1)] == [128, 64]


def test_a_warm_up_is_a_part_of_a_short_training_however_it_is_said():
    assert chosen(20_000, epochs=2).training.warmup < 10
    assert chosen(10**6, steps=50).training.warmup == 10
    assert chosen(10**6, time="60m").training.warmup == 100


def test_chunks_stay_where_they_were_said_and_in_trainings_by_steps_or_of_documents():
    assert chosen(10**6, time="2s", size="medium", bptt=128).training.bptt == 128
    assert chosen(10**6, steps=50, size="medium").training.bptt == 128
    documents = resolve(
        Request(time="2s", size="medium"), SplitSize(10**6, 10**6, 10**6, 10**5), sizes(1000), 300,
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


def test_fewer_threads_read_less():
    decays = [chosen(10**6, time="1m", threads=threads).training.weight_decay for threads in (1, 2, 99, None)]
    assert decays[0] < decays[1] == decays[2] == decays[3]


def test_a_slower_processor_reads_less_in_the_same_time():
    def decay(instruction_set, precision="fp32", **budget):
        return chosen(10**6, precision=precision, instruction_set=instruction_set, **budget).training.weight_decay

    assert decay("avx2", time="2m") < decay("avx512", time="2m") < decay("avx512_bf16", "bf16", time="2m")
    assert decay("amx", time="2m") < decay("amx", "bf16", time="2m") < decay("avx512_bf16", "bf16", time="2m")
    assert decay("", time="2m") <= decay("avx2", time="2m")
    assert decay("avx2", steps=900) == decay("avx512_bf16", "bf16", steps=900)


def test_a_numbered_device_is_its_kind():
    assert chosen(10**6, "cpu:0").training.batch == chosen(10**6, "cpu").training.batch


def test_weight_decay_is_adamws_alone():
    assert chosen(10**6).training.optimizer == "adamw"
    assert [chosen(10**6, optimizer=name).training.weight_decay for name in ("adam", "sgd", "rmsprop")] == [0, 0, 0]


def test_it_says_what_it_chose_and_nothing_that_was_said():
    said = chosen(10**6, time="2m", dropout_output=0.3, size="medium").reasons
    (reason,) = said
    assert "--lr 0.01" in reason
    assert "--weight-decay" in reason
    assert "passes over the text" in reason
    assert "dropout" not in reason
    silent = chosen(10**6, time="2m", dropout_output=0.3, size="medium", lr=0.1, weight_decay=0.1)
    assert silent.reasons == []
    assert (silent.model.dropout_output, silent.training.lr, silent.training.weight_decay) == (0.3, 0.1, 0.1)


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
