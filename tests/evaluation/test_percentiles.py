import json
import math
import shutil

import numpy as np
import pytest

import charlm
from charlm.checkpoint.step import CONFIG, open_checkpoint, save_step
from charlm.config import dump_json
from charlm.corpus.prepared import find_corpus
from charlm.errors import DataError, MissingInputError
from charlm.evaluation.by_value import documents_with_values
from charlm.evaluation.percentiles import LEVELS, Percentiles, _grouped, measure_percentiles


@pytest.fixture(scope="module")
def lines_model(document_run):
    return charlm.load(document_run, device="cpu", precision="fp32", threads=1)


def held_out(run):
    corpus = find_corpus(run)
    ids = corpus.ids("valid").read(0, corpus.sizes["valid"].ids)
    ends = np.flatnonzero(ids == corpus.tokenizer.end_id)
    return [corpus.tokenizer.decode(part) for part in np.split(ids, ends + 1) if len(part)]


def test_a_finished_training_keeps_the_percentiles_of_its_validation_documents(document_run, lines_model):
    kept = open_checkpoint(document_run).config["percentiles"]
    assert sum(group["documents"] for group in kept["groups"]) == 40
    percentiles = lines_model.percentiles()
    assert percentiles == Percentiles.from_dict(kept, "config.json")
    scored = list(lines_model.score_documents(held_out(document_run)))
    (group,) = percentiles.groups
    bits = sorted(document.bits_per_char for document in scored)
    assert group.max_characters == max(document.characters for document in scored)
    assert group.bits_per_char_Q == pytest.approx(np.quantile(bits, np.array(LEVELS) / 100), rel=1e-5)


def test_about_as_many_held_out_documents_are_above_a_percentile_as_it_says(lines_model, document_run):
    percentiles = lines_model.percentiles()
    found = [percentiles.of(s.bits_per_char, s.characters) for s in lines_model.score_documents(held_out(document_run))]
    for level in (50.0, 75.0, 90.0):
        assert sum(percentile > level for percentile in found) == pytest.approx(40 * (1 - level / 100), abs=1)
    (unlikely,) = lines_model.score_documents(["zzzz qqqq 1234"])
    assert percentiles.of(unlikely.bits_per_char, unlikely.characters) == 100.0


def test_a_model_of_running_text_has_those_of_lines(tmp_path, text):
    (tmp_path / "text.txt").write_text(text.replace(" and ", "\n"))
    options = {"hidden": 16, "layers": 1, "steps": 5, "bptt": 32, "batch": 8, "threads": 1, "device": "cpu"}
    trained = charlm.train(tmp_path / "text.txt", out=tmp_path / "run", split="60/40", **options)
    model = charlm.load(trained.run, device="cpu", precision="fp32")
    corpus = find_corpus(trained.run)
    whole = corpus.tokenizer.decode(corpus.ids("valid").read(0, corpus.sizes["valid"].ids))
    lines = [line for line in whole.split("\n")[:-1] if line]
    percentiles = model.percentiles()
    assert percentiles.documents == len(lines)
    scored = list(model.score_documents(lines))
    expected = np.quantile([document.bits_per_char for document in scored], np.array(LEVELS) / 100)
    (group,) = percentiles.groups
    assert group.bits_per_char_Q == pytest.approx(expected, rel=1e-4)


