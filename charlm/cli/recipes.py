"""What the runs of one recipe have in common, according to the config.json of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from charlm.cli.output import say

_NOT_OF_THE_RECIPE = {"seed", "vocabulary_size", "threads", "device", "save_every", "save_every_unit"}


def say_what_differs(name: str, configs: Sequence[Mapping[str, Any]]) -> None:
    """Print a notice if the spread of the runs called ``name`` is not that of seeds."""
    if options := differing_options(configs):
        say(f"{name} differ in {', '.join(options)}, so their spread is not only that of seeds")
    if seeds := repeated_seeds(configs):
        say(f"several of {name} have seed {', '.join(seeds)}, so they spread less than runs of different seeds")


def differing_options(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings of model and training in which runs differ that should differ in their seed alone."""
    recipes = [
        {
            name: value
            for section in ("model", "training")
            for name, value in _section(config, section).items()
            if name not in _NOT_OF_THE_RECIPE
        }
        for config in configs
    ]
    names = sorted({name for recipe in recipes for name in recipe})
    return [name for name in names if any(recipe.get(name) != recipes[0].get(name) for recipe in recipes[1:])]


def repeated_seeds(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The seeds that several of the runs have."""
    counts = Counter(str(seed) for config in configs if (seed := _section(config, "training").get("seed")) is not None)
    return [seed for seed, count in counts.items() if count > 1]


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    return section if isinstance(section, Mapping) else {}
