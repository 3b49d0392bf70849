"""What a condition tells about a text, and whether the model should also learn to predict the condition.

    python benchmarks/conditions.py [--steps 400] [--seeds 1 2] [--json]

Makes the table of docs/tutorials/tables.md: names in five languages, made up by rules. From the rules follow the best
possible loss and the best possible accuracy. Trains three models with each seed, which also shuffles the split: on the
names alone, on the names given their languages, and on both, where the characters of the language are predicted, too.

    test_nats       nats per character of the names in the test part, ends included
    best_nats       the same with the probabilities of the rules
    accuracy        of the most probable language of a name, by Bayes' theorem
    best_accuracy   the same with the probabilities of the rules
"""

from __future__ import annotations

import argparse
import ast
import functools
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from common import make_parser, report

import charlm
from charlm.corpus import batches
from charlm.corpus.prepared import open_corpus
from charlm.evaluation.by_value import documents_with_values

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorials" / "tables.md"
Rules = Mapping[str, tuple[int, str, str, str]]
TRAININGS = {"names alone": None, "names given languages": "language", "the same, languages predicted": "language"}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=400, help="steps of each training (default 400)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="seeds (default 1 2)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rules = make_table(Path(folder))
        rows = [
            {"training": name, "seed": seed, **measure(Path(folder), rules, name, seed, arguments)}
            for seed in arguments.seeds
            for name in TRAININGS
        ]
    report(arguments, rows)


def make_table(folder: Path) -> Rules:
    """Write people.csv as the tutorial does. Returns its rules."""
    found = re.search(r"```python\n(.*?)```", TUTORIAL.read_text("utf-8"), re.DOTALL)
    assert found, "the tutorial has a block that makes the table"
    subprocess.run([sys.executable, "-c", found[1]], cwd=folder, check=True)
    assigned = next(node for node in ast.parse(found[1]).body if isinstance(node, ast.Assign))
    return ast.literal_eval(assigned.value)


def measure(folder: Path, rules: Rules, name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one model and evaluate it on its test part."""
    predicted = patch.object(batches, "Conditions", lambda *_: None) if "predicted" in name else nullcontext()
    with predicted:
        trained = charlm.train(
            folder / "people.csv", out=folder / f"{name} {seed}", column="name", given=TRAININGS[name],
            split="80/10/10", size="small", steps=arguments.steps, seed=seed, threads=1, device="cpu",
        )  # fmt: skip
    model, corpus = charlm.load(trained.run, threads=1), open_corpus(trained.run / "corpus")
    ids = corpus.ids("test")
    loss = model.evaluate_ids([ids.read(0, len(ids))]).nats_per_char
    pairs = [pair for part in documents_with_values(corpus, "test") for pair in zip(*part, strict=True)]
    return {"test_nats": loss, **best(rules, pairs), "accuracy": accuracy(model, pairs)}


def accuracy(model: charlm.LanguageModel, pairs: list[tuple[str, str]]) -> float | None:
    """Of (language, name) pairs; None for a model that has no condition."""
    if model.table is None or model.table.given is None:
        return None
    found = model.classify(name for _, name in pairs)
    return sum(each.value == language for each, (language, _) in zip(found, pairs, strict=True)) / len(pairs)


def best(rules: Rules, pairs: list[tuple[str, str]]) -> dict[str, float | None]:
    """What the rules themselves reach on (language, name) pairs; the language is empty where it is not given."""
    total = sum(share for share, *_ in rules.values())
    nats, right, characters = 0.0, 0, 0
    for language, name in pairs:
        joint = {each: probability(name.lower(), rules[each]) * rules[each][0] / total for each in rules}
        given = joint[language] * total / rules[language][0] if language else sum(joint.values())
        nats -= math.log(given)
        right += max(joint, key=lambda each: joint[each]) == language
        characters += len(name) + 1
    conditional = bool(pairs[0][0])
    return {"best_nats": nats / characters, "best_accuracy": right / len(pairs) if conditional else None}


def probability(name: str, rules: tuple[int, str, str, str]) -> float:
    """Of ``name`` in a language: one or two syllables, one with probability 2/3, then a beginning and an ending."""
    begins, vowels, ends = (letters.split() for letters in rules[1:])

    @functools.cache
    def rest(position: int, syllables: int) -> float:
        if not syllables:
            found = sum(name[position:] == begin + end for begin in begins for end in ends)
            return found / len(begins) / len(ends)
        parts = (begin + vowel for begin in begins for vowel in vowels)
        found = sum(rest(position + len(part), syllables - 1) for part in parts if name.startswith(part, position))
        return found / len(begins) / len(vowels)

    return (2 * rest(0, 1) + rest(0, 2)) / 3


if __name__ == "__main__":
    main()
