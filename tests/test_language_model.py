import dataclasses
import itertools
import subprocess
import sys

import numpy as np
import pytest
from conftest import environment, needs_native

import charlm
from charlm.config import SamplingConfig
from charlm.corpus.prepared import open_corpus
from charlm.errors import DataError, UsageError


@pytest.fixture(scope="module")
def model(trained_run):
    return charlm.load(trained_run, device="cpu", threads=1)


def test_it_generates_words_of_the_corpus(model, text):
    written = model.generate("the cat ", 300, temperature=0.5, seed=1)
    words = set(written.split()[1:-1])
    assert len(written) == 300
    assert len(words & set(text.split())) > 0.8 * len(words)


def test_generate_is_a_fold_over_stream(model):
    for stop in (None, "cat", "sat on"):
        pieces = list(model.stream("the ", 200, seed=4, stop=stop))
        assert "".join(pieces) == model.generate("the ", 200, seed=4, stop=stop)


def test_same_seed_same_text(model):
    assert model.generate("a", 80, seed=1) == model.generate("a", 80, seed=1)
    assert model.generate("a", 80, seed=1) != model.generate("a", 80, seed=2)
    assert model.generate("a", 80) != model.generate("a", 80)


def test_a_shorter_text_is_the_beginning_of_a_longer_one(model):
    assert model.generate("a", 200, seed=1)[:50] == model.generate("a", 50, seed=1)


def test_samples_are_reproducible_and_the_first_is_the_stream(model):
    config = SamplingConfig(0.8)
    many = list(model.samples(70, "the ", 40, config, seed=3))
    assert len(set(many)) > 60
    assert many[0] == "".join(model.stream("the ", 40, config, seed=3))
    assert many[:5] == list(model.samples(5, "the ", 40, config, seed=3))


def test_stop_ends_the_text_before_it(model):
    free = model.generate("the ", 400, seed=8)
    for stop in ("at", "cat", free[50:60]):
        cut = model.generate("the ", 400, seed=8, stop=stop)
        assert cut == free[: free.index(stop)]


def test_greedy_is_deterministic(model):
    assert model.generate("the c", 60, temperature=0) == model.generate("the c", 60, temperature=0, seed=99)


@pytest.mark.parametrize("prompt", ["", "x" * 5000, "日本 \U0001f600 ÿ", "\0\u2581", "\n\n", "naïve"])
def test_any_prompt_works(model, prompt):
    assert len(model.generate(prompt, 20, seed=1)) == 20


def test_a_prompt_in_pieces_is_the_same_prompt(model):
    prompt = "the cat sat on a mat " * 20
    pieces = (prompt[i : i + 7] for i in range(0, len(prompt), 7))
    assert model.generate(pieces, 50, seed=1) == model.generate(prompt, 50, seed=1)


def test_only_characters_of_the_corpus_are_generated(model, text):
    hot = "".join(model.samples(20, "", 200, SamplingConfig(temperature=5.0), seed=1))
    assert set(hot) <= set(text)


def test_invalid_generation_settings(model):
    for name, value in {"length": -1, "stop": "", "temperature": -1.0, "top_p": 2.0, "seed": -1}.items():
        with pytest.raises(UsageError, match=name.replace("_", ".")):
            model.generate("a", **{name: value})
    with pytest.raises(DataError):
        model.generate("\ud800", 5)
    assert model.generate("a", 0) == ""


def test_invalid_arguments_are_refused_at_once(model, text):
    for window in (0, -3):
        with pytest.raises(UsageError, match="window must be"):
            model.evaluate(text, window=window)
    with pytest.raises(UsageError, match="in a list"):
        model.score_documents("abc")
    with pytest.raises(UsageError, match="count must be"):
        model.samples(-1)
    with pytest.raises(UsageError, match="alternatives must be"):
        model.surprisals("abc", -1)
    with pytest.raises(UsageError, match="length must be"):
        model.stream("a", -1)
    with pytest.raises(UsageError, match="no members"):
        model.evaluate_members([])
    assert list(model.samples(0)) == []


def test_the_defaults_are_those_of_the_command(model):
    expected = model.generate("the ", 60, temperature=0.8, seed=1)
    assert model.generate("the ", 60, seed=1) == "".join(model.stream("the ", 60, seed=1)) == expected
    assert next(model.samples(1, "the ", 60, seed=1)) == expected


