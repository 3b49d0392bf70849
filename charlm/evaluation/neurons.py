"""Cells of the LSTM that follow a property of the text, such as being inside quotes (Karpathy et al. 2015).

A cell's activation is tanh of its cell state after a character. Shapes: N characters, T ids, B streams, P probes,
C cells of all layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.engine import StateEngine
from charlm.errors import UsageError
from charlm.evaluation.losses import ProgressCallback, no_progress
from charlm.evaluation.states import read_side_by_side
from charlm.tokenizer.protocol import Ids, Tokenizer

Values = NDArray[np.float64]
Probe = Callable[[str], Any]
"""A number for each character of a text, such as whether it is inside quotes after this character; [N]."""

_WARMUP = 256
"""Ids that are read before a stream of running text, so that its states are those of a longer text."""
_STREAMS, _MIN_STREAM = 64, 1024
"""Running text is read in at most so many streams, of at least so many ids."""


class Neuron(NamedTuple):
    """A cell that follows a probe."""

    probe: str
    layer: int
    """From 0."""
    cell: int
    """From 0, its index in the layer."""
    correlation: float
    """Of the activation and the probe's values, on the second half of the text; the cell was chosen on the first."""


def _inside_quotes(text: str) -> Values:
    """1 from an opening quotation mark on, up to the closing one. A blank line ends a quotation, as in a novel."""
    inside, values = False, np.zeros(len(text))
    for place, character in enumerate(text):
        if character == '"':
            inside = not inside
        elif character in "“„«":
            inside = True
        elif character in "”»" or (character == "\n" and _ends_line(text[max(0, place - 2) : place])):
            inside = False
        values[place] = inside
    return values


def _ends_line(text: str) -> bool:
    return text.rstrip("\r").endswith("\n")


def _position_in_line(text: str) -> Values:
    """The number of characters since the last line end."""
    places = np.arange(1, len(text) + 1)
    ends = np.array([character == "\n" for character in text], np.bool_)
    return (places - np.maximum.accumulate(np.where(ends, places, 0))).astype(np.float64)


def _upper_case(text: str) -> Values:
    return np.array([character.isupper() for character in text], np.float64)


def _depth_of_parentheses(text: str) -> Values:
    """The number of open brackets of any kind: ( [ {."""
    depth, values = 0, np.zeros(len(text))
    for place, character in enumerate(text):
        depth = max(0, depth + (character in "([{") - (character in ")]}"))
        values[place] = depth
    return values


PROBES: Mapping[str, Probe] = {
    "quotes": _inside_quotes,
    "line": _position_in_line,
    "upper": _upper_case,
    "parentheses": _depth_of_parentheses,
}
"""The probes that exist: inside quotes, position in the line, upper case, depth of parentheses."""


class ProbedText(NamedTuple):
    """Ids that are read from the initial state, and what the probes say about them."""

    ids: Ids
    values_PT: Values
    counted_T: NDArray[np.bool_]
    """Whether an id completes a character that counts."""
    half_T: NDArray[np.int64]
    """0 in the first half of the text, 1 in the second."""


def probe_values(text: str, probes: Mapping[str, Probe]) -> Values:
    """The values of the probes [P, N]. Raises ``UsageError`` where a probe does not return a number per character."""
    values = np.zeros((len(probes), len(text)))
    for row, (name, probe) in enumerate(probes.items()):
        try:
            found = np.asarray(probe(text), np.float64)
        except (TypeError, ValueError):
            raise UsageError(f"the probe {name!r:.40} must return numbers, one for each character") from None
        if found.shape != (len(text),):
            raise UsageError(f"the probe {name!r:.40} returned {found.shape}, not one number for each character")
        values[row] = found
    return values


def probed_documents(
    tokenizer: Tokenizer, texts: Iterable[str], before: Sequence[Ids], probes: Mapping[str, Probe]
) -> Iterable[ProbedText]:
    """Documents, each read after ``before``; every second one counts as the second half of the text."""
    read = np.concatenate([np.array([tokenizer.start_id], np.int64), *before])
    for number, text in enumerate(texts):
        ids, values_PT, completes_T = _aligned(tokenizer, text, probes)
        yield ProbedText(
            np.concatenate([read, ids]),
            np.pad(values_PT, ((0, 0), (len(read), 0))),
            np.pad(completes_T, (len(read), 0)),
            np.full(len(read) + len(ids), number % 2),
        )


