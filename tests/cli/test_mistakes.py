"""Wrong words on the command line: one line repeats the word and names the nearest one that exists."""

import pytest
from commands import charlm, one_line


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["train", "x", "--learning-rate", "3"], "no such option: --learning-rate; do you mean --lr?"),
        (["train", "x", "--max_epochs=3"], "no such option: --max_epochs; do you mean --epochs?"),
        (["train", "x", "--epochz", "3"], "no such option: --epochz; do you mean --epochs?"),
        (["generate", "--max-new-tokens", "3"], "do you mean --length?"),
        (["score", "x", "--learning-rate", "3"], "no such option: --learning-rate; see"),  # score has no --lr
        (["trian", "x"], "no such command: trian; do you mean charlm train?"),
        (["--debug", "xyzzy"], "no such command: xyzzy; see"),
        (["train", "x", "--lr", "foo"], "--lr 'foo' is not valid: "),
        (["train", "x", "--lr=foo", "--seed", "1"], "--lr 'foo' is not valid: "),
        (["train", "x", "--threads", "0"], "--threads '0' is not valid: "),
        (["generate", "-n", "many"], "--length 'many' is not valid: "),
        (["train", "x", "--lr"], "'--lr' requires an argument"),
    ],
)
def test_the_word_and_the_nearest_are_named(words, shown):
    result = charlm(*words)
    assert result.returncode == 2
    message = one_line(result)
    assert shown in message
    assert message.endswith("--help\n")
    assert "unable to" not in message


def test_the_option_that_an_argument_was_meant_for():
    assert "generate --prompt 'Once upon'; see" in one_line(charlm("generate", "Once upon"))
    assert "info --checkpoint runs/a; see" in one_line(charlm("info", "runs/a"))
