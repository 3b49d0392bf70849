"""What the runs of one recipe have in common, according to the config.json of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from charlm.checkpoint.differences import differing_settings, section
from charlm.cli.output import say

_NOT_OF_THE_RECIPE = {"seed", "vocabulary_size", "threads", "device", "save_every", "save_every_unit"}

_SPEED = "ids_per_second"
"""The measured speed, from which --time takes defaults."""


def say_what_differs(name: str, configs: Sequence[Mapping[str, Any]]) -> None:
    """Print a notice if the spread of the runs called ``name`` is not that of seeds."""
    if options := differing_options(configs):
        remedy = "; with --steps instead of --time they would not depend on the machine" * (_SPEED in options)
        say(f"{name} differ in {', '.join(options)}, so their spread is not only that of seeds{remedy}")
    if seeds := repeated_seeds(configs):
        say(f"several of {name} have seed {', '.join(seeds)}, so they spread less than runs of different seeds")


def differing_options(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings of model and training in which runs differ that should differ in their seed alone."""
    return differing_settings(configs, _NOT_OF_THE_RECIPE)


def repeated_seeds(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The seeds that several of the runs have."""
    counts = Counter(str(seed) for config in configs if (seed := section(config, "training").get("seed")) is not None)
    return [seed for seed, count in counts.items() if count > 1]
