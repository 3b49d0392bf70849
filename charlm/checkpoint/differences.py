"""In which settings runs differ, according to the config.json of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of model and training in a config.json, in its order; empty where it has none."""
    return {name: value for part in ("model", "training") for name, value in section(config, part).items()}


def section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of a config.json; empty if it is missing or is not an object."""
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def differing_settings(configs: Sequence[Mapping[str, Any]], ignored: Collection[str] = ()) -> list[str]:
    """The names of the settings in which the runs differ, in alphabetical order, without those that are ``ignored``."""
    settings = [settings_of(config) for config in configs]
    names = sorted({name for each in settings for name in each}.difference(ignored))
    return [name for name in names if any(each.get(name) != settings[0].get(name) for each in settings[1:])]