def test_documents_are_compared_with_those_of_their_length():
    lengths = np.concatenate([np.full(300, 5), np.arange(300) // 100 + 50, np.full(300, 1000)])
    bits = np.concatenate([np.linspace(4, 8, 300), np.linspace(3, 5, 300), np.linspace(1, 2, 300)])
    order = np.random.default_rng(0).permutation(900)
    percentiles = _grouped(bits[order], lengths[order])
    assert [group.max_characters for group in percentiles.groups] == sorted(
        g.max_characters for g in percentiles.groups
    )
    assert percentiles.documents == 900
    assert percentiles.of(4.5, 3) < 15  # usual for a short document
    assert percentiles.of(4.5, 5) < 15
    assert percentiles.of(4.5, 900) == percentiles.of(4.5, 10**6) == 100.0
    assert percentiles.of(0.5, 1000) == 0.0
    values = [percentiles.of(value, 1000) for value in np.linspace(0.9, 2.1, 50)]
    assert values == sorted(values)
    assert percentiles.of(1.5, 1000) == pytest.approx(50, abs=1)


def test_documents_of_one_length_are_one_group():
    percentiles = _grouped(np.linspace(1, 2, 5000), np.full(5000, 7))
    assert [(group.max_characters, group.documents) for group in percentiles.groups] == [(7, 5000)]


def test_without_percentiles_in_the_checkpoint_the_corpus_is_measured(document_run, lines_model, tmp_path):
    run = shutil.copytree(document_run, tmp_path / "run")
    (step,) = {open_checkpoint(run).path}
    checkpoint = open_checkpoint(step, names=[path.name for path in step.iterdir() if path.name != "manifest.json"])
    config = {name: value for name, value in checkpoint.config.items() if name != "percentiles"}
    save_step(run, checkpoint.step, {**checkpoint.files, CONFIG: dump_json(config)})
    measured = charlm.load(run, device="cpu").percentiles()
    kept = lines_model.percentiles()
    assert measured.groups[0].bits_per_char_Q == pytest.approx(kept.groups[0].bits_per_char_Q, rel=1e-4)
    shutil.rmtree(run / "corpus")
    with pytest.raises(MissingInputError, match="neither percentiles"):
        charlm.load(run, device="cpu").percentiles()


def test_an_export_keeps_them(document_run, lines_model, tmp_path):
    from charlm.export import export

    exported = export(document_run, tmp_path / "small").path
    assert charlm.load(exported, device="cpu").percentiles() == lines_model.percentiles()


def test_too_few_documents_are_refused(tmp_path):
    (tmp_path / "lines.txt").write_text("".join(f"line {number}\n" for number in range(100)))
    options = {"size": "tiny", "steps": 2, "threads": 1, "device": "cpu", "batch": 4, "bptt": 16}
    trained = charlm.train(tmp_path / "lines.txt", out=tmp_path / "run", documents="lines", **options)
    assert "percentiles" not in open_checkpoint(trained.run).config
    with pytest.raises(MissingInputError, match="fewer than 20 held-out documents"):
        charlm.load(trained.run, device="cpu").percentiles()


def test_a_stop_leaves_the_measuring(lines_model, document_run):
    assert (
        measure_percentiles(lines_model.engine, lines_model.tokenizer, find_corpus(document_run), lambda: True) is None
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: kept.update(levels=[1.0]),
        lambda kept: kept.pop("groups"),
        lambda kept: kept.update(groups=[]),
        lambda kept: kept.update(groups={}),
        lambda kept: kept["groups"].append(kept["groups"][0]),
        lambda kept: kept["groups"][0].update(max_characters=-1),
        lambda kept: kept["groups"][0].update(max_characters=True),
        lambda kept: kept["groups"][0].update(documents=1.5),
        lambda kept: kept["groups"][0]["bits_per_char"].pop(),
        lambda kept: kept["groups"][0]["bits_per_char"].reverse(),
        lambda kept: kept["groups"][0].update(bits_per_char=[math.inf] * len(LEVELS)),
        lambda kept: kept["groups"][0].update(bits_per_char=["x"] * len(LEVELS)),
    ],
)
def test_damaged_percentiles_are_refused_in_one_line(lines_model, damage):
    kept = json.loads(json.dumps(lines_model.percentiles().as_dict()))
    damage(kept)
    for values in (kept, [kept], "text", 3):
        with pytest.raises(DataError, match="percentiles are damaged"):
            Percentiles.from_dict(values, "config.json")


def test_fewer_ids_give_percentiles_of_fewer_documents(document_run, lines_model):
    corpus, engine = find_corpus(document_run), lines_model.engine
    every = measure_percentiles(engine, lines_model.tokenizer, corpus)
    ids = corpus.ids("valid").read(0, corpus.sizes["valid"].ids)
    ends = np.flatnonzero(ids == corpus.tokenizer.end_id) + 1
    fewer = measure_percentiles(engine, lines_model.tokenizer, corpus, max_ids=int(ends[24]))
    assert (every.documents, fewer.documents) == (40, 25)
    assert measure_percentiles(engine, lines_model.tokenizer, corpus, max_ids=0) is None


def test_the_percentiles_of_a_model_with_conditions_are_those_of_its_texts(table_run):
    model, corpus = charlm.load(table_run, device="cpu", precision="fp32", threads=1), find_corpus(table_run)
    percentiles = measure_percentiles(model.engine, model.tokenizer, corpus)
    scored = []
    for values, texts in documents_with_values(corpus, "valid"):
        scored += model.score_documents(texts, given=values)
    assert percentiles.groups[-1].max_characters == max(each.characters for each in scored)
    assert percentiles.groups[0].bits_per_char_Q[0] == pytest.approx(
        min(each.bits_per_char for each in scored if each.characters <= percentiles.groups[0].max_characters), rel=1e-5
    )