def test_representations_are_short(model, text):
    fresh = charlm.load(model.checkpoint.path, device="cpu", threads=1)
    assert repr(fresh) == (
        f"LanguageModel({str(model.checkpoint.path)!r}, step {model.checkpoint.step}, "
        f"{model.config.parameter_count():,} parameters, char tokenizer)"
    )
    assert fresh.evaluate(text[:50]).characters == 50
    assert f"evaluation: {fresh.engine.name})" in repr(fresh)
    assert repr(charlm.LanguageModel.ensemble([fresh, fresh])).startswith("LanguageModel.ensemble([LanguageModel(")
    evaluation = model.evaluate(text[:2000])
    assert repr(evaluation) == (
        f"Evaluation({evaluation.nats_per_char:.4f} ± {evaluation.standard_error:.4f} nats/char, "
        f"{evaluation.bits_per_char:.4f} bits/char, perplexity {evaluation.perplexity:.4f}, 2,000 characters)"
    )


def test_scores_sum_to_the_evaluation(model, text):
    sample = text[:2000]
    scores = model.score(sample)
    evaluation = model.evaluate(sample)
    assert len(scores) == len(sample)
    assert -scores.sum() == pytest.approx(evaluation.nats, rel=1e-6)
    assert (scores <= 0).all()
    assert model.score("").shape == (0,)


def test_a_character_of_several_byte_pieces_has_one_score(model):
    scores = model.score("the 中 cat")
    assert len(scores) == 9
    assert scores[4] == scores.min()


def test_text_of_the_corpus_is_more_likely_than_noise(model, text):
    noise = "".join(np.random.default_rng(0).permutation(list(text[:1000])))
    assert model.evaluate(text[:1000]).nats_per_char < model.evaluate(noise).nats_per_char - 1


def losses_with_unknown(text_file, text, out, monkeypatch, foreign_rate, rare_count):
    """The losses of a known and of an unknown character in text that mixes them, for a preparation of the corpus."""
    monkeypatch.setattr("charlm.corpus.byte_fallback.UNKNOWN_INTERVAL", foreign_rate)
    monkeypatch.setattr("charlm.corpus.byte_fallback.RARE_COUNT", rare_count)
    shape = {"hidden": 48, "layers": 1, "batch": 8, "bptt": 32, "lr": 1e-2, "threads": 1, "device": "cpu"}
    way = {"optimizer": "adam", "dropout_input": 0.1, "dropout_output": 0.4}
    run = charlm.train(text_file, out=out, steps=400, eval_every=200, precision="fp32", **shape, **way).run
    clean = text[:3000].replace("ï", "i")
    mixed = "".join(c + ("ж" if i % 50 == 25 else "") for i, c in enumerate(clean))
    evaluation = charlm.load(run, device="cpu").evaluate(mixed)
    assert evaluation.unknown_characters == 60
    return evaluation.nats_per_known_char, evaluation.unknown_nats / 60


def test_byte_fallback_in_training_teaches_unknown_characters(text_file, text, tmp_path, monkeypatch):
    """The rate is raised, because the text is short: 20,000 characters would have two unknown characters."""
    known, unknown = losses_with_unknown(text_file, text, tmp_path / "with", monkeypatch, 200, 20)
    known_without, unknown_without = losses_with_unknown(text_file, text, tmp_path / "without", monkeypatch, 10**18, 0)
    assert known < known_without
    assert unknown < unknown_without - 3


def test_torch_is_not_needed_to_import_the_library():
    code = "import sys, charlm, charlm.language_model, charlm.generation.streams, charlm.evaluation.comparison; " \
           "import charlm.evaluation.scoring, charlm.corpus.preparation, charlm.checkpoint.run_folder; " \
           "import charlm.cli.app; sys.exit('torch' in sys.modules)"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


WITHOUT_TORCH = """
import sys, charlm
model = charlm.load(sys.argv[1], device="cpu")
text = model.generate("the ", 300, seed=1) + "".join(model.samples(3, "the ", 20, seed=1))
assert len(text) == 360 and model.evaluate(text).characters == 360 and len(model.score(text)) == 360
model.describe()
sys.exit("torch" in sys.modules)
"""


@needs_native
def test_torch_is_not_needed_to_generate_evaluate_and_score(trained_run):
    code = [sys.executable, "-c", WITHOUT_TORCH, str(trained_run)]
    assert subprocess.run(code, check=False).returncode == 0


@needs_native
def test_it_generates_in_the_precision_measured_for_the_checkpoint(trained_run):
    model = charlm.load(trained_run, device="cpu", threads=1)
    assert abs(model.checkpoint.config["precision_costs"]["int8"]) <= 1e-3
    assert "int8" in model.generation_engine.name
    assert "fp32" in model.engine.name
    assert "bf16" in charlm.load(trained_run, device="cpu", precision="bf16").generation_engine.name


