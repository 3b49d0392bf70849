import itertools
import json
import math
import shutil

import numpy as np
import pytest
from commands import charlm, one_line
from conftest import needs_native

import charlm as library
from charlm.config import ModelConfig
from charlm.engine import create_engine
from charlm.engine.ensemble import Ensemble, ensemble_losses
from charlm.errors import DataError, UsageError
from charlm.language_model import LanguageModel
from charlm.model.char_lm import CharLM

IDS_TB = np.random.default_rng(0).integers(30, size=(40, 3))
READ_TB, TARGETS_TB = IDS_TB[:-1], IDS_TB[1:]
SHAPES = ModelConfig(30, 1, 20, 20), ModelConfig(30, 2, 24, 12), ModelConfig(30, 3, 8, 8)


def make(config, seed):
    # Sharp predictions: for flat ones the mean of logits is close to the mean of probabilities.
    weights = {name: array * 3 for name, array in CharLM(config, seed=seed).weights().items()}
    return create_engine(config, weights, "cpu", "fp32", 1)


@pytest.fixture(scope="module")
def engines():
    return [make(config, seed) for seed, config in enumerate(SHAPES)]


def losses(engine):
    return engine.losses(READ_TB, TARGETS_TB, engine.initial_state(3))[0]


def softmax(logits):
    """In float64."""
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_an_ensemble_of_one_equals_its_member(engines):
    for engine in engines:
        assert np.array_equal(losses(Ensemble([engine])), losses(engine))
        logits, _ = Ensemble([engine]).forward(READ_TB, Ensemble([engine]).initial_state(3))
        expected, _ = engine.forward(READ_TB, engine.initial_state(3))
        np.testing.assert_allclose(np.exp(logits), softmax(expected), rtol=1e-5)


def test_the_same_model_twice_equals_that_model(engines):
    np.testing.assert_allclose(losses(Ensemble([engines[0]] * 2)), losses(engines[0]), rtol=1e-7)


def test_probabilities_are_averaged_not_logits(engines):
    ensemble = Ensemble(engines)
    logits, _ = ensemble.forward(READ_TB, ensemble.initial_state(3))
    each = [engine.forward(READ_TB, engine.initial_state(3))[0] for engine in engines]
    np.testing.assert_allclose(np.exp(logits), np.mean([softmax(one) for one in each], axis=0), rtol=1e-5)
    by_logits = softmax(np.mean(each, axis=0))
    assert np.abs(np.exp(logits) - by_logits).max() > 0.01  # so the line above can tell them apart


def test_losses_are_the_log_of_the_mean_probability(engines):
    expected = -np.log(np.mean([np.exp(-losses(engine).astype(np.float64)) for engine in engines], axis=0))
    np.testing.assert_allclose(losses(Ensemble(engines)), expected, rtol=1e-6)


def test_losses_are_the_cross_entropy_of_forward(engines):
    ensemble = Ensemble(engines)
    logits, _ = ensemble.forward(READ_TB, ensemble.initial_state(3))
    picked = np.take_along_axis(logits, TARGETS_TB[..., None], axis=2)[..., 0]
    np.testing.assert_allclose(losses(ensemble), -picked, rtol=1e-5, atol=1e-6)


def test_order_does_not_matter(engines):
    first = losses(Ensemble(engines))
    for order in itertools.permutations(engines):
        np.testing.assert_allclose(losses(Ensemble(order)), first, rtol=1e-6)


def test_the_loss_is_at_most_the_mean_of_the_members(engines):
    """Jensen's inequality, which holds for every single character."""
    mean = np.mean([losses(engine) for engine in engines], axis=0)
    assert (losses(Ensemble(engines)) <= mean + 1e-6).all()
    assert losses(Ensemble(engines)).mean() < mean.mean() - 0.01


def test_extreme_losses():
    found = ensemble_losses([np.float32([0.0, 2000.0, 5000.0]), np.float32([0.0, 0.0, 5000.0])])
    np.testing.assert_allclose(found, [0.0, math.log(2), 5000.0], atol=1e-12)


def test_step_equals_sequence(engines):
    ensemble = Ensemble(engines)
    whole, end = ensemble.forward(IDS_TB, ensemble.initial_state(3))
    state = ensemble.initial_state(3)
    for ids_B, expected in zip(IDS_TB, whole, strict=True):
        logits, state = ensemble.step(ids_B, state)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    after_steps, _ = ensemble.step(IDS_TB[0], state)
    after_sequence, _ = ensemble.step(IDS_TB[0], end)
    np.testing.assert_allclose(after_steps, after_sequence, rtol=1e-4, atol=1e-5)


