import json
import math
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from commands import charlm, one_line
from commands import start as start_charlm
from conftest import peak_kilobytes

import charlm as library
from charlm.config import ModelConfig
from charlm.engine import create_engine
from charlm.errors import DataError, UsageError
from charlm.evaluation import losses
from charlm.evaluation.comparison import ComparisonInput, compare, generation_speeds
from charlm.evaluation.seeds import combine, uncertainty_of_difference
from charlm.evaluation.standard_errors import SequenceError
from charlm.model.char_lm import CharLM
from charlm.tokenizer.characters import CharTokenizer
from charlm.tokenizer.documents import DocumentTokenizer

ALPHABETS = "abcé \n", "ab \ncxyz"
"""Neither has all characters of the other, and common characters have different ids."""
NARROW = CharTokenizer.build({ord("a"): 9, ord("\n"): 3})
TOKENIZERS = [CharTokenizer.build({ord(c): 90 - n for n, c in enumerate(alphabet)}) for alphabet in ALPHABETS]
DOCUMENTS = [DocumentTokenizer(tokenizer, "lines") for tokenizer in TOKENIZERS]
TEXT = "".join(np.random.default_rng(3).choice(list("aaabbc éx\n"), 30_000).tolist())
BRIEF = {"steps": 2, "size": "tiny", "batch": 2, "bptt": 16, "threads": 1, "device": "cpu", "precision": "fp32"}


def make_engine(tokenizer, seed):
    weights = {
        n: a * 3 for n, a in CharLM(ModelConfig(tokenizer.vocabulary_size, 1, 12, 12), seed=seed).weights().items()
    }
    return create_engine(ModelConfig(tokenizer.vocabulary_size, 1, 12, 12), weights, "cpu", "fp32", 1)


def in_blocks(ids, size):
    return (ids[start : start + size] for start in range(0, len(ids), size))


def reading(which, text=TEXT, size=1000):
    """One of two models, which have different vocabularies."""
    tokenizer = TOKENIZERS[which]
    return ComparisonInput(make_engine(tokenizer, which), tokenizer, in_blocks(tokenizer.encode(text), size))


def document_reading(which, documents):
    tokenizer = DOCUMENTS[which]
    ids = np.concatenate([np.append(tokenizer.encode(document), tokenizer.end_id) for document in documents])
    return ComparisonInput(make_engine(tokenizer, which), tokenizer, in_blocks(ids, 700))


def reading_of_seed(which, seed, text):
    tokenizer = TOKENIZERS[which]
    return ComparisonInput(make_engine(tokenizer, seed), tokenizer, list(in_blocks(tokenizer.encode(text), 1_000)))


def alone(engine, tokenizer, blocks):
    """The loss of each character."""
    ids, nats = map(np.concatenate, zip(*losses.exact_losses(engine, tokenizer.start_id, blocks), strict=True))
    return np.add.reduceat(nats.astype(float), np.flatnonzero(tokenizer.starts_character[ids]))


def character_losses(which, text):
    """The loss of each character from the definition, one id at a time, in float64."""
    engine, tokenizer, _ = reading(which)
    state, previous, nats = engine.initial_state(1), tokenizer.start_id, []
    for character in text:
        nats.append(0.0)
        for target in tokenizer.encode(character):
            logits, state = engine.step(np.array([previous]), state)
            row = logits[0].astype(np.float64)
            nats[-1] -= row[target] - (row.max() + math.log(np.exp(row - row.max()).sum()))
            previous = target
    return np.array(nats)


def error_of(values):
    """The uncertainty of the mean of a sequence."""
    error = SequenceError()
    error.add(np.stack([values, np.ones(len(values))]))
    return error.value(0.0)


@pytest.mark.parametrize("length", [1_000, 25_300])
def test_the_difference_is_paired_by_character(length):
    text = TEXT[:length]
    found = compare(reading(0, text), reading(1, text))
    differences = character_losses(0, text) - character_losses(1, text)
    assert found.nats_per_char == pytest.approx(differences.mean(), abs=1e-5)
    assert found.text.standard_error == pytest.approx(error_of(differences).standard_error, rel=1e-4)
    assert found.text.rough == error_of(differences).rough
    assert found.interval == found.text.interval(found.nats_per_char)
    # The standard error of unpaired models is different enough for the line above to detect it.
    unpaired = math.hypot(*(side.evaluations[0].standard_error for side in found.sides))
    assert abs(found.standard_error / unpaired - 1) > 1e-3