@needs_native
@pytest.mark.parametrize("costs", [None, [], {"int8": "0"}, {"int8": True}, {"int8": 1.0}])
def test_invalid_precision_costs_are_ignored(model, costs):
    checkpoint = dataclasses.replace(
        model.checkpoint, config={**model.checkpoint.config, "precision_costs": costs},
        files={**model.checkpoint.files},
    )  # fmt: skip
    assert "fp32" in charlm.LanguageModel.from_checkpoint(checkpoint, "cpu").generation_engine.name


def test_public_names():
    assert charlm.load is not None
    assert charlm.train is not None
    with pytest.raises(AttributeError):
        charlm.nonsense  # noqa: B018  # looking it up is the test


def test_nothing_prints(model, capfd):
    model.generate("a", 20)
    model.evaluate("some text")
    assert capfd.readouterr() == ("", "")


def test_describe(model):
    facts = model.describe()
    assert facts["model"]["layers"] == 1
    assert facts["corpus"]["name"] == "salad"
    assert facts["engine"] == model.generation_engine.name


# ---------------------------------------------------------------------------------------------------- documents


@pytest.fixture(scope="module")
def document_model(document_run):
    return charlm.load(document_run, device="cpu", threads=1)


def test_documents_end(document_model, lines_file):
    documents = list(document_model.samples(200, seed=1, length=2000))
    assert len(documents) == 200
    assert all("\n" not in document and len(document) < 2000 for document in documents)
    mean = len(lines_file.read_text()) / 400
    assert 0.5 * mean < np.mean([len(document) for document in documents]) < 2 * mean


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_a_document_does_not_depend_on_the_others(document_run, monkeypatch, engine):
    with environment(CHARLM_ENGINE=None if engine == "native" else "torch"):
        model = charlm.load(document_run, device="cpu", precision="fp32", threads=1)
        whole = list(model.samples(12, "the", 60, seed=5))
        assert "".join(model.stream("the", 60, seed=5)) == whole[0]
        monkeypatch.setattr("charlm.generation.texts._MAX_PARALLEL_SAMPLES", 3)
        assert list(model.samples(12, "the", 60, seed=5)) == whole
        assert list(itertools.islice(model.samples(None, "the", 60, seed=5), 12)) == whole
        assert min(map(len, whole)) < 20 < max(map(len, whole))  # rows end at different times


def test_characters_are_sampled_with_their_probabilities(document_model):
    """The frequencies of first characters in many documents are their probabilities."""
    (empty,) = document_model.score_documents([""])
    (first, *_) = document_model.surprisals("a")
    likely = dict(first.alternatives)
    written = list(document_model.samples(3000, length=1, config=SamplingConfig(), seed=3))
    shares = [sum(document[:1] == c for document in written) / 3000 for c in "ts"]
    for share, character in zip(shares, "ts", strict=True):
        if character in likely:
            assert share == pytest.approx(likely[character], abs=0.03)
    assert np.exp(-empty.nats) < 0.01


def test_evaluate_splits_documents_as_training_did(document_model):
    together = document_model.evaluate("the cat sat\n\non a mat\n")
    scores = list(document_model.score_documents(["the cat sat", "on a mat"]))
    assert together.documents == 2
    assert together.nats == pytest.approx(sum(scored.nats for scored in scores), rel=1e-5)
    assert together.characters == len("the cat sat") + len("on a mat") + 2
    with pytest.raises(UsageError, match="initial state anyway"):
        document_model.evaluate("the cat", window=3)
    per_character = document_model.score("the cat sat")
    assert len(per_character) == 11
    assert -per_character.sum() < scores[0].nats


def test_fingerprints_identify_training_documents(document_model, document_run):
    corpus = open_corpus(document_run / "corpus")
    ids, ends = corpus.ids("train"), corpus.ends("train")
    training_fingerprints = set(corpus.fingerprints().tolist())
    (first,) = ends.read(0, 1)
    assert document_model.fingerprint("a line that is not in the training text") not in training_fingerprints
    document = corpus.tokenizer.decode(ids.read(0, int(first)))
    assert document_model.fingerprint(document) in training_fingerprints or "\ufffd" in document


def test_generate_names_the_keyword_of_a_wrong_setting(trained_run):
    with pytest.raises(UsageError, match=r"^top_p must be"):
        charlm.load(trained_run, device="cpu").generate(top_p=2.0)
