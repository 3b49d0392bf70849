"""``charlm info``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.options import CheckpointOption, DeviceOption, JsonOption
from charlm.cli.output import bits, chosen_checkpoint, write_json, write_text
from charlm.config import format_duration
from charlm.errors import DataError

if TYPE_CHECKING:
    from charlm.corpus.trained_table import TrainedTable


def info(
    checkpoint: CheckpointOption = None,
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or int8.")] = "auto",
    json: JsonOption = False,
) -> None:
    """Describe a model. Prints corpus, recipe, size, best loss, and the engine that runs it on this machine."""
    from charlm.checkpoint.run_folder import RunFolder
    from charlm.checkpoint.step import has_step_name
    from charlm.config import TrainingConfig, from_dict
    from charlm.language_model import open_model

    model = open_model(chosen_checkpoint(checkpoint), device, precision)
    facts = model.describe()
    facts["parameters"] = model.config.parameter_count()
    facts["saved_by_tying"] = model.config.saved_by_tying()
    path = model.checkpoint.path
    facts["steps_kept"] = RunFolder(path.parent).step_numbers() if has_step_name(path) else []
    if json:
        write_json(facts)
    else:
        from_dict(TrainingConfig, facts.get("training"), f"{facts['path']}: config.json")
        try:
            rows = _rows(facts)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{facts['path']}: config.json is incomplete or damaged ({error!r:.60}); restore it from a backup"
            ) from None
        write_text("".join(f"{label:<12}{_printable(value)}\n" for label, value in rows))


def _printable(text: str) -> str:
    """``text`` without control characters, which could act on a terminal. Surrogate escapes (raw bytes) are kept."""
    return "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else "\ufffd" for c in text)


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    model, training, corpus = facts["model"], facts["training"], facts["corpus"]
    splits = {name: corpus["splits"][name] for name in ("train", "valid", "test") if name in corpus["splits"]}
    sizes = ", ".join(f"{name} {size['characters']:,}" for name, size in splits.items())
    loss = facts["validation"]
    dropouts = ", ".join(
        f"{name.removeprefix('dropout_').replace('_', ' ')} {model.get(name, 0.0):g}"
        for name in ("dropout_embedding", "dropout_input", "dropout_hidden", "dropout_output", "weight_drop")
    )
    narrowed = f", embedding {model['embedding']}" if model["embedding"] != model["hidden"] else ""
    return [
        (
            "checkpoint",
            f"{facts['path']} (kept: {', '.join(f'step {step}' for step in facts['steps_kept']) or 'this'})",
        ),
        ("corpus", f"{corpus['name']}: {sizes} characters; sha256 {corpus['sha256'][:12]}"),
        *_document_rows(facts),
        ("tokenizer", f"{facts['tokenizer']['kind']}, {model['vocabulary_size']} ids{_normal_form(facts)}"),
        ("model", f"{model['layers']} x {model['hidden']}{narrowed}, {facts['parameters']:,} parameters"),
        ("weights", facts.get("weights") or "f32"),
        ("tying", f"saves {facts['saved_by_tying']:,} parameters"),
        ("dropout", dropouts),
        (
            "recipe",
            f"{training['optimizer']}, lr {training['lr']:g}, {training['schedule']}, clip {training['clip']}, "
            f"average {training.get('average', 'none')}, {_batch(facts)}, seed {training['seed']}{_teaching(facts)}",
        ),
        (
            "trained",
            f"{facts['step']} steps in {format_duration(facts['seconds'])} "
            f"on {training['device']}, {training['precision']}",
        ),
        *_speed_rows(training),
        (
            "validation",
            "not evaluated at this step" if loss is None else f"loss {loss:.4f} nats/char ({bits(loss):.3f} bits/char)",
        ),
        *_temperature_rows(facts),
        ("engine", facts["engine"]),
    ]


def _temperature_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    temperature = facts.get("temperature")
    if temperature is None:
        return []
    return [("temperature", f"{temperature:.3f}, fitted on the validation text; the logits are divided by it")]


def _teaching(facts: dict[str, Any]) -> str:
    """How many generations there are, or who the teachers were."""
    generations, taught = facts["training"].get("generations", 1), facts.get("soft_targets")
    if generations > 1:
        return f", {generations} generations"
    return "" if taught is None else f", learned from {', '.join(taught['teachers'])}"


def _normal_form(facts: dict[str, Any]) -> str:
    form = facts["tokenizer"].get("normalize")
    return "" if form is None else f", texts normalized to {str(form).upper()}"


def _speed_rows(training: dict[str, Any]) -> list[tuple[str, str]]:
    speed = training.get("ids_per_second")
    if speed is None:
        return []
    return [("speed", f"{speed:,.0f} ids per second, measured before the first step and rounded")]


def _document_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    separator = facts["tokenizer"].get("documents")
    if separator is None:
        return []
    counts = ", ".join(f"{name} {size['documents']:,}" for name, size in facts["corpus"]["splits"].items())
    from charlm.corpus.trained_table import TrainedTable

    start, table = facts["tokenizer"].get("document_start"), TrainedTable.of(facts, facts["path"])
    what = separator if start is None else f"{separator} {start}"
    return [("documents", f"{what}: {counts}"), *(_table_rows(table) if table is not None else [])]


def _table_rows(table: TrainedTable) -> list[tuple[str, str]]:
    known = [] if table.given is None else [("given", f"{table.given}, {len(table.counts):,} values; {table.listed()}")]
    return [("table", table.columns()), *known]


def _batch(facts: dict[str, Any]) -> str:
    batch, bptt = facts["training"]["batch"], facts["training"]["bptt"]
    if facts["tokenizer"].get("documents") is None:
        return f"{batch} streams, chunks of {bptt}"
    return f"up to {batch * bptt:,} characters per step in chunks of {bptt}"