def test_several_runs_of_a_side():
    """The text's error is that of the difference of the means, along the text; the spread of the runs is added."""
    text = TEXT[:6_000]
    runs = [reading_of_seed(which, seed, text) for which, seed in ((0, 0), (0, 1), (1, 2), (1, 3), (1, 4))]
    losses = [alone(*run) for run in runs]
    found = compare(runs[:2], runs[2:])
    along = np.mean(losses[:2], axis=0) - np.mean(losses[2:], axis=0)
    means = [nats.mean() for nats in losses]
    assert [side.losses for side in found.sides] == [pytest.approx(means[:2]), pytest.approx(means[2:])]
    assert found.nats_per_char == pytest.approx(along.mean(), abs=1e-6)
    assert found.text.standard_error == pytest.approx(error_of(along).standard_error, rel=1e-4)
    welch = uncertainty_of_difference(means[:2], means[2:])
    assert found.runs.standard_error == pytest.approx(welch.standard_error, rel=1e-4)
    assert found.standard_error == pytest.approx(math.hypot(found.text.standard_error, welch.standard_error), rel=1e-4)
    assert found.uncertainty.degrees_of_freedom == pytest.approx(
        combine([found.text, found.runs]).degrees_of_freedom, rel=1e-6
    )
    assert [side.standard_deviation for side in found.sides] == [
        pytest.approx(np.std(means[:2], ddof=1), rel=1e-4), pytest.approx(np.std(means[2:], ddof=1), rel=1e-4)
    ]  # fmt: skip


def test_seeds_of_one_recipe_are_not_called_better():
    """Along the text they differ significantly: the text's error alone would say that one recipe is better."""
    text = TEXT[:25_300]
    runs = [reading_of_seed(0, seed, text) for seed in (2, 4, 6, 3, 5, 7)]
    found = compare(runs[0], runs[3])
    assert (found.better, found.runs) == (1, None)
    found = compare(runs[:3], runs[3:])
    assert abs(found.nats_per_char) > found.text.margin
    assert found.better is None


def test_a_side_with_a_single_run_has_no_spread():
    text = TEXT[:3_000]
    found = compare(reading_of_seed(0, 0, text), [reading_of_seed(1, seed, text) for seed in (1, 2)])
    assert found.runs is None
    assert found.uncertainty == found.text
    assert found.sides[0].standard_deviation is None
    with pytest.raises(UsageError):
        compare([], reading(0))


def test_a_model_and_itself():
    found = compare(reading(0), reading(0))
    assert (found.nats_per_char, found.standard_error) == (0, 0)
    assert (found.better, found.standard_errors) == (None, None)
    assert repr(found).startswith("Comparison(+0.0000 ± 0.0000 bits/char, better=None, (Side(")
    lines = TEXT.splitlines()
    found = compare(document_reading(1, lines), document_reading(1, lines))
    assert (found.bits_per_char, found.bits_standard_error, found.better) == (0, 0, None)


def test_swapping_the_models_negates_the_difference():
    forward, swapped = compare(reading(0), reading(1)), compare(reading(1), reading(0))
    assert forward.nats_per_char == -swapped.nats_per_char != 0
    assert forward.standard_error == pytest.approx(swapped.standard_error, rel=1e-9)
    assert {forward.better, swapped.better} == {0, 1}
    assert forward.better == int(forward.sides[0].nats_per_char > forward.sides[1].nats_per_char)


@pytest.mark.parametrize("sizes", [(1, 30_000), (64, 7), (5000, 333)])
def test_the_size_of_blocks_does_not_matter(sizes):
    text = TEXT[:6000]
    whole = compare(reading(0, text), reading(1, text))
    found = compare(reading(0, text, sizes[0]), reading(1, text, sizes[1]))
    assert found.nats_per_char == pytest.approx(whole.nats_per_char, abs=1e-6)
    assert found.standard_error == pytest.approx(whole.standard_error, rel=1e-5)


def test_documents_are_paired_one_by_one():
    lines = [line for line in TEXT.splitlines() if line][:400]
    found = compare(document_reading(0, lines), document_reading(1, lines))
    sums = []
    for line in lines:
        one = compare(document_reading(0, [line]), document_reading(1, [line]))
        first, second = (side.evaluations[0] for side in one.sides)
        sums.append((first.nats - second.nats, first.characters))
        assert one.standard_error is None
    nats, characters = np.array(sums).T
    ratio = nats.sum() / characters.sum()
    assert found.nats_per_char == pytest.approx(ratio, abs=1e-6)
    without = (nats.sum() - nats) / (characters.sum() - characters)  # the jackknife
    expected = math.sqrt((len(lines) - 1) / len(lines) * ((without - ratio) ** 2).sum())
    assert found.standard_error == pytest.approx(expected, rel=1e-3)