def probed_streams(tokenizer: Tokenizer, text: str, probes: Mapping[str, Probe]) -> Iterable[ProbedText]:
    """A running text in streams."""
    ids, values_PT, completes_T = _aligned(tokenizer, text, probes)
    half_T = (np.arange(len(ids)) >= len(ids) / 2).astype(np.int64)
    streams = max(1, min(_STREAMS, len(ids) // _MIN_STREAM))
    bounds = np.linspace(0, len(ids), streams + 1).astype(np.int64).tolist()
    before = np.array([tokenizer.start_id], np.int64)
    for start, stop in itertools.pairwise(bounds):
        first = max(0, start - _WARMUP)
        counted_T = completes_T[first:stop] & (np.arange(first, stop) >= start)
        yield ProbedText(
            np.concatenate([before, ids[first:stop]]),
            np.pad(values_PT[:, first:stop], ((0, 0), (1, 0))),
            np.pad(counted_T, (1, 0)),
            np.pad(half_T[first:stop], (1, 0)),
        )


def varied_part(text: str, probe: Probe, length: int) -> tuple[int, int]:
    """The bounds of the part of the second half of ``text`` in which the probe's values vary most.

    It has about ``length`` characters and begins with a line where there are lines.
    """
    values = probe_values(text, {"": probe})[0]
    sums, squares = (np.append(0, np.cumsum(each)) for each in (values, values**2))
    starts = np.array([place + 1 for place, character in enumerate(text) if character == "\n"], np.int64)
    last = max(0, len(text) - length)
    starts = starts[(starts >= len(text) // 2) & (starts <= last)]
    starts = starts if len(starts) else np.array([min(len(text) // 2, last)])
    stops = np.minimum(starts + length, len(text))
    counts = np.maximum(1, stops - starts)
    variances = (squares[stops] - squares[starts]) / counts - ((sums[stops] - sums[starts]) / counts) ** 2
    best = int(np.argmax(variances))
    return int(starts[best]), int(stops[best])


def _aligned(tokenizer: Tokenizer, text: str, probes: Mapping[str, Probe]) -> tuple[Ids, Values, NDArray[np.bool_]]:
    """The ids of a text, the probes' values [P, T] at each, and whether an id completes a character."""
    ids = tokenizer.encode(text).astype(np.int64)
    if tokenizer.kind == "byte":
        lengths = [len(character.encode("utf-8", "surrogateescape")) for character in text]
        numbers_T = np.repeat(np.arange(len(text)), lengths)
    else:
        numbers_T = np.cumsum(tokenizer.starts_character[ids]) - 1
    completes_T = np.diff(numbers_T, append=len(text)) > 0
    return ids, probe_values(text, probes)[:, numbers_T], completes_T


def find_neurons(
    engine: StateEngine,
    texts: Sequence[ProbedText],
    names: Sequence[str],
    top: int,
    progress: ProgressCallback = no_progress,
) -> list[Neuron]:
    """The ``top`` cells for each probe, the best first: those with the strongest correlation on the first half.

    A probe that does not vary in both halves of the text has none.
    """
    sums = [_Sums(len(names)), _Sums(len(names))]
    widths: list[int] = []
    for time, rows_B, layers in read_side_by_side(engine, [text.ids for text in texts]):
        widths = [layer.cell_BH.shape[1] for layer in layers]
        counted = np.array([texts[row].counted_T[time] for row in rows_B.tolist()], np.bool_)
        rows = rows_B[counted].tolist()
        progress(len(rows))
        if not rows:
            continue
        values_PB = np.stack([texts[row].values_PT[:, time] for row in rows], axis=1)
        activation_BC = np.tanh(np.concatenate([layer.cell_BH[counted] for layer in layers], axis=1))
        halves_B = np.array([texts[row].half_T[time] for row in rows])
        for half in (0, 1):
            sums[half].add(values_PB[:, halves_B == half], activation_BC[halves_B == half])
    places = [(layer, cell) for layer, width in enumerate(widths) for cell in range(width)]
    found = []
    for row, name in enumerate(names):
        best = _strongest(sums[0].correlations(row), sums[1].correlations(row), top)
        found += [Neuron(name, *places[cell], correlation) for cell, correlation in best]
    return found


def _strongest(first_C: Values, second_C: Values, top: int) -> list[tuple[int, float]]:
    """The ``top`` cells of the first half with their correlations on the second; none where a half has none."""
    if np.isnan(first_C).all() or np.isnan(second_C).all():
        return []
    best = np.argsort(-np.abs(np.nan_to_num(first_C)), kind="stable")[:top]
    return list(zip(best.tolist(), np.nan_to_num(second_C[best]).tolist(), strict=True))


class _Sums:
    """The sums from which correlations follow."""

    def __init__(self, probes: int) -> None:
        self._count = 0
        self._p, self._pp = np.zeros(probes), np.zeros(probes)
        self._a: Values = np.zeros(0)
        self._aa: Values = np.zeros(0)
        self._pa: Values = np.zeros((probes, 0))

    def add(self, values_PB: Values, activation_BC: NDArray[np.float32]) -> None:
        """Add B characters."""
        if not self._count:
            cells = activation_BC.shape[1]
            self._a, self._aa, self._pa = np.zeros(cells), np.zeros(cells), np.zeros((len(self._p), cells))
        self._count += len(activation_BC)
        self._p += values_PB.sum(axis=1)
        self._pp += (values_PB**2).sum(axis=1)
        self._a += activation_BC.sum(axis=0, dtype=np.float64)
        self._aa += np.einsum("bc,bc->c", activation_BC, activation_BC, dtype=np.float64)
        self._pa += values_PB @ activation_BC

    def correlations(self, probe: int) -> Values:
        """Pearson's correlation of a probe and each cell [C]; NaN where one of them does not vary."""
        count = max(1, self._count)
        covariance_C = self._pa[probe] / count - self._p[probe] / count * self._a / count
        variance = self._pp[probe] / count - (self._p[probe] / count) ** 2
        variance_C = self._aa / count - (self._a / count) ** 2
        product_C = variance * variance_C
        varies_C = product_C > 1e-18
        correlation_C: Values = np.full(len(product_C), np.nan)
        correlation_C[varies_C] = covariance_C[varies_C] / np.sqrt(product_C[varies_C])
        return correlation_C
