"""A plot in characters, for terminals and for model cards."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from charlm.plots.curves import Curve, Points, evaluations_curve

_SERIES = "ox+#%&@ABCDEFGHIJKLMNPQRSTUVWYZ"
"""The characters of the runs' validation losses."""
_TRAIN, _UNIGRAM, _BEST = ".", "-", "*"
_MARGIN = 8
"""Columns left of the frame, for the numbers."""


def card_plot(run: Path, config: Mapping[str, Any]) -> str:
    """The plot of a model card, for the run with this config.json; empty before the first evaluation.

    Also empty where the numbers of the log, which anyone may have changed, are too large to compute with.
    """
    try:
        curve = evaluations_curve(run, config)
        return "" if curve is None else character_plot([curve], "steps", height=14)
    except (ArithmeticError, ValueError):
        return ""


def character_plot(curves: Sequence[Curve], x: str, width: int = 76, height: int = 20) -> str:
    """The losses of runs over ``x`` in ``height`` rows of ``width`` columns, with a frame and a legend.

    The training loss is drawn of a single run only. A baseline is a line where it is in the range of the losses.
    """
    lines = [curve.valid for curve in curves] if any(curve.valid.xs for curve in curves) else []
    trains = [curves[0].train] if len(curves) == 1 else [] if lines else [curve.train for curve in curves]
    canvas = _Canvas([*lines, *trains], max(20, width - _MARGIN - 1), max(5, height))
    unigram = curves[0].unigram
    if unigram is not None and canvas.low <= unigram <= canvas.high:
        canvas.draw(Points([canvas.left, canvas.right], [unigram, unigram]), _UNIGRAM)
    single = len(curves) == 1
    for number, train in enumerate(trains):
        canvas.draw(train, _TRAIN if single else _SERIES[number % len(_SERIES)])
    for number, line in enumerate(lines):
        canvas.draw(line, _SERIES[number % len(_SERIES)])
    for curve in curves:
        if curve.best is not None:
            canvas.put(curve.best.x, curve.best.nats, _BEST)
    return "\n".join(["nats per character", *canvas.rows(), *canvas.axis(x), "", *_legend(curves, x)]) + "\n"


def _legend(curves: Sequence[Curve], x: str) -> list[str]:
    rows = []
    if len(curves) == 1:
        (curve,) = curves
        marks = [f"{_TRAIN} training"] * bool(curve.train.xs) + [f"{_SERIES[0]} validation"] * bool(curve.valid.xs)
        rows.append("   ".join([*marks, *_best_words(curve)]))
    else:
        for number, curve in enumerate(curves):
            rows.append("   ".join([f"{_SERIES[number % len(_SERIES)]} {curve.label}", *_best_words(curve)]))
    first = curves[0]
    if first.unigram is not None and first.uniform is not None:
        frequencies = f"{_UNIGRAM} {first.unigram:.3f} with the characters' frequencies"
        rows.append(f"{frequencies}; {first.uniform:.3f} with all equally likely")
    return rows


def _best_words(curve: Curve) -> list[str]:
    return [] if curve.best is None else [f"{_BEST} best {curve.best.nats:.4f} at step {curve.best.step:,}"]


class _Canvas:
    """A grid of characters over the range of some lines."""

    def __init__(self, lines: Sequence[Points], width: int, height: int) -> None:
        xs = [x for line in lines for x in line.xs] or [0.0]
        ys = [y for line in lines for y in line.ys] or [0.0]
        self.left, self.right = min(0.0, *xs), max(xs)
        self.low, self.high = min(ys), max(ys)
        if self.high <= self.low:
            self.low, self.high = self.low - 0.5, self.high + 0.5
        self._width, self._height = width, height
        self._cells = [[" "] * width for _ in range(height)]

    def put(self, x: float, y: float, mark: str) -> None:
        """Draw one character."""
        row = round((self.high - y) / (self.high - self.low) * (self._height - 1))
        if 0 <= row < self._height:
            self._cells[row][self._column(x)] = mark

    def _column(self, x: float) -> int:
        return round((x - self.left) / ((self.right - self.left) or 1.0) * (self._width - 1))

    def draw(self, line: Points, mark: str) -> None:
        """Draw a line, one character in each column from its first point to its last."""
        for (x, y), (next_x, next_y) in itertools.pairwise(zip(line.xs, line.ys, strict=True)):
            first, last = self._column(x), self._column(next_x)
            for column in range(first, last + 1):
                share = (column - first) / max(1, last - first)
                at = self.left + column / (self._width - 1) * (self.right - self.left)
                self.put(at, y + share * (next_y - y), mark)
        if len(line.xs) == 1:
            self.put(line.xs[0], line.ys[0], mark)

    def rows(self) -> list[str]:
        """The frame with the lines; every fifth row has its loss."""
        rows = []
        for number, cells in enumerate(self._cells):
            loss = self.high - number / (self._height - 1) * (self.high - self.low)
            is_labelled = number % 5 == 0 or number == self._height - 1
            start = f"{loss:{_MARGIN - 1}.3f} " if is_labelled else " " * _MARGIN
            rows.append(f"{start}|{''.join(cells)}".rstrip())
        return rows

    def axis(self, x: str) -> list[str]:
        """The lower edge, and below it the range of x."""
        left, right = f"{self.left:,.0f}", f"{self.right:,.1f}" if x == "epochs" else f"{self.right:,.0f}"
        room = self._width - len(left) - len(right)
        return [" " * _MARGIN + "+" + "-" * self._width, " " * (_MARGIN + 1) + left + x.center(room) + right]
