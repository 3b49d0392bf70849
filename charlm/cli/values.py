"""What ``charlm eval`` shows of a model with conditions: the measures for each value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from charlm.corpus.trained_table import TrainedTable
    from charlm.evaluation.metrics import Evaluation

ByValue: TypeAlias = "Mapping[str | None, Evaluation]"
"""Value -> the evaluation of its documents; None stands for values that the training text does not have."""
MAX_SHOWN = 10


def value_facts(table: TrainedTable | None, by_value: ByValue) -> dict[str, Any]:
    """What --json adds: the column of the condition and, the most frequent value first, the measures of each value."""
    if table is None or not by_value:
        return {}
    values = {value: evaluation.as_dict() for value, evaluation in _ordered(by_value) if value is not None}
    unknown = by_value.get(None)
    others = {} if unknown is None else {"unknown_values": unknown.as_dict()}
    return {"given": table.given, "by_value": values, **others}


def value_rows(table: TrainedTable | None, by_value: ByValue) -> str:
    """A table of the most frequent values."""
    if table is None or not by_value:
        return ""
    ordered = _ordered(by_value)
    shown = [(value, evaluation) for value, evaluation in ordered if value is not None][:MAX_SHOWN]
    rows = [(_cut(value), evaluation) for value, evaluation in shown]
    if None in by_value:
        rows.append(("(other values)", by_value[None]))
    more = f", the {MAX_SHOWN} most frequent of {len(by_value):,}" if len(ordered) > len(rows) else ""
    lines = [
        f"  {name:<26}{evaluation.nats_per_char:.4f}{_margin(evaluation):<12}{evaluation.documents:>10,}\n"
        for name, evaluation in rows
    ]
    return f"by {table.given}{more}\n  {'':<26}{'nats per character':<18}{'documents':>10}\n{''.join(lines)}"


def _ordered(by_value: ByValue) -> list[tuple[str | None, Evaluation]]:
    return sorted(by_value.items(), key=lambda item: -item[1].documents)


def _margin(evaluation: Evaluation) -> str:
    return "" if evaluation.standard_error is None else f" ± {evaluation.standard_error:.4f}"


def _cut(value: str) -> str:
    printable = "".join(c if c.isprintable() else "\ufffd" for c in value)
    return printable if len(printable) <= 24 else f"{printable[:23]}…"
