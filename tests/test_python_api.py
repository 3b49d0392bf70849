"""The Python API: wrong arguments, copies, processes. Every mistake is a ``CharlmError`` that names keywords."""

import copy
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import charlm
import charlm.checkpoint.model_parts
from charlm import native
from charlm.config import SamplingConfig
from charlm.engine.native import NativeEngine
from charlm.errors import CharlmError, UsageError

OPTION = re.compile(r"(?<!train )--[a-z]")


@pytest.fixture(scope="module")
def model(trained_run):
    return charlm.load(trained_run, device="cpu", threads=1)


def refused(call):
    """The message of the error that ``call`` raises."""
    with pytest.raises(CharlmError) as error:
        for _ in call() or ():
            pass
    message = str(error.value)
    assert "\n" not in message
    assert not OPTION.search(message), message
    return message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"time": 3}, "time must be a string such as '10m', not 3"),
        ({"split": (90, 5, 5)}, "split must be a string such as '90/5/5'"),
        ({"split": ""}, "split '' must be two or three percentages"),
        ({"lr": "foo"}, "lr must be a number, not 'foo'"),
        ({"steps": -1}, "steps must be above 0, not -1"),
        ({"epochs": -1}, "epochs must be above 0, not -1"),
        ({"optimizer": "lion"}, "not 'lion'"),
        ({"schedule": "x"}, "not 'x'"),
        ({"average": "x"}, "not 'x'"),
        ({"precision": "x"}, "not 'x'"),
        ({"seed": 1.5}, "seed must be an integer"),
        ({"on_event": 3}, "on_event must be a function"),
        ({"distinct": "yes"}, "distinct must be True or False"),
        ({"as_text": 3}, "as_text must be True or False"),
        ({"valid": ""}, "valid must be a path"),
        ({"out": 3}, "out must be a path"),
        ({"device": "cuda:99"}, "device cuda:99"),
    ],
)
def test_wrong_options_of_a_training(text_file, tmp_path, options, words):
    arguments = {"out": tmp_path / "run", "size": "tiny", "device": "cpu", "threads": 1, **options}
    assert words in refused(lambda: charlm.train(text_file, **arguments))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("corpus", [3, None, [], [3], ""])
def test_wrong_corpora(corpus):
    assert refused(lambda: charlm.train(corpus)).startswith("corpus must be a path")


def test_save_every_may_be_an_integer(text_file, tmp_path):
    run = charlm.train(text_file, out=tmp_path / "run", size="tiny", steps=1, save_every=100, threads=1)
    assert run.step == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((3,), "path must be a path, not 3"),
        ((None,), "path must be a path"),
        (("",), "path must be a path"),
        (("shakespeare", "cuda:99"), "device cuda:99: this machine"),
        (("shakespeare", "foo"), "'foo' is not a device"),
        (("shakespeare", "cpu", "x"), "precision must be auto, fp32, bf16 or int8, not 'x'"),
        (("shakespeare", "cpu", "fp32", 0), "threads must be an integer"),
        (("shakespeare", "cpu", "fp32", "1"), "threads must be an integer"),
        (("shakespeare", "cpu", "fp32", 1.5), "threads must be an integer"),
    ],
)
def test_load_checks_its_arguments_at_once(arguments, words):
    assert words in refused(lambda: charlm.load(*arguments))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_load_refuses_a_missing_gpu_at_once(trained_run):
    assert "device cuda" in refused(lambda: charlm.load(trained_run, device="cuda"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": 3}, "prompt must be several texts"),
        ({"prompt": None}, "prompt must be"),
        ({"prompt": b"x"}, "prompt must be"),
        ({"prompt": ["a", 3]}, r"prompt[1] must be a text"),
        ({"length": -1}, "length must be an integer of 0 or more, not -1"),
        ({"length": 1.5}, "length must be"),
        ({"length": "3"}, "length must be"),
        ({"seed": 1.5}, "seed must be an integer"),
        ({"seed": "a"}, "seed must be"),
        ({"seed": True}, "seed must be"),
        ({"seed": 2**63}, "seed must be"),
        ({"temperature": "x"}, "temperature must be a number, not 'x'"),
        ({"temperature": None}, "temperature must be a number"),
        ({"temperature": -1}, "temperature must be 0"),
        ({"top_k": 1.5}, "top_k must be 0 (off) or more, an integer"),
        ({"top_p": "x"}, "top_p must be a number"),
        ({"min_p": 2}, "min_p must be 0 to 1"),
        ({"stop": 3}, "stop must be a text"),
    ],
)
def test_wrong_arguments_of_generate(model, options, words):
    assert words in refused(lambda: model.generate(**{"length": 3, **options}))


@pytest.mark.parametrize("value", [3, None, b"abc", ["a"]])
def test_texts_must_be_strings(model, value):
    for function in (model.score, model.surprisals, model.evaluate, model.fingerprint):
        assert refused(lambda function=function: function(value)).startswith("text must be a text (str)")


@pytest.mark.parametrize("value", ["abc", b"abc", 3, None, [3], [b"a"], [None]])
def test_documents_must_be_several_strings(model, value):
    assert refused(lambda: model.score_documents(value)).startswith("documents")


@pytest.mark.parametrize("window", [0, -1, "x", 1.5, True])
def test_windows_must_be_positive_integers(model, text, window):
    assert "window must be" in refused(lambda: model.evaluate(text, window))


