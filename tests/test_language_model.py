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


def test_it_writes_words_of_the_corpus(model, text):
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


def test_only_characters_of_the_corpus_come_out(model, text):
    hot = "".join(model.samples(20, "", 200, SamplingConfig(temperature=5.0), seed=1))
    assert set(hot) <= set(text)


def test_options_without_meaning(model):
    for wrong in ({"length": -1}, {"stop": ""}, {"temperature": -1.0}, {"top_p": 2.0}):
        with pytest.raises(UsageError, match="--"):
            model.generate("a", **wrong)
    with pytest.raises(DataError):
        model.generate("\ud800", 5)
    assert model.generate("a", 0) == ""


def test_scores_sum_to_the_evaluation(model, text):
    sample = text[:2000]
    scores = model.score(sample)
    evaluation = model.evaluate(sample)
    assert len(scores) == len(sample)
    assert -scores.sum() == pytest.approx(evaluation.nats, rel=1e-6)
    assert (scores <= 0).all()
    assert model.score("").shape == (0,)


def test_scores_of_characters_spelt_in_bytes_are_whole(model):
    scores = model.score("the 中 cat")
    assert len(scores) == 9
    assert scores[4] == scores.min()


def test_text_of_the_corpus_is_likelier_than_noise(model, text):
    noise = "".join(np.random.default_rng(0).permutation(list(text[:1000])))
    assert model.evaluate(text[:1000]).nats_per_char < model.evaluate(noise).nats_per_char - 1


def strewn(text_file, text, out, monkeypatch, foreign_rate, rare_count):
    """Loss of known characters and of a stranger, in text strewn with strangers, for a way to prepare the corpus."""
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


def test_spellings_teach_what_a_stranger_is(text_file, text, tmp_path, monkeypatch):
    """The rate is raised here, because the text of a test is short: 20,000 characters hold two strangers otherwise."""
    known, stranger = strewn(text_file, text, tmp_path / "with", monkeypatch, 200, 20)
    known_without, stranger_without = strewn(text_file, text, tmp_path / "without", monkeypatch, 10**18, 0)
    assert known < known_without
    assert stranger < stranger_without - 3


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
def test_torch_is_not_needed_to_write_evaluate_and_score(trained_run):
    code = [sys.executable, "-c", WITHOUT_TORCH, str(trained_run)]
    assert subprocess.run(code, check=False).returncode == 0


@needs_native
def test_it_writes_in_the_precision_that_the_checkpoint_proved(trained_run):
    model = charlm.load(trained_run, device="cpu", threads=1)
    assert abs(model.checkpoint.config["precision_costs"]["int8"]) <= 1e-3
    assert "int8" in model.writing_engine.name
    assert "fp32" in model.engine.name
    assert "bf16" in charlm.load(trained_run, device="cpu", precision="bf16").writing_engine.name


@needs_native
@pytest.mark.parametrize("costs", [None, [], {"int8": "nought"}, {"int8": True}, {"int8": 1.0}])
def test_costs_that_prove_nothing_are_not_trusted(model, costs):
    checkpoint = dataclasses.replace(
        model.checkpoint, config={**model.checkpoint.config, "precision_costs": costs},
        files={**model.checkpoint.files},
    )  # fmt: skip
    assert "fp32" in charlm.LanguageModel.from_checkpoint(checkpoint, "cpu").writing_engine.name


def test_public_names():
    assert charlm.load is not None
    assert charlm.train is not None
    with pytest.raises(AttributeError):
        charlm.nonsense  # noqa: B018  # looking it up is the test


def test_nothing_prints(model, capfd):
    model.generate("a", 20)
    model.evaluate("some text")
    assert capfd.readouterr() == ("", "")


def test_describe_says_what_it_is(model):
    facts = model.describe()
    assert facts["model"]["layers"] == 1
    assert facts["corpus"]["name"] == "salad"
    assert facts["engine"] == model.writing_engine.name


# ---------------------------------------------------------------------------------------------------- documents


@pytest.fixture(scope="module")
def writer(document_run):
    return charlm.load(document_run, device="cpu", threads=1)


def test_documents_end_by_themselves(writer, lines_file):
    documents = list(writer.samples(200, seed=1, length=2000))
    assert len(documents) == 200
    assert all("\n" not in document and len(document) < 2000 for document in documents)
    mean = len(lines_file.read_text()) / 400
    assert 0.5 * mean < np.mean([len(document) for document in documents]) < 2 * mean


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_a_document_is_the_same_however_many_are_written_beside_it(document_run, monkeypatch, engine):
    with environment(CHARLM_ENGINE=None if engine == "native" else "torch"):
        model = charlm.load(document_run, device="cpu", precision="fp32", threads=1)
        whole = list(model.samples(12, "the", 60, seed=5))
        assert "".join(model.stream("the", 60, seed=5)) == whole[0]
        monkeypatch.setattr("charlm.language_model._SAMPLES_AT_ONCE", 3)
        assert list(model.samples(12, "the", 60, seed=5)) == whole
        assert list(itertools.islice(model.samples(None, "the", 60, seed=5), 12)) == whole
        assert min(map(len, whole)) < 20 < max(map(len, whole))  # rows end at different times


def test_the_end_is_as_likely_as_the_model_says(writer):
    """Of many documents, the share without a character is the probability of the end right at the beginning."""
    (empty,) = writer.score_documents([""])
    (first, *_) = writer.surprises("a")
    likely = dict(first.alternatives)
    shares = [sum(d[:1] == c for d in writer.samples(3000, length=1, seed=3)) / 3000 for c in "ts"]
    for share, character in zip(shares, "ts", strict=True):
        if character in likely:
            assert share == pytest.approx(likely[character], abs=0.03)
    assert np.exp(-empty.nats) < 0.01


def test_evaluate_finds_documents_as_training_did(writer):
    together = writer.evaluate("the cat sat\n\non a mat\n")
    scores = list(writer.score_documents(["the cat sat", "on a mat"]))
    assert together.documents == 2
    assert together.nats == pytest.approx(sum(scored.nats for scored in scores), rel=1e-5)
    assert together.characters == len("the cat sat") + len("on a mat") + 2
    with pytest.raises(UsageError, match="cold"):
        writer.evaluate("the cat", window=3)
    per_character = writer.score("the cat sat")
    assert len(per_character) == 11
    assert -per_character.sum() < scores[0].nats


def test_fingerprints_tell_what_was_learnt(writer, document_run):
    corpus = open_corpus(document_run / "corpus")
    ids, ends = corpus.ids("train"), corpus.ends("train")
    learnt = set(corpus.fingerprints().tolist())
    (first,) = ends.read(0, 1)
    assert writer.fingerprint("no such line was ever there") not in learnt
    spelt = corpus.tokenizer.decode(ids.read(0, int(first)))
    assert writer.fingerprint(spelt) in learnt or "\ufffd" in spelt
