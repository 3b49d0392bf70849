"""checkpoints/shakespeare, the model that the repository contains, loads, generates, and predicts Shakespeare."""

from pathlib import Path

import pytest
from commands import charlm

import charlm as library

MODEL = Path(__file__).parent.parent / "checkpoints" / "shakespeare"
# From a play that is not in its corpus.
HAMLET = """HAMLET:
To be, or not to be, that is the question:
Whether 'tis nobler in the mind to suffer
The slings and arrows of outrageous fortune,
Or to take arms against a sea of troubles
And by opposing end them.
"""


@pytest.fixture(scope="module")
def model():
    return library.load(MODEL)


def test_command_line_generates_text():
    result = charlm("generate", "--checkpoint", str(MODEL), "--prompt", "ROMEO:", "--length", "60", "--seed", "1")
    assert result.returncode == 0, result.stderr
    text = result.stdout.decode()
    assert text.startswith("ROMEO:\n")
    assert len(text) >= len("ROMEO:") + 60


def test_shakespeare_is_more_likely_than_reversed_shakespeare(model):
    losses = [model.evaluate(text).nats_per_char for text in (HAMLET, HAMLET[::-1])]
    assert losses[0] < 1.9, losses  # a unigram model has about 3.3
    assert losses[1] > 3.5, losses


def test_checkpoint_is_small_and_has_no_training_state():
    files = sorted(path.name for path in MODEL.iterdir())
    needed = ["README.md", "config.json", "curve.svg", "manifest.json", "model.safetensors", "tokenizer.model"]
    assert files == needed
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 6_000_000


def test_model_card_names_the_corpus_and_the_commands():
    card = (MODEL / "README.md").read_text("utf-8")
    for words in ("tinyshakespeare", "charlm train", "charlm export", "--seed", "per character"):
        assert words in card, words
