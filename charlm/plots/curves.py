"""The curves of a run: what a picture of it shows, drawn or in characters."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from charlm.checkpoint.differences import section, settings_of
from charlm.checkpoint.run_folder import CORPUS
from charlm.config import MAX_JSON_BYTES, parse_json
from charlm.errors import CharlmError, DataError, UsageError
from charlm.plots.metrics import KINDS, Columns, read_config, read_metrics, run_with_metrics
from charlm.plots.run_summary import setting, telling_differences
from charlm.system.disk import read_at_most

AXES = ("steps", "seconds", "epochs")
_COLUMN = {"steps": "step", "seconds": "seconds", "epochs": "epochs"}
_MAX_LABELS = 3
"""So many differing settings are named in a legend."""


class Points(NamedTuple):
    """A line: the x and y of its points, without those that were not measured."""

    xs: list[float]
    ys: list[float]


class Best(NamedTuple):
    """The evaluation with the lowest validation loss."""

    x: float
    nats: float
    step: int


@dataclass(frozen=True)
class Curve:
    """What a picture shows of a run. Losses are in nats per character.

    ``uniform`` and ``unigram`` are the losses of a model for which all characters are equally likely, and of one that
    knows their frequencies; None where the run has lost its corpus.
    """

    label: str
    text: str
    title: str
    train: Points
    valid: Points
    lr: Points
    best: Best | None
    uniform: float | None
    unigram: float | None


def title_of(curves: Sequence[Curve]) -> str:
    """What a picture of them shows."""
    if len(curves) == 1:
        return curves[0].title
    texts = {curve.text for curve in curves}
    return f"{texts.pop()}: {len(curves)} runs" if len(texts) == 1 else f"{len(curves)} runs"


def read_curves(runs: Sequence[Path], x: str) -> list[Curve]:
    """The curves of ``runs`` over ``x``, "steps", "seconds" or "epochs".

    Raises ``MissingInputError`` for a run without metrics.jsonl and ``DataError`` for one without measurements.
    """
    if x not in AXES:
        raise UsageError(f"--x must be one of {', '.join(AXES)}, not {x!r:.40}")
    folders = [run_with_metrics(run) for run in runs]
    configs = [read_config(folder) for folder in folders]
    labels = _labels(folders, configs)
    return [_curve(*each, x) for each in zip(folders, configs, labels, strict=True)]


def evaluations_curve(run: Path, config: Mapping[str, Any]) -> Curve | None:
    """The curve over the steps of the run with this config.json, quickly: of its evaluations only.

    None before the first evaluation.
    """
    try:
        return _curve(run, config, "", "steps", ("valid",))
    except CharlmError:
        return None


def _curve(run: Path, config: Mapping[str, Any], label: str, x: str, kinds: Collection[str] = KINDS) -> Curve:
    columns = read_metrics(run, config, kinds)
    if not columns["step"]:
        raise DataError(f"{run} has no measurement yet; wait for step 50, or for the first evaluation")
    if x == "epochs" and columns["epochs"][0] is None:
        raise DataError(f"{run} has no checkpoint yet, which says how long an epoch is; use --x steps")
    at = columns[_COLUMN[x]]
    valid = [nats if kind == "valid" else None for kind, nats in _pairs(columns, "kind", "valid_nats_per_char")]
    return Curve(
        label=_printable(label),
        text=_printable(str(section(config, "corpus").get("name", run.name))),
        title=_printable(_title(run, config)),
        train=_points(at, _train_losses(columns)),
        valid=_points(at, valid),
        lr=_points(at, columns["lr"]),
        best=_best(at, columns["step"], valid),
        **_baselines(run, config),
    )


def _printable(name: str) -> str:
    """``name`` without characters that act on a terminal or that no font has."""
    return "".join(c if c.isprintable() else "\ufffd" for c in name)


def _pairs(columns: Columns, first: str, second: str) -> list[tuple[Any, Any]]:
    return list(zip(columns[first], columns[second], strict=True))


def _points(xs: Sequence[float], ys: Sequence[float | None]) -> Points:
    kept = [(float(x), float(y)) for x, y in zip(xs, ys, strict=True) if y is not None and math.isfinite(y)]
    return Points([x for x, _ in kept], [y for _, y in kept])


def _train_losses(columns: Columns) -> list[float | None]:
    """The mean training loss of the steps since the line before, from the means since the evaluation before."""
    losses: list[float | None] = []
    began, done, total = 0, 0, 0.0  # the evaluation before; of the steps since then, those counted, and their sum
    for kind, step, mean in zip(columns["kind"], columns["step"], columns["train_nats_per_char"], strict=True):
        count = step - began
        if mean is None or count <= done:
            losses.append(None)
        else:
            losses.append((mean * count - total) / (count - done))
            done, total = count, mean * count
        if kind == "valid":
            began, done, total = step, 0, 0.0
    return losses


def _best(at: Sequence[float], steps: Sequence[int], valid: Sequence[float | None]) -> Best | None:
    found = [Best(x, nats, step) for x, step, nats in zip(at, steps, valid, strict=True) if nats is not None]
    return min(found, key=lambda best: best.nats, default=None)


def _baselines(run: Path, config: Mapping[str, Any]) -> dict[str, float | None]:
    try:
        path = run / CORPUS / "corpus.json"
        description = parse_json(read_at_most(path, MAX_JSON_BYTES + 1), str(path))
        has_documents = section(config, "tokenizer").get("documents") is not None
        uniform, unigram = math.log(description["distinct_characters"] + has_documents), description["unigram_nats"]
        return {"uniform": uniform, "unigram": float(unigram)}
    except (OSError, DataError, KeyError, TypeError, ValueError):
        return {"uniform": None, "unigram": None}


def _title(run: Path, config: Mapping[str, Any]) -> str:
    """The text and the size of the model; before the first checkpoint the name of the folder."""
    try:
        model = config["model"]
        return f"{config['corpus']['name']}, {model['layers']} x {model['hidden']}"
    except (KeyError, TypeError):
        return run.name


def _labels(folders: Sequence[Path], configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each run its name, and in what its settings differ from the others'."""
    differing = telling_differences(configs)
    labels = []
    for folder, config in zip(folders, configs, strict=True):
        own = [(name, value) for name in differing if (value := settings_of(config).get(name)) is not None]
        words = [setting(name, value) for name, value in own[:_MAX_LABELS]] + ["..."] * (len(own) > _MAX_LABELS)
        labels.append(": ".join([folder.resolve().name, *([", ".join(words)] if words else [])]))
    return labels
