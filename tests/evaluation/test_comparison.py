import json
import math
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from commands import CHARLM, charlm, one_line
from conftest import peak_kilobytes

import charlm as library
from charlm.config import ModelConfig
from charlm.engine import create_engine
from charlm.errors import DataError
from charlm.evaluation import losses
from charlm.evaluation.comparison import ComparisonInput, compare, generation_speeds
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


def block_standard_error(values, size):
    """The standard error of a mean from the means of complete blocks."""
    means = values[: len(values) // size * size].reshape(-1, size).mean(axis=1)
    return means.std(ddof=1) / math.sqrt(len(means))


@pytest.mark.parametrize(("length", "block"), [(3_050, 100), (1_000, 100), (25_300, 1000)])
def test_the_difference_is_paired_by_block(length, block):
    text = TEXT[:length]
    found = compare(reading(0, text), reading(1, text))
    differences = character_losses(0, text) - character_losses(1, text)
    assert found.nats_per_char == pytest.approx(differences.mean(), abs=1e-5)
    assert found.standard_error == pytest.approx(block_standard_error(differences, block), rel=1e-4)
    # The standard error of unpaired models is different enough for the line above to detect it.
    unpaired = math.hypot(*(evaluation.standard_error for evaluation in found.evaluations))
    assert abs(found.standard_error / unpaired - 1) > 1e-3


def test_a_model_and_itself():
    found = compare(reading(0), reading(0))
    assert (found.nats_per_char, found.standard_error) == (0, 0)
    assert (found.better, found.standard_errors) == (None, None)
    assert repr(found).startswith("Comparison(+0.0000 ± 0.0000 bits/char, better=None, (Evaluation(")
    lines = TEXT.splitlines()
    found = compare(document_reading(1, lines), document_reading(1, lines))
    assert (found.bits_per_char, found.bits_standard_error, found.better) == (0, 0, None)


def test_swapping_the_models_negates_the_difference():
    forward, swapped = compare(reading(0), reading(1)), compare(reading(1), reading(0))
    assert forward.nats_per_char == -swapped.nats_per_char != 0
    assert forward.standard_error == pytest.approx(swapped.standard_error, rel=1e-9)
    assert {forward.better, swapped.better} == {0, 1}
    assert forward.better == int(forward.evaluations[0].nats > forward.evaluations[1].nats)


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
        sums.append((one.evaluations[0].nats - one.evaluations[1].nats, one.evaluations[0].characters))
        assert one.standard_error is None
    nats, characters = np.array(sums).T
    ratio = nats.sum() / characters.sum()
    assert found.nats_per_char == pytest.approx(ratio, abs=1e-6)
    residuals = nats - ratio * characters
    expected = math.sqrt((residuals**2).sum() * len(lines) / (len(lines) - 1)) / characters.sum()
    assert found.standard_error == pytest.approx(expected, rel=1e-3)


def test_long_documents_are_paired(monkeypatch):
    documents = [TEXT[start : start + length].replace("\n", " ") for start, length in enumerate([900, 3, 40, 1500] * 3)]
    whole = compare(document_reading(0, documents), document_reading(1, documents))
    monkeypatch.setattr(losses, "DOCUMENT_POOL", 300)  # longer documents come in pieces, not the same for both models
    found = compare(document_reading(0, documents), document_reading(1, documents))
    assert found.nats_per_char == pytest.approx(whole.nats_per_char, rel=1e-4)
    assert found.standard_error == pytest.approx(whole.standard_error, rel=1e-3)
    assert [evaluation.documents for evaluation in found.evaluations] == [12, 12]


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
    assert [evaluation.characters for evaluation in found.evaluations] == [40_000] * 2
    assert found.evaluations[1].predictions == 120_000


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
    assert 0 < sum(found.seconds) < time.perf_counter() - began
    assert found.chars_per_second == tuple(len(TEXT) / seconds for seconds in found.seconds)
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
    expected = f"B is better by {found['bits_per_char']:.4f} ± {found['bits_standard_error']:.4f} bits per character"
    assert shown.splitlines()[-1].startswith(expected)
    for words in ("characters/s", "parameters", "size of the model", f"A: {rival_run}"):
        assert words in shown
    shown = charlm("compare", trained_run, next(trained_run.glob("step-*")), "-", stdin=b"the cat sat " * 90)
    assert shown.stdout.decode().splitlines()[-1].startswith("no significant difference: ")
    shown = charlm("compare", trained_run, rival_run, "-", stdin=b"the cat").stdout.decode()
    assert "too short" in shown


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
    command = [*CHARLM, "compare", trained_run, trained_run, tmp_path / "long.txt", "--threads", "1"]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        time.sleep(2)
        assert process.poll() is None
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert time.monotonic() - began < 1
        assert (process.stdout.read(), process.stderr.read()) == (b"", b"")


def test_a_longer_text_takes_no_more_memory(text_file, tmp_path):
    peaks = []
    for repeats in (100, 180):  # 2.0 and 3.6 MB: two 1 MB blocks of a file are in memory in either case
        path = tmp_path / f"{repeats}.txt"
        path.write_text(text_file.read_text("utf-8") * repeats, "utf-8")
        run = str(Path(__file__).parents[1] / "golden" / "format1-text")
        peaks.append(peak_kilobytes("compare", run, run, str(path), "--threads", "1"))
    assert peaks[1] < peaks[0] + 10_000, peaks  # in kB; the losses of 1.6 MB more text would take 12,800 per model