def test_calls_do_not_modify_a_given_state(engines):
    ensemble = Ensemble(engines)
    _, state = ensemble.forward(READ_TB, ensemble.initial_state(3))
    first, _ = ensemble.step(IDS_TB[0], state)
    ensemble.losses(READ_TB, TARGETS_TB, state)
    assert np.array_equal(ensemble.step(IDS_TB[0], state)[0], first)


def test_streams_are_gathered_in_every_member(engines):
    ensemble = Ensemble(engines)
    _, three = ensemble.forward(READ_TB, ensemble.initial_state(3))
    _, one = ensemble.forward(READ_TB[:, :1], ensemble.initial_state(1))
    picked = ensemble.gather([(three, np.array([2, 1])), (one, np.array([0]))])
    found, _ = ensemble.step(np.array([4, 5, 6]), picked)
    expected, _ = ensemble.step(np.array([6, 5, 4]), three)
    np.testing.assert_allclose(found, expected[::-1], rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------------------------------- of checkpoints


@pytest.fixture(scope="module")
def models(trained_run, rival_run):
    return [library.load(run, device="cpu", threads=1) for run in (trained_run, rival_run)]


def test_scores_are_the_log_of_the_mean_probability(models, text):
    together = LanguageModel.ensemble(models).score(text[:500])
    # Only known characters, which have one id each: of several ids the mean is taken for each.
    known = np.array([not models[0].tokenizer.unknown(models[0].tokenizer.encode(c)).any() for c in text[:500]])
    expected = np.logaddexp(*(model.score(text[:500]) for model in models)) - math.log(2)
    np.testing.assert_allclose(together[known], expected[known], rtol=1e-5, atol=1e-6)
    assert known.sum() > 450


@pytest.mark.parametrize("window", [None, 64])
def test_members_are_evaluated_in_the_same_pass(models, text, window):
    ensemble = LanguageModel.ensemble(models)
    ids = ensemble.tokenizer.encode(text[:5000])
    whole, each = ensemble.evaluate_members(iter([ids[:700], ids[700:]]), window)
    assert whole.nats == pytest.approx(ensemble.evaluate_ids([ids], window).nats, rel=1e-6)
    assert [e.nats for e in each] == pytest.approx([m.evaluate_ids([ids], window).nats for m in models], rel=1e-6)
    assert whole.nats < sum(e.nats for e in each) / 2


def test_of_documents(document_run, rival_document_run):
    models = [library.load(run, device="cpu", threads=1) for run in (document_run, rival_document_run)]
    ensemble = LanguageModel.ensemble(models)
    ids = np.concatenate([np.append(ensemble.tokenizer.encode(d), ensemble.tokenizer.end_id) for d in ["the cat"] * 9])
    whole, each = ensemble.evaluate_members([ids])
    assert (whole.documents, each[1].documents) == (9, 9)
    assert whole.nats == pytest.approx(ensemble.evaluate_ids([ids]).nats, rel=1e-6)
    assert whole.standard_error < 1e-6
    (scored,) = ensemble.score_documents(["the cat"])
    assert scored.nats == pytest.approx(whole.nats_per_document, rel=1e-5)


def test_an_ensemble_generates(models):
    ensemble = LanguageModel.ensemble(models)
    written = ensemble.generate("the ", 80, seed=1, temperature=0.3)
    assert len(written) == 80
    assert written == ensemble.generate("the ", 80, seed=1, temperature=0.3)
    alone = LanguageModel.ensemble(models[:1]).generate("the ", 80, seed=1, temperature=0)
    assert alone == models[0].generate("the ", 80, seed=1, temperature=0)


def test_different_tokenizers_are_refused(models, document_run, text_file, lines_file, tmp_path):
    def refused(other, *words):
        with pytest.raises(DataError) as error:
            LanguageModel.ensemble([models[0], library.load(other, device="cpu")])
        assert all(word in str(error.value) for word in [*words, "tokenizer"])

    options = {"steps": 2, "size": "tiny", "batch": 2, "bptt": 16, "threads": 1, "device": "cpu", "precision": "fp32"}
    library.train(text_file, out=tmp_path / "byte", tokenizer="byte", **options)
    (tmp_path / "other.txt").write_text(text_file.read_text("utf-8").replace("c", "C"), "utf-8")
    library.train(tmp_path / "other.txt", out=tmp_path / "other", **options)
    library.train(lines_file, out=tmp_path / "shuffled", documents="lines", seed=5, **options)
    refused(tmp_path / "byte", "characters", "bytes")
    refused(document_run, "running text", "documents (lines)")
    refused(tmp_path / "other", "vocabularies differ")
    with pytest.raises(DataError, match="and seed"):  # with another seed the training split has other documents
        LanguageModel.ensemble([library.load(path, device="cpu") for path in (document_run, tmp_path / "shuffled")])
    with pytest.raises(UsageError):
        LanguageModel.ensemble([])


@needs_native
def test_torch_is_not_needed(models, text_file):
    import subprocess
    import sys

    code = """
import sys
import charlm
from charlm import LanguageModel
model = LanguageModel.ensemble([charlm.load(path, device="cpu") for path in sys.argv[1:]])
model.evaluate("the cat"), model.generate("the", 5)
sys.exit("torch" in sys.modules)
"""
    paths = [str(model.checkpoint.path) for model in models]
    assert subprocess.run([sys.executable, "-c", code, *paths], check=False).returncode == 0


# ---------------------------------------------------------------------------------------------------- charlm eval


def test_eval_of_several(trained_run, rival_run, text_file, tmp_path):
    def evaluated(*arguments):
        result = charlm("eval", "--json", *arguments, "--threads", "1", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    for where in ([], [text_file], ["--protocol", "crops", "--window", "32"]):
        both = evaluated(*where, "-c", trained_run, "-c", rival_run)
        alone = [evaluated(*where, "-c", run) for run in (trained_run, rival_run)]
        assert "members" not in alone[0]
        for member, one in zip(both["members"], alone, strict=True):
            assert (member["checkpoint"], member["nats_per_char"]) == (one["checkpoint"], one["nats_per_char"])
        assert both["nats_per_char"] < sum(one["nats_per_char"] for one in alone) / 2
        assert (both["characters"], both["corpus"]) == (alone[0]["characters"], alone[0]["corpus"])
    shown = charlm("eval", "-c", trained_run, "-c", rival_run, text_file).stdout.decode()
    assert "each model alone" in shown
    assert shown.count(str(rival_run)) == 2
    spread, losses = both["mean_of_members"], [one["nats_per_char"] for one in both["members"]]
    assert spread["nats_per_char"] == pytest.approx(np.mean(losses))
    assert spread["standard_deviation"] == pytest.approx(np.std(losses, ddof=1))
    low, high = spread["interval_95"]
    assert (high - low) / 2 == pytest.approx(12.706 * np.std(losses, ddof=1) / np.sqrt(2), rel=1e-4)  # two runs
    result = charlm("eval", *where, "-c", trained_run, "-c", rival_run)
    assert "the models differ in " in result.stderr.decode()
    shown = result.stdout.decode()
    for words in (f"{spread['nats_per_char']:.4f}", "their mean; for other seeds 95% interval", "standard deviation"):
        assert words in shown
    twice = evaluated("-c", trained_run, "-c", trained_run)
    assert twice["nats_per_char"] == pytest.approx(twice["members"][0]["nats_per_char"], rel=1e-12)


def test_members_of_other_texts_need_a_file(trained_run, rival_run, document_run, lines_file, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(next(rival_run.glob("step-*")), bare)
    message = one_line(charlm("eval", "-c", trained_run, "-c", bare))
    assert "has no corpus; name a text: charlm eval FILE" in message
    options = {"steps": 2, "size": "tiny", "batch": 2, "bptt": 16, "threads": 1, "device": "cpu", "precision": "fp32"}
    for seed in (5, 6):  # the same text and sizes, but the test split has other documents
        library.train(lines_file, out=tmp_path / f"{seed}", documents="lines", tokenizer="byte", seed=seed, **options)
    members = ["-c", tmp_path / "5", "-c", tmp_path / "6"]
    result = charlm("eval", *members)
    assert result.returncode == 2
    assert "not the same text with the same splits" in one_line(result)
    assert charlm("eval", lines_file, *members).returncode == 0
    result = charlm("eval", lines_file, "-c", document_run, "-c", trained_run)
    assert result.returncode == 65
    assert "cannot be averaged" in one_line(result)