def test_other_wrong_arguments(model, tmp_path):
    for alternatives in (-1, 1.5, "x"):
        assert "alternatives must be" in refused(lambda: model.surprisals("abc", alternatives))  # noqa: B023  # called at once
    for count in (-1, 1.5, "3"):
        assert "count must be" in refused(lambda: model.samples(count))  # noqa: B023  # called at once
    assert "SamplingConfig" in refused(lambda: model.stream("", 5, {"temperature": 1}))
    for members in ([], [3], model):
        assert "model" in refused(lambda: charlm.LanguageModel.ensemble(members))  # noqa: B023  # called at once
    assert "weights must be" in refused(lambda: charlm.export.export("shakespeare", tmp_path / "x", weights="foo"))
    assert "run must be a path" in refused(lambda: charlm.export.export(3, tmp_path / "x"))
    for options in ({"temperature": "x"}, {"top_k": 1.5}, {"top_p": float("nan")}, {"min_p": -1}):
        assert next(iter(options)) in refused(lambda: SamplingConfig(**options))  # noqa: B023  # called at once


def test_numbers_of_numpy_are_numbers(model):
    settings = {"length": np.int64(5), "seed": np.int32(3), "temperature": np.float32(0.5), "top_k": np.int16(4)}
    assert model.generate(**settings) == model.generate(length=5, seed=3, temperature=0.5, top_k=4)


# ------------------------------------------------------------------------------------------------------- copies


def test_a_pickled_model_is_its_path_and_its_options(model):
    data = pickle.dumps(model)
    assert len(data) < 1000
    for other in (pickle.loads(data), copy.deepcopy(model), copy.copy(model)):
        assert repr(other) == repr(charlm.load(model.checkpoint.path, "cpu", threads=1))
        assert other.generate("the ", 20, seed=1) == charlm.load(model.checkpoint.path).generate("the ", 20, seed=1)
    options = ("cpu", "fp32", 1)
    assert pickle.loads(pickle.dumps(charlm.load(model.checkpoint.path, *options)))._options == options


def test_a_pickled_ensemble_is_that_of_its_members(model):
    ensemble = charlm.LanguageModel.ensemble([model, model])
    assert np.array_equal(pickle.loads(pickle.dumps(ensemble)).score("the cat"), ensemble.score("the cat"))


def test_a_model_without_a_path_cannot_be_pickled(model):
    changed = model.with_weights(charlm.checkpoint.model_parts.read_model_parts(model.checkpoint).weights)
    for copied in (pickle.dumps, copy.deepcopy):
        with pytest.raises(UsageError, match="not saved as a checkpoint"):
            copied(changed)


def _total(model):
    return float(model.score("the cat sat").sum())


def test_models_go_to_other_processes(model):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_total, [model]) == [_total(model)]


def test_a_model_shows_what_it_is(model):
    assert re.fullmatch(r"LanguageModel\('.*step-\d+', step \d+, [\d,]+ parameters, char tokenizer.*\)", repr(model))


def test_interleaved_streams_share_a_generator(trained_run, monkeypatch):
    made = []
    genuine = native.Generator.__init__

    def counted(self, *arguments):
        made.append(self)
        genuine(self, *arguments)

    monkeypatch.setattr(native.Generator, "__init__", counted)
    model = charlm.load(trained_run, device="cpu", threads=1)
    if not isinstance(model.generation_engine, NativeEngine):
        pytest.skip("the native engine was not built")
    alone = [model.generate("the ", 200, seed=seed) for seed in (1, 2)]
    streams = [model.stream("the ", 200, seed=seed) for seed in (1, 2)]
    texts = ["", ""]
    for pieces in zip(*streams, strict=False):
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
    assert all(whole.startswith(text) for whole, text in zip(alone, texts, strict=True))
    assert len(texts[0]) > 100
    assert len(made) == 1


# -------------------------------------------------------------------------------------------------------- processes


FORK = """
import os, signal, sys
import torch
import charlm
import charlm.checkpoint.model_parts
torch.set_num_threads(2)
torch.nn.functional.relu(torch.randn(4_000_000)).sum()
for threads in (1, None, 2):
    child = os.fork()
    if not child:
        signal.alarm(60)  # a training that hangs
        try:
            options = {"size": "tiny", "batch": 32, "steps": 2, "threads": threads, "device": "cpu"}
            trained = charlm.train(sys.argv[1], out=f"{sys.argv[2]}/{threads}", **options)
            print(threads, "trained", trained.step, flush=True)
        except charlm.CharlmError as error:
            print(threads, "refused", error, flush=True)
        os._exit(0)
    print("ended", os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in Linux's /proc")
def test_a_forked_child_of_a_process_with_threads_does_not_hang(text_file, tmp_path):
    variables = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", FORK, str(text_file), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
    lines = done.stdout.splitlines()
    assert lines[1::2] == ["ended 0"] * 3
    assert [" ".join(line.split()[:2]) for line in lines[::2]] == ["1 trained", "None trained", "2 refused"]
    assert [line.split()[2] for line in lines[:4:2]] == ["2", "2"]


def test_a_fresh_interpreter_has_every_documented_name():
    code = """
import sys, charlm
assert not {"torch", "numpy"} & sys.modules.keys()
assert set(charlm.__all__) <= set(dir(charlm))
charlm.runs.resume, charlm.errors.UsageError, charlm.export.export, charlm.config.SamplingConfig, charlm.load
"""
    subprocess.run([sys.executable, "-c", code], check=True)