def test_long_documents_are_paired(monkeypatch):
    documents = [TEXT[start : start + length].replace("\n", " ") for start, length in enumerate([900, 3, 40, 1500] * 3)]
    whole = compare(document_reading(0, documents), document_reading(1, documents))
    monkeypatch.setattr(losses, "DOCUMENT_POOL", 300)  # longer documents come in pieces, not the same for both models
    found = compare(document_reading(0, documents), document_reading(1, documents))
    assert found.nats_per_char == pytest.approx(whole.nats_per_char, rel=1e-4)
    assert found.standard_error == pytest.approx(whole.standard_error, rel=1e-3)
    assert [side.evaluations[0].documents for side in found.sides] == [12, 12]


def test_few_units_are_pending_even_if_one_vocabulary_needs_many_ids():
    """A model that needs three byte pieces per character must not fall behind one that has every character."""
    wide = CharTokenizer.build({ord("中"): 9, ord("\n"): 3})
    text = "中" * 40_000
    fetched = [0, 0]

    def watched(which, tokenizer):
        ids = tokenizer.encode(text)
        for start in range(0, len(ids), 500):
            fetched[which] = start // (3 if which else 1)
            assert abs(fetched[0] - fetched[1]) < 2_000
            yield ids[start : start + 500]

    first = ComparisonInput(make_engine(wide, 0), wide, watched(0, wide))
    found = compare(first, ComparisonInput(make_engine(NARROW, 1), NARROW, watched(1, NARROW)))
    assert [side.evaluations[0].characters for side in found.sides] == [40_000] * 2
    assert found.sides[1].evaluations[0].predictions == 120_000


@pytest.mark.parametrize("texts", [("abc" * 900, "abc" * 901), ("abc" * 901, "abc" * 900), ("", "a"), ("", "")])
def test_different_texts(texts):
    with pytest.raises(DataError):
        compare(reading(0, texts[0]), reading(1, texts[1]))


def test_different_documents():
    with pytest.raises(DataError, match="different texts"):
        compare(document_reading(0, ["ab", "c"]), document_reading(1, ["a", "bc"]))


def test_a_text_too_short_for_a_standard_error():
    found = compare(reading(0, "abc"), reading(1, "abc"))
    assert (found.standard_error, found.standard_errors, found.better) == (None, None, None)


def test_speeds():
    first, second = reading(0), reading(1)
    began = time.perf_counter()
    found = compare(first, second)
    seconds = [side.seconds[0] for side in found.sides]
    assert 0 < sum(seconds) < time.perf_counter() - began
    assert [side.chars_per_second for side in found.sides] == [[len(TEXT) / each] for each in seconds]
    assert min(generation_speeds([first[:2], second[:2]])) > 100


# ---------------------------------------------------------------------------------------------------- charlm compare


