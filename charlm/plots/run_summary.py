"""What is known about each run of a folder, for ``charlm runs`` and ``charlm.list_runs``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from charlm.arguments import check_path, names_keywords
from charlm.checkpoint.differences import differing_settings, section, settings_of
from charlm.checkpoint.evaluations import noted_evaluation
from charlm.checkpoint.run_folder import RUNS, without_runs
from charlm.checkpoint.step import CONFIG, STATE, open_checkpoint, step_folders
from charlm.config import ModelConfig, TrainingConfig, format_duration, from_dict
from charlm.errors import CharlmError, MissingInputError
from charlm.notebook import html_table

_MAX_LABELS = 4
"""So many settings in which a run differs stand in the table; --json and --csv have all."""
_NOT_TOLD = frozenset({
    "vocabulary_size", "threads", "device", "save_every", "save_every_unit", "validation_ids", "ids_per_second",
    "warmup_share", "eval_every", "steps", "seconds", "epochs",
})  # fmt: skip
"""Settings that follow from the text or the machine, or are seen elsewhere."""


@dataclass(frozen=True)
class RunSummary:
    """A run: its folder, text, size, how long it was trained, and its losses in nats per character.

    ``best_nats_per_char`` is the lowest validation loss, at ``best_step``. ``test_nats_per_char`` is what ``charlm
    eval`` measured on the test split at that step, with its ``test_standard_error``; None where it was not.
    """

    path: Path
    text: str
    text_sha256: str
    layers: int
    hidden: int
    embedding: int
    parameters: int
    step: int
    seconds: float
    best_nats_per_char: float | None
    best_step: int | None
    test_nats_per_char: float | None
    test_standard_error: float | None
    finished: bool
    settings: Mapping[str, Any]
    """All settings of model and training."""

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def size(self) -> str:
        """Layers x width, as in "2 x 512"."""
        return f"{self.layers} x {self.hidden}"

    @property
    def time(self) -> str:
        """``seconds`` as 0:42, 12:05 or 1:02:03."""
        return format_duration(self.seconds)

    def as_dict(self) -> dict[str, Any]:
        """The values that ``charlm runs --json`` prints."""
        return {
            "run": str(self.path), "text": self.text, "text_sha256": self.text_sha256, "layers": self.layers,
            "hidden": self.hidden, "embedding": self.embedding, "parameters": self.parameters, "steps": self.step,
            "seconds": self.seconds, "best_nats_per_char": self.best_nats_per_char, "best_step": self.best_step,
            "test_nats_per_char": self.test_nats_per_char, "test_standard_error": self.test_standard_error,
            "finished": self.finished, "settings": dict(self.settings),
        }  # fmt: skip


class RunList(list[RunSummary]):
    """Runs in order. In a notebook it is a table."""

    def differences(self) -> list[str]:
        """For each run the settings in which it differs from other runs on the same text, as "lr 0.005"."""
        labels = [label(run, self._differing(run)) for run in self]
        return [", ".join(words[:_MAX_LABELS] + ["..."] * (len(words) > _MAX_LABELS)) for words in labels]

    def _differing(self, run: RunSummary) -> list[str]:
        same_text = [{"training": other.settings} for other in self if other.text_sha256 == run.text_sha256]
        return telling_differences(same_text)

    def _repr_html_(self) -> str:
        return html_table(TABLE_COLUMNS, table_rows(self))


def label(run: RunSummary, names: Sequence[str]) -> list[str]:
    """The settings ``names`` of a run in words, without those that it does not have."""
    return [setting(name, value) for name in names if (value := run.settings.get(name)) is not None]


def setting(name: str, value: Any) -> str:
    """A setting in words, as "dropout output 0.2"."""
    return f"{name.replace('_', ' ')} {f'{value:g}' if isinstance(value, float) else value}"


def telling_differences(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings in which runs with these config.json differ, the most interesting first.

    Without those that follow from others, and without the limit, which the table and the x axis show.
    """
    order = [field.name for config in (ModelConfig, TrainingConfig) for field in fields(config)]
    names = differing_settings(configs, _NOT_TOLD)
    settings = [settings_of(config) for config in configs]
    if "hidden" in names and all(each.get("embedding") == each.get("hidden") for each in settings):
        names = [name for name in names if name != "embedding"]
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


TABLE_COLUMNS = ("run", "text", "size", "steps", "time", "best loss", "test loss", "finished", "differs in")


def table_rows(runs: RunList) -> list[tuple[str, ...]]:
    """The cells of ``TABLE_COLUMNS`` for each run; "-" stands for what was not measured."""
    return [
        (
            run.name,
            run.text,
            run.size,
            f"{run.step:,}",
            run.time,
            "-" if run.best_nats_per_char is None else f"{run.best_nats_per_char:.4f}",
            _with_error(run.test_nats_per_char, run.test_standard_error),
            "yes" if run.finished else "no",
            differs or "-",
        )
        for run, differs in zip(runs, runs.differences(), strict=True)
    ]


def _with_error(loss: float | None, error: float | None) -> str:
    if loss is None:
        return "-"
    return f"{loss:.4f}" + ("" if error is None else f" ± {error:.4f}")


@names_keywords
def list_runs(folder: str | Path = RUNS) -> RunList:
    """All runs in ``folder``, by name. Raises ``MissingInputError`` where it has none.

    A run without a checkpoint yet is left out. Of a damaged run a warning goes to the logger ``charlm``.
    """
    return runs_in(check_path("folder", folder))


def runs_in(folder: Path) -> RunList:
    """``list_runs``; ``folder`` may be a run itself."""
    if not folder.is_dir():
        raise MissingInputError(f"{folder}/ does not exist; name a folder of runs, or train one: charlm train FILE")
    places = [folder] if step_folders(folder) else sorted(folder.iterdir())
    runs = RunList(_summaries(places))
    if not runs:
        raise without_runs(folder)
    return runs


def _summaries(places: Sequence[Path]) -> Iterator[RunSummary]:
    for path in places:
        if path.is_dir() and not path.name.startswith(".") and step_folders(path):
            try:
                yield summarize(path)
            except CharlmError:  # opening it has logged a warning for each of its steps
                continue


def summarize(run: Path) -> RunSummary:
    """The summary of a run with a checkpoint. Raises ``DataError`` where no step passes its checks."""
    latest = open_checkpoint(run, "latest", (CONFIG, STATE))
    config = latest.config
    model = from_dict(ModelConfig, config.get("model"), str(latest.path))
    corpus = section(config, "corpus")
    best = open_checkpoint(run, "best", (CONFIG,))
    best_step = None if best.validation is None else best.step
    test = noted_evaluation(run, "test", latest.step if best_step is None else best_step)
    seconds: Any = config.get("seconds")
    return RunSummary(
        path=run,
        text=str(corpus.get("name", "")),
        text_sha256=str(corpus.get("sha256", "")),
        layers=model.layers,
        hidden=model.hidden,
        embedding=model.embedding,
        parameters=model.parameter_count(),
        step=latest.step,
        seconds=float(seconds) if type(seconds) in (int, float) else 0.0,
        best_nats_per_char=best.validation,
        best_step=best_step,
        test_nats_per_char=None if test is None else test[0],
        test_standard_error=None if test is None else test[1],
        finished=latest.is_finished,
        settings=settings_of(config),
    )
