import dataclasses
import itertools
import math
import re

import pytest

from charlm.config import ModelConfig
from charlm.corpus.prepared import SplitSize
from charlm.errors import UsageError
from charlm.training.budget import EvaluationSpeed, TrainingSpeed
from charlm.training.options import SIZES, TrainingOptions
from charlm.training.recipe import resolve, validate
from charlm.training.regularization import LEARNING_RATES


class Machine:
    """A speedometer for a machine that is ``factor`` times as fast as two cores with AVX-512.

    ``measured`` are the models, batches and optimizers that were measured, ``evaluated`` the models.
    """

    def __init__(self, factor=1.0):
        self.factor, self.measured, self.evaluated = factor, [], []

    def training(self, model, config):
        self.measured.append((model, config))
        return TrainingSpeed(1e-3 / self.factor, self._seconds_per_id(model))

    def evaluation(self, model, config):
        self.evaluated.append(model)
        return EvaluationSpeed(self._seconds_per_id(model) / 3, self._seconds_per_id(model))

    def _seconds_per_id(self, model):
        return (model.parameter_count() / 1.2e11 + 3e-6) / self.factor


def sizes(characters):
    return SplitSize(characters, characters, characters)


def chosen(characters, device="cpu", precision="fp32", factor=1.0, machine=None, **options):
    machine = machine or Machine(factor)
    where = {"device": device, "precision": precision, "speedometer": machine}
    return resolve(TrainingOptions(**options), sizes(characters), sizes(characters // 20), 300, **where)


def test_automatic_choices_grow_with_the_text():
    counts = [chosen(10**power).model.parameter_count() for power in range(3, 9)]
    assert counts == sorted(counts)
    assert chosen(10**6, "cuda").model.parameter_count() >= chosen(10**6).model.parameter_count()
    assert chosen(1000).training.batch < 32


def regularization(recipe):
    return recipe.training.weight_decay, recipe.model.dropout_output


def test_longer_trainings_have_lower_learning_rates_and_more_regularization():
    budgets = [
        chosen(10**6, time=time, size="medium", optimizer="adamw") for time in ("30s", "2m", "10m", "1h", "100h")
    ]
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
    budget = chosen(10**6, optimizer="adamw", **{name: value})
    epochs = value * 4096 / 10**6 if name == "steps" else value
    assert budget.training.weight_decay == pytest.approx(0.04 * epochs, rel=0.05)


def test_chunks_are_shorter_if_the_time_allows_few_steps():
    lengths = [chosen(10**6, time=time, size="medium").training.bptt for time in ("2s", "30s", "2m", "10m")]
    assert lengths == [16, 64, 128, 128]
    short = chosen(10**6, time="2s", size="medium")
    assert any("--bptt 16" in reason for reason in short.reasons)
    assert short.training.batch == 32
    assert [chosen(10**6, epochs=epochs).training.bptt for epochs in (10, 1)] == [128, 64]


def test_warm_up_is_a_fifth_of_a_short_training_whichever_option_limits_it():
    assert chosen(20_000, epochs=2).training.warmup < 10
    assert chosen(10**6, steps=50).training.warmup == 10
    assert chosen(10**6, steps=10**5).training.warmup == 100
    assert chosen(10**6, time="5s", size="medium").training.warmup_share == pytest.approx(0.2, abs=0.01)


def test_a_text_that_is_read_often_is_learned_by_several_generations():
    """Each is like a training of its own length."""
    one, three = chosen(10**6, steps=2_500), chosen(10**6, steps=7_500)
    assert (one.training.generations, three.training.generations) == (1, 3)
    assert dataclasses.replace(three.training, steps=2_500, generations=1, soft_weight=0.0) == one.training
    assert three.model == one.model
    assert three.training.soft_weight > 0
    assert "--generations 3 for about 31 epochs" in three.reasons
    assert chosen(10**8, steps=7_500).training.generations == 1
    for options in ({"characters": 10**5}, {"characters": 10**6, "layers": 1}):  # more dropout instead
        alone = chosen(steps=7_500, **options)
        assert alone.training.generations == 1
        assert alone.model.dropout_output > three.model.dropout_output
    assert chosen(10**6).training.generations == 1  # without a limit
    assert chosen(10**6, steps=7_500, generations=2).training.generations == 2


def test_a_model_with_a_teacher_or_other_weights_has_no_generations():
    architecture = ModelConfig(300, 1, 32, 32)
    for how in ({"has_teacher": True}, {"architecture": architecture}):
        where = {"device": "cpu", "precision": "fp32", **how}
        options = TrainingOptions(steps=7_500)
        training = resolve(options, sizes(10**6), sizes(10**5), 300, **where).training
        assert training.generations == 1
        assert (training.soft_weight > 0) == ("has_teacher" in how)
        with pytest.raises(UsageError, match="--generations"):
            resolve(TrainingOptions(steps=7_500, generations=2), sizes(10**6), sizes(10**5), 300, **where)


def test_warm_up_is_a_share_of_a_time_and_steps_where_steps_are_given():
    timed = chosen(10**6, time="10m", size="medium", warmup=None).training
    assert timed.warmup == 0
    steps = 600 * 0.9 * timed.ids_per_second / (timed.batch * timed.bptt) / timed.generations
    assert timed.warmup_share * steps == pytest.approx(100, rel=0.05)
    given = chosen(10**6, time="10m", size="medium", warmup=70).training
    assert (given.warmup, given.warmup_share) == (70, 0.0)
    assert chosen(10**6, steps=1000).training.warmup_share == 0.0


def test_chunks_are_not_shortened_if_bptt_or_steps_are_given_or_for_documents():
    assert chosen(10**6, time="2s", size="medium", bptt=128).training.bptt == 128
    assert chosen(10**6, steps=50, size="medium").training.bptt == 128
    documents = resolve(
        TrainingOptions(time="2s", size="medium"), SplitSize(10**6, 10**6, 10**6, 10**5), sizes(1000), 300,
        device="cpu", precision="fp32", speedometer=Machine(),
    )  # fmt: skip
    assert documents.training.bptt == 128


def test_a_large_vocabulary_has_a_long_memory_of_the_size_of_gradients():
    sizes_ = sizes(10**6), sizes(50_000)
    beta2 = [
        resolve(TrainingOptions(**options), *sizes_, vocabulary, device="cpu", precision="fp32").training.beta2
        for vocabulary, options in ((300, {}), (5000, {}), (5000, {"beta2": 0.95}))
    ]
    assert beta2[0] < beta2[1]
    assert beta2[2] == 0.95


def test_a_gpu_that_reads_more_in_a_step_has_as_much_dropout_for_the_same_epochs():
    budgets = [chosen(10**6, device, epochs=30, size="large") for device in ("cpu", "cuda")]
    assert budgets[0].training.batch < budgets[1].training.batch
    assert budgets[0].model.dropout_output == budgets[1].model.dropout_output > 0


def test_two_layers_need_time_and_have_dropout_between_them():
    assert [chosen(10**6, time=time).model.layers for time in ("2m", "60m")] == [1, 2]
    deep = chosen(10**6, time="60m", generations=1).model
    assert 0 < deep.dropout_hidden < deep.dropout_output
    adamw = chosen(10**6, time="60m", optimizer="adamw", generations=1).model
    assert adamw.dropout_hidden == adamw.dropout_output > 0
    assert chosen(10**6, time="60m", layers=1).model.dropout_hidden == 0


def test_one_layer_has_no_dropout_between_layers():
    shallow = chosen(10**6, steps=100, layers=1, dropout_hidden=0.3)
    assert shallow.model.dropout_hidden == 0
    assert any(reason.startswith("no --dropout-hidden") for reason in shallow.reasons)
    assert chosen(10**6, steps=100, layers=2, dropout_hidden=0.3).model.dropout_hidden == 0.3


def test_the_speed_of_a_machine_changes_the_recipe_only_for_a_time():
    for limit in ({"steps": 900}, {"epochs": 3}, {}):
        fast, slow = Machine(10.0), Machine(0.01)
        assert chosen(10**6, machine=fast, **limit) == chosen(10**6, machine=slow, **limit)
        assert not fast.measured + fast.evaluated + slow.measured + slow.evaluated
    recipes = [chosen(10**6, time="2m", size="medium", factor=factor) for factor in (0.1, 0.4, 1.0)]
    decays = [recipe.training.weight_decay for recipe in recipes]
    assert decays[0] < decays[1] < decays[2]


def test_models_are_measured_as_they_will_train():
    """With the optimizer, precision, batch and dropouts that they will have, and only those that may be chosen."""
    machine = Machine()
    recipe = chosen(10**6, time="2m", machine=machine, optimizer="sgd", weight_drop=0.3, batch=20, threads=1)
    model, config = machine.measured[-1]
    assert (config.optimizer, config.batch, config.threads, config.average) == ("sgd", 20, 1, "ema")
    assert (model.hidden, model.layers, model.weight_drop) == (512, 1, 0.3)
    assert {model.layers for model, _ in machine.measured} == {1, 2}  # medium and large
    assert machine.evaluated == [ModelConfig(300, 1, 512, 512)]
    default = Machine()
    chosen(10**6, time="2m", machine=default, size="small")
    assert {(model.hidden, config.optimizer) for model, config in default.measured} == {
        (256, chosen(10**6, steps=9).training.optimizer)
    }
    assert recipe.training.ids_per_second == pytest.approx(
        TrainingSpeed(1e-3, machine._seconds_per_id(model)).ids_per_second(20 * recipe.training.bptt)
    )


def test_speeds_that_differ_little_give_the_same_recipe():
    """A speed is rounded to a power of the square root of 2, so the recipes change about twice in a factor of 2."""
    recipes = [chosen(10**6, time="2m", size="medium", factor=2 ** (step / 40)).training for step in range(40)]
    changes = sum(a != b for a, b in itertools.pairwise(recipes))
    assert 1 <= changes <= 5
    assert {recipe.ids_per_second**2 == 2.0 ** round(math.log2(recipe.ids_per_second**2)) for recipe in recipes}


def test_a_slow_machine_evaluates_less_text_less_often_and_in_a_small_share_of_the_time():
    recipes = [chosen(4 * 10**6, time="20s", size="large", factor=factor) for factor in (1.0, 0.1, 0.02)]
    ids = [recipe.training.validation_ids for recipe in recipes]
    assert ids == sorted(ids, reverse=True)
    assert ids[0] > ids[2] == 1024
    for recipe in recipes[:2]:
        assert 0 < recipe.evaluation_seconds <= 0.05 * 20 * 2**0.25
    for recipe in recipes:
        training = recipe.training
        interval = training.eval_every * training.batch * training.bptt / training.ids_per_second
        assert training.eval_every == 100 or interval == pytest.approx(12 * recipe.evaluation_seconds, rel=0.05)
    assert chosen(4 * 10**6, time="20s", size="large", factor=0.02, eval_every=7).training.eval_every == 7
    assert chosen(10**6, steps=50, size="large").training.validation_ids == 1 << 17
    assert chosen(10**6, time="10m", size="medium").training.validation_ids == 1 << 17


def test_a_slow_machine_takes_small_steps():
    slow = chosen(10**6, time="20s", size="large", factor=0.01)
    assert slow.training.bptt == 8
    assert chosen(10**6, epochs=1, size="large", factor=0.01).training.bptt >= 32
    documents = SplitSize(10**6, 10**6, 10**6, 10**5)
    where = {"device": "cpu", "precision": "fp32", "speedometer": Machine(0.01)}
    few = resolve(TrainingOptions(time="20s", size="large"), documents, sizes(1000), 300, **where)
    assert (few.training.batch, few.training.bptt) == (4, 128)
    assert any(reason.startswith("--batch 4") for reason in few.reasons)
    given = resolve(TrainingOptions(time="20s", size="large", batch=16), documents, sizes(1000), 300, **where)
    assert given.training.batch == 16


def test_a_device_with_a_number_is_treated_like_one_without():
    assert chosen(10**6, "cpu:0").training.batch == chosen(10**6, "cpu").training.batch


def test_only_muon_and_adamw_have_weight_decay():
    assert chosen(10**6).training.optimizer == "muon"
    assert chosen(10**6, optimizer="adamw").training.weight_decay > 0
    assert [chosen(10**6, optimizer=name).training.weight_decay for name in ("adam", "sgd", "rmsprop")] == [0, 0, 0]


def test_muon_s_learning_rate_is_lower_where_a_text_is_read_only_a_few_times():
    rates = [chosen(characters, steps=1000, size="medium").training.lr for characters in (10**8, 2 * 10**6, 10**6)]
    assert rates == sorted(rates)
    assert rates[0] < rates[-1] == LEARNING_RATES["muon"]
    few_steps, adamw = (chosen(10**8, size="medium", **options).training.lr for options in (
        {"steps": 300}, {"steps": 1000, "optimizer": "adamw"},
    ))  # fmt: skip
    assert adamw == LEARNING_RATES["adamw"]
    assert few_steps == pytest.approx(0.57 * LEARNING_RATES["muon"], rel=0.05)
    decays = [chosen(characters, steps=1000).training.weight_decay for characters in (10**8, 2 * 10**6, 10**6)]
    assert decays == [0.02, 0.1, 0.3]


def test_muon_has_less_momentum_than_sgd():
    assert [chosen(10**6, optimizer=name).training.momentum for name in ("muon", "sgd")] == [0.8, 0.9]


def test_reasons_name_what_was_chosen_and_not_what_was_given():
    reasons = chosen(10**6, time="2m", dropout_output=0.3, size="medium").reasons
    (reason,) = reasons
    assert "--lr 0.02" in reason
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
        ({"time": "soon"}, "90s, 10m, 2h or 1h30m"),
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
            TrainingOptions(**options), corpus, corpus, 300, device="cpu", precision="fp32", speedometer=Machine(),
            architecture=architecture,
        )  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [{}, {"embedding": 256}, {"layers": 1}, {"hidden": 40}, {"schedule": "cosine", "steps": 9}, {"state_reset": 0.0}],
)
def test_what_depends_on_the_corpus_is_not_refused_without_one(options):
    validate(TrainingOptions(**options), documents=True)


def test_without_validation_text_a_training_is_one_of_30_epochs():
    where = {"device": "cpu", "precision": "fp32"}
    for text in (sizes(20_000), sizes(2_000_000), SplitSize(200_000, 200_000, 200_000, documents=9_000)):
        implied = resolve(TrainingOptions(), text, sizes(0), 300, **where)
        assert implied.training.epochs == 30
        assert any("--epochs 30" in reason for reason in implied.reasons)
        given = resolve(TrainingOptions(epochs=30), text, sizes(0), 300, **where)
        assert (given.model, given.training) == (implied.model, implied.training)
    for options in ({"steps": 9}, {"epochs": 3}):
        assert resolve(TrainingOptions(**options), sizes(20_000), sizes(0), 300, **where).training.epochs != 30
    assert resolve(TrainingOptions(), sizes(20_000), sizes(1), 300, **where).training.epochs is None