def compared(*arguments, **options):
    result = charlm("compare", "--json", "--threads", "1", *arguments, **options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_the_figures_are_those_of_two_evaluations(trained_run, rival_run, text_file):
    for where in ([], [text_file]):
        found = compared(trained_run, rival_run, *where)
        alone = [json.loads(charlm("eval", "--json", *where, "-c", run).stdout) for run in (trained_run, rival_run)]
        for side, one in zip((found["a"], found["b"]), alone, strict=True):
            assert side["nats_per_char"] == pytest.approx(one["nats_per_char"], rel=1e-9)
            assert (side["checkpoint"], side["characters"]) == (one["checkpoint"], one["characters"])
            assert min(side["read_chars_per_second"], side["written_chars_per_second"]) > 0
            assert side["model_bytes"] > 4 * side["parameters"] > 0
        assert found["corpus"] == alone[0]["corpus"]
        apart = alone[0]["bits_per_char"] - alone[1]["bits_per_char"]
        assert found["difference"]["bits_per_char"] == pytest.approx(apart, abs=1e-9)
        assert found["difference"]["better"] == "a"
        error = found["difference"]["bits_standard_error"]
        assert found["difference"]["standard_errors"] == pytest.approx(abs(apart) / error)


def test_text_output(trained_run, rival_run, text_file):
    shown = charlm("compare", rival_run, trained_run, text_file).stdout.decode()
    found = compared(rival_run, trained_run, text_file)["difference"]
    low, high = (nats / math.log(2) for nats in found["interval_95"])
    assert f"B is better: A - B is {found['bits_per_char']:+.4f} bits per character, " in shown
    assert f"95% interval {low:+.4f} to {high:+.4f}\n" in shown
    assert f"standard error from the text {found['bits_standard_error']:.4f} bits per character" in shown
    for words in ("characters/s", "parameters", "size of the model", f"A: {rival_run}"):
        assert words in shown
    # One run a side: what was tested, what was not, and what to do for that.
    assert "Tested: these models, for other text of this kind. Not tested: two recipes." in shown
    assert shown.endswith("charlm compare A1 A2 A3 --against B1 B2 B3\n")
    assert (found["tested"], found["runs"]) == ("models", None)
    assert found["text"]["standard_error"] == found["standard_error"]
    shown = charlm("compare", trained_run, next(trained_run.glob("step-*")), "-", stdin=b"the cat sat " * 90)
    assert "\nno significant difference: A - B is " in shown.stdout.decode()
    assert "; rough: the text is too short to tell\n" in shown.stdout.decode()
    shown = charlm("compare", trained_run, rival_run, "-", stdin=b"the cat").stdout.decode()
    assert shown.splitlines()[-1].startswith("no verdict: the text is too short for a standard error; ")


@pytest.fixture(scope="module")
def seeds(text_file, tmp_path_factory):
    """Two runs of each of two recipes."""
    folder = tmp_path_factory.mktemp("seeds")
    for name, seed, lr in (("a1", 1, 1e-2), ("a2", 2, 1e-2), ("b1", 1, 1e-4), ("b2", 2, 1e-4)):
        library.train(text_file, out=folder / name, lr=lr, seed=seed, **{**BRIEF, "steps": 20})
    return [folder / name for name in ("a1", "a2", "b1", "b2")]


def test_several_runs_a_side(seeds, text_file):
    a1, a2, b1, b2 = seeds
    found = compared(a1, a2, "--against", b1, b2, text_file)
    pair = compared(a1, b1, text_file)
    assert found["corpus"] == str(text_file)
    assert [run["checkpoint"] for run in found["a"]["runs"]] == [str(next(run.glob("step-*"))) for run in (a1, a2)]
    assert found["a"]["runs"][0]["nats_per_char"] == pytest.approx(pair["a"]["nats_per_char"], rel=1e-9)
    for side in ("a", "b"):
        losses = [run["nats_per_char"] for run in found[side]["runs"]]
        assert found[side]["nats_per_char"] == pytest.approx(np.mean(losses))
        assert found[side]["standard_deviation"] == pytest.approx(np.std(losses, ddof=1))
    apart = found["difference"]
    assert apart["nats_per_char"] == pytest.approx(found["a"]["nats_per_char"] - found["b"]["nats_per_char"])
    assert apart["standard_error"] == pytest.approx(
        math.hypot(apart["text"]["standard_error"], apart["runs"]["standard_error"])
    )
    assert 1 <= apart["runs"]["degrees_of_freedom"] <= 2
    assert apart["tested"] == "recipes"
    # The option may stand anywhere; the text is told from runs, wherever it stands.
    for words in (["--against", b1, b2, "--threads", "1", a1, a2, text_file], [text_file, a1, a2, "--against", b1, b2],
                  [a1, a2, "--against", b1, "--against", b2, text_file.parent],
                  [f"--against={b1}", b2, "--encoding", "utf-8", a1, a2, "--", text_file]):  # fmt: skip
        other = compared(*words)
        assert other["difference"]["nats_per_char"] == apart["nats_per_char"]


def test_words_about_several_runs(seeds, text_file):
    a1, a2, b1, b2 = seeds
    result = charlm("compare", a1, a2, "--against", b1, b2, text_file)
    shown = result.stdout.decode()
    assert result.stderr == b""
    assert shown.endswith("\nTested: two recipes, for other seeds and other text of this kind.\n")
    assert "standard error from the runs" in shown
    assert "standard deviation of runs" in shown
    for name, run in zip(("A1", "A2", "B1", "B2"), seeds, strict=True):
        assert f"\n{name}: {run}/step-20, " in shown
    # What makes the spread something else than that of seeds is said.
    notices = charlm("compare", a1, b1, "--against", b2, b2, text_file).stderr.decode()
    assert "the runs of A differ in lr, so their spread is not only that of seeds" in notices
    assert "several of the runs of A have seed 1" in notices
    assert "several of the runs of B have seed 2" in notices
    single = charlm("compare", a1, a2, "--against", b1, text_file)
    assert "Not tested: two recipes." in single.stdout.decode()
    assert single.stderr == b""


def test_runs_and_texts_are_told_apart(seeds, text_file, tmp_path):
    a1, a2, b1, _ = seeds
    for words, hint in (
        ([a1], "needs two runs"),
        ([a1, a2, b1], f"{b1} is a run, not a text; name the runs of one side after --against"),
        ([text_file, "--against", a1], "--against needs a run on each side"),
        ([a1, "--against", text_file], "--against needs a run on each side"),
        ([a1, a2, "--against"], "'--against' requires an argument"),
        (["--against", a1, a2], "Missing argument"),
    ):
        result = charlm("compare", *words)
        assert result.returncode == 2
        assert hint in one_line(result)
    result = charlm("compare", a1, a2, "--against", b1, tmp_path / "nowhere")
    assert result.returncode == 66
    assert "nowhere does not exist" in one_line(result)


def test_documents(document_run, rival_document_run, lines_file):
    found = compared(document_run, rival_document_run)
    assert found["a"]["documents"] == found["b"]["documents"] == 40
    assert found["difference"]["better"] == "a"
    assert compared(document_run, rival_document_run, lines_file)["a"]["documents"] == 400
    assert "end markers" in charlm("compare", document_run, rival_document_run).stdout.decode()


def test_without_a_common_split_a_text_is_needed(trained_run, rival_run, document_run, text_file, lines_file, tmp_path):
    library.train(text_file, out=tmp_path / "cut", split="80/20/0", **BRIEF)
    # The same lines and sizes, but with another seed the test split has other documents.
    library.train(lines_file, out=tmp_path / "apart", documents="lines", split="80/10/10", seed=5, **BRIEF)
    shutil.copytree(next(rival_run.glob("step-*")), tmp_path / "bare")
    for first, second, text, hint in (
        (trained_run, tmp_path / "cut", text_file, "not the same text with the same splits"),
        (document_run, tmp_path / "apart", lines_file, "not the same text with the same splits"),
        (trained_run, tmp_path / "bare", text_file, "has no corpus"),
    ):
        message = one_line(charlm("compare", first, second))
        assert hint in message
        assert "charlm compare A B FILE" in message
        compared(first, second, text)
    result = charlm("compare", tmp_path / "cut", tmp_path / "cut")
    assert "no test split; using the validation split" in result.stderr.decode()


def test_what_cannot_be_compared(trained_run, document_run, text_file, tmp_path):
    library.train(text_file, out=tmp_path / "byte", tokenizer="byte", **BRIEF)
    for other, words in ((tmp_path / "byte", "the other bytes"), (document_run, "the other documents (lines)")):
        result = charlm("compare", trained_run, other, text_file)
        assert result.returncode == 2
        assert words in one_line(result)
    assert charlm("compare", trained_run).returncode == 2
    assert charlm("compare", trained_run, tmp_path / "nowhere").returncode == 66


def test_an_interrupt_ends_it_at_once(trained_run, text_file, tmp_path):
    (tmp_path / "long.txt").write_text(text_file.read_text("utf-8") * 1000, "utf-8")
    words = ["compare", trained_run, trained_run, tmp_path / "long.txt", "--threads", 1]
    with open(tmp_path / "output", "wb") as output:
        process = start_charlm(*words, stdout=output, stderr=output)
        try:
            time.sleep(1)
            assert process.poll() is None
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
            assert time.monotonic() - began < 1
        finally:
            process.kill()
    assert (tmp_path / "output").read_bytes() == b""


def test_a_longer_text_takes_no_more_memory(text_file, tmp_path):
    peaks = []
    for repeats in (100, 180):  # 2.0 and 3.6 MB: two 1 MB blocks of a file are in memory in either case
        path = tmp_path / f"{repeats}.txt"
        path.write_text(text_file.read_text("utf-8") * repeats, "utf-8")
        run = str(Path(__file__).parents[1] / "golden" / "format1-text")
        peaks.append(peak_kilobytes("compare", run, run, str(path), "--threads", "1"))
    assert peaks[1] < peaks[0] + 10_000, peaks  # in kB; the losses of 1.6 MB more text would take 12,800 per model
