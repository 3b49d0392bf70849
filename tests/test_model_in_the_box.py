"""checkpoints/shakespeare, which is there right after install: it loads, writes, and knows Shakespeare."""

from pathlib import Path

import pytest
from commands import charlm

import charlm as library

MODEL = Path(__file__).parent.parent / "checkpoints" / "shakespeare"
# Of a play that its corpus does not have.
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


def test_it_writes_from_the_command_line():
    result = charlm("generate", "--checkpoint", str(MODEL), "--prompt", "ROMEO:", "--length", "60", "--seed", "1")
    assert result.returncode == 0, result.stderr
    written = result.stdout.decode()
    assert written.startswith("ROMEO:\n")
    assert len(written) >= len("ROMEO:") + 60


def test_it_predicts_shakespeare_and_less_so_what_is_not(model):
    losses = [model.evaluate(text).nats_per_char for text in (HAMLET, HAMLET[::-1])]
    assert losses[0] < 1.9, losses  # a guess by the frequency of characters costs about 3.3
    assert losses[1] > 3.5, losses


def test_it_is_small_and_has_no_training_state():
    files = sorted(path.name for path in MODEL.iterdir())
    assert files == ["README.md", "config.json", "manifest.json", "model.safetensors", "tokenizer.model"]
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 6_000_000


def test_its_card_says_where_it_comes_from_and_how_to_repeat_it():
    card = (MODEL / "README.md").read_text("utf-8")
    for said in ("tinyshakespeare", "charlm train", "charlm export", "--seed", "per character"):
        assert said in card, said
