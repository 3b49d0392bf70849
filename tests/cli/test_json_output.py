"""The keys of --json are those that docs/reference/json.md lists."""

import json
import re
from pathlib import Path

import pytest
from commands import charlm

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "json.md").read_text("utf-8")


def listed(begin, end):
    """The names in backticks between two parts of the page."""
    part = PAGE.partition(begin)[2].partition(end)[0]
    return set(re.findall(r"`([a-z]\w*)`", part))


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["eval", "FILE", "--json"], listed("## charlm eval", "Documents also have")),
        (["score", "FILE", "--json"], listed("for each document: ", "`--csv` has") - {"percentile"}),
        (["score", "FILE", "--by", "word", "--top", 1, "--json"], listed("With `--by word`:", "With `--by\n")),
        (["score", "FILE", "--by", "character", "--top", 1, "--json"], listed("character`: ", "See\n")),
        (["generate", "--length", 5, "--samples", 2, "--json"], listed("| `charlm generate` |", "|\n")),
        (["neurons", "FILE", "--top", 1, "--json"], {"checkpoint", "neurons"}),
    ],
)
def test_keys_are_those_of_the_page(words, keys, trained_run, text_file):
    command, *rest = [text_file if word == "FILE" else word for word in words]
    result = charlm(command, *rest, "-c", trained_run)
    assert result.returncode == 0, result.stderr
    assert set(json.loads(result.stdout.splitlines()[0])) == keys
