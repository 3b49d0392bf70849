"""What a model that was trained on a table keeps of it, and the conditions that it can be given."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from charlm.corpus.conditions import with_value, with_values
from charlm.corpus.pieces import Piece
from charlm.errors import DataError, UsageError
from charlm.tokenizer.conditions import prefix_ids
from charlm.tokenizer.normalization import normalize
from charlm.tokenizer.protocol import Ids, Tokenizer, code_points

_MAX_LISTED = 160
"""Characters of a list of columns or values in a message."""


@dataclass(frozen=True)
class TrainedTable:
    """What a model that was trained on a table knows of it: the columns, and the values of the condition."""

    column: str
    given: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    """How many training documents have a value. Empty without a condition."""

    @classmethod
    def of(cls, config: Mapping[str, Any], where: str) -> TrainedTable | None:
        """From the content of config.json or corpus.json; None for plain text. Raises ``DataError``."""
        described = config.get("table")
        if described is None:
            return None
        try:
            table = cls(described["column"], described.get("given"), described.get("values", {}))
            names = [table.column, *table.counts] + ([] if table.given is None else [table.given])
            numbers = list(table.counts.values())
            if not all(isinstance(name, str) for name in names) or (table.given is None) == bool(numbers):
                raise TypeError("a column or a value")
            if not all(type(number) is int and 0 < number < 2**53 for number in numbers):
                raise TypeError("a count")
        except (AttributeError, KeyError, TypeError) as error:
            raise DataError(f"{where}: table is damaged ({error!r:.60}); restore it from a backup") from None
        return table

    def as_dict(self) -> dict[str, Any]:
        """What ``of`` reads."""
        condition = {} if self.given is None else {"given": self.given, "values": dict(self.counts)}
        return {"column": self.column, **condition}

    def columns(self) -> str:
        """Which columns, in words."""
        return f"column {self.column}" + ("" if self.given is None else f" given {self.given}")

    def frequent(self) -> list[tuple[str, int]]:
        """The values and their counts, the most frequent first."""
        return sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))

    def check_value(self, value: str) -> None:
        """Raise ``UsageError``, which lists the values, unless the training text has ``value``."""
        if value in self.counts:
            return
        similar = {known.casefold(): known for known in self.counts}
        near = difflib.get_close_matches(value.casefold(), similar, 1)
        guess = f"did you mean {similar[near[0]]!r:.60}? " if near else ""
        raise UsageError(f"{value!r:.60} is not a known {self.given}; {guess}{self.listed()}")

    def listed(self) -> str:
        """The most frequent values and their counts, in words."""
        known = [f"{value:.60} ({count:,})" for value, count in self.frequent()]
        return f"known: {listed(known)}"


class ModelConditions:
    """What is read before a text by a model with ``tokenizer`` that was trained on ``table`` (None: on plain text).

    Raises ``DataError`` where one of them has conditions and the other has not.
    """

    def __init__(self, table: TrainedTable | None, tokenizer: Tokenizer) -> None:
        self._table = None if table is None or table.given is None else table
        self._tokenizer = tokenizer
        if (self._table is None) != (tokenizer.separator_id is None):
            raise DataError("config.json: the table and the tokenizer do not fit together; restore it from a backup")

    def counts(self) -> Mapping[str, int]:
        """How many training documents have each value. Raises ``UsageError`` for a model without conditions."""
        return self._required().counts

    def prefix(self, given: str | None, known: bool = False) -> list[Ids]:
        """The ids of the condition ``given``, in one block; none for a model without conditions.

        Raises ``UsageError`` unless the model has conditions and ``given`` is a value, with ``known`` one of those that
        the training text has.
        """
        if given is None and self._table is None:
            return []
        table = self._required()
        if not isinstance(given, str):
            raise UsageError(f"this model needs the {table.given} of a text, given; {table.listed()}")
        given = self._normal(given)
        if known:
            table.check_value(given)
        return [prefix_ids(self._tokenizer, given)]

    def added(self, pieces: Iterable[Piece], given: str | Iterable[str] | None) -> Iterable[Piece]:
        """``pieces`` with the condition ``given``, or of single documents with as many values. Errors as ``prefix``."""
        if given is None or isinstance(given, str):
            self.prefix(given)
            return pieces if given is None else with_value(pieces, self._normal(given), self._tokenizer.kind)
        self._required()
        if not isinstance(given, Iterable):
            raise UsageError(f"given must be a text, or one for each document, not {given!r:.40}")
        return self._with_own_values(pieces, iter(given))

    def _with_own_values(self, pieces: Iterable[Piece], values: Iterator[str]) -> Iterator[Piece]:
        for piece in pieces:
            value = next(values, None)
            if not isinstance(value, str):
                raise UsageError(f"given must be a text, or one for each document; {value!r:.40} is not a text")
            value = self._normal(value)
            codes = self._tokenizer.encode(value) if self._tokenizer.kind == "byte" else code_points(value)
            yield with_values(Piece(codes, np.full(1, len(codes), np.int64)), piece)

    def _normal(self, value: str) -> str:
        return normalize(value, self._tokenizer.normalization)

    def _required(self) -> TrainedTable:
        if self._table is None:
            raise UsageError("this model was trained without a condition; leave out what is given")
        return self._table


def listed(names: Sequence[str]) -> str:
    """Names in a message, as many as have room."""
    joined = ", ".join(names)
    return joined if len(joined) <= _MAX_LISTED else f"{joined[:_MAX_LISTED]}... ({len(names)})"
