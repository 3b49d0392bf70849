"""A picture of the curves of runs, drawn with matplotlib, which is imported here and nowhere else."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm.arguments import check_paths, names_keywords
from charlm.errors import MissingInputError
from charlm.plots.curves import Best, Curve, Points, read_curves, title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, "#000000")
"""Colours that people with any kind of colour vision tell apart (Okabe and Ito 2008)."""
_GREY = "#666666"
_MARKERS = "os^DvPX"
"""Of the runs, so that they can be told apart in a print without colours."""
_SIZE = (8.0, 5.6)
"""Inches; with 12-point text it is readable on a projector and at the width of a page."""
_STYLE: dict[Any, Any] = {
    "font.size": 12, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#dddddd",
    "grid.linewidth": 0.8, "lines.linewidth": 2.2, "legend.edgecolor": "white", "legend.framealpha": 0.85,
    "svg.hashsalt": "charlm", "savefig.facecolor": "white", "figure.facecolor": "white", "figure.dpi": 100,
    "text.parse_math": False,
}  # fmt: skip
_MAX_MARKERS = 40
"""A curve with more points has a marker on some of them only."""
_LONG_LABEL = 34
_MAX_IN_AXES = 4
"""The legend of more runs would cover their curves."""
_TICKS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
"""Within each decade of a logarithmic scale."""


def require_matplotlib() -> None:
    """Raise ``MissingInputError`` unless matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401  # only whether it is there
    except ImportError:
        raise MissingInputError(
            "a picture needs matplotlib; install it with pip install 'charlm-lstm[plot]' (or pip install matplotlib)"
        ) from None


@names_keywords
def plot(run: str | Path | Sequence[str | Path], x: str = "steps") -> Figure:
    """The curves of a run, or of several, as a matplotlib figure; a notebook shows it.

    Above are training and validation loss in nats per character, with the losses of two simple models as lines and the
    best step marked; below is the learning rate. ``x`` is "steps", "seconds" or "epochs". ``figure.savefig(path)``
    saves it, and ``figure.axes`` has the parts, to change anything.

    Raises ``MissingInputError`` without matplotlib or for a run without metrics.jsonl, ``DataError`` for one without a
    measurement yet.
    """
    return draw(read_curves(check_paths("run", run), x), x)


def draw(curves: Sequence[Curve], x: str) -> Figure:
    """``plot`` of curves that were read over ``x``."""
    require_matplotlib()
    with _style():
        figure = _new_figure(len(curves))
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1.0))
        unit, divisor = _unit(curves, x)
        scaled = [_scaled(curve, divisor) for curve in curves]
        if len(scaled) == 1:
            _draw_one(above, scaled[0])
        else:
            _draw_several(above, scaled)
        _draw_baselines(above, scaled)
        _finish_losses(above, scaled)
        _draw_rates(below, scaled, unit)
        above.set_title(title_of(curves), loc="left", fontsize=12)
    return figure


def picture(curves: Sequence[Curve], x: str, form: str) -> bytes:
    """The picture as a file: ``form`` is "svg", "png" or "pdf". The same curves give the same bytes."""
    figure, file = draw(curves, x), io.BytesIO()
    with _style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a name in a script that the font lacks
        dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
        figure.savefig(file, format=form, dpi=200, metadata=dates)
    return file.getvalue()


def run_picture(run: Path) -> bytes:
    """The curves of a run over its steps as SVG, which is the curve.svg of a run or of an exported model.

    Raises the errors of ``plot``.
    """
    return picture(read_curves([run], "steps"), "steps", "svg")


def _style() -> AbstractContextManager[Any]:
    import matplotlib as mpl

    return mpl.rc_context(_STYLE)


def _new_figure(curves: int) -> Figure:
    """A figure that a notebook shows, although it was not made by pyplot, which would keep it in memory."""
    from matplotlib.figure import Figure

    class RunFigure(Figure):
        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png", dpi=100)
            return file.getvalue()

    legend_rows = -(-curves // 2) if curves > _MAX_IN_AXES else 0
    return RunFigure(figsize=(_SIZE[0], _SIZE[1] + 0.25 * legend_rows), layout="constrained")


def _unit(curves: Sequence[Curve], x: str) -> tuple[str, float]:
    """What stands below the x axis, and by what the values are divided."""
    if x != "seconds":
        return {"steps": "training step", "epochs": "passes over the training text (epochs)"}[x], 1.0
    longest = max((at for curve in curves for at in curve.lr.xs), default=0.0)
    if longest > 7200:
        return "hours", 3600.0
    return ("minutes", 60.0) if longest > 180 else ("seconds", 1.0)


def _scaled(curve: Curve, divisor: float) -> Curve:
    train, valid, lr = (Points([at / divisor for at in p.xs], p.ys) for p in (curve.train, curve.valid, curve.lr))
    best = None if curve.best is None else Best(curve.best.x / divisor, curve.best.nats, curve.best.step)
    return replace(curve, train=train, valid=valid, lr=lr, best=best)


def _draw_one(axes: Axes, curve: Curve) -> None:
    axes.plot(*curve.train, "--", color=VERMILION, linewidth=1.6, label="training")
    if curve.valid.xs:
        axes.plot(*curve.valid, color=BLUE, label="validation", **_marker("o", curve.valid))
    if curve.best is not None:
        axes.plot(curve.best.x, curve.best.nats, "*", color="black", markersize=15, zorder=5,
                  label=f"best: {curve.best.nats:.4f} at step {curve.best.step:,}")  # fmt: skip


def _draw_several(axes: Axes, curves: Sequence[Curve]) -> None:
    for number, curve in enumerate(curves):
        colour, marker = COLOURS[number % len(COLOURS)], _MARKERS[number % len(_MARKERS)]
        axes.plot(*curve.train, ":" if curve.valid.xs else "-", color=colour, linewidth=1.3)
        best = "" if curve.best is None else f", best {curve.best.nats:.4f}"
        axes.plot(*curve.valid, color=colour, label=curve.label + best, **_marker(marker, curve.valid))
        if curve.best is not None:
            axes.plot(curve.best.x, curve.best.nats, "*", color=colour, markersize=14, markeredgecolor="black",
                      zorder=5)  # fmt: skip
    if any(curve.valid.xs for curve in curves):
        explanation = "solid: validation, dotted: training, star: best step"
        axes.set_title(explanation, loc="right", fontsize=9, color=_GREY)


def _marker(marker: str, points: Points) -> dict[str, Any]:
    every = max(1, -(-len(points.xs) // _MAX_MARKERS) if len(points.xs) <= _MAX_MARKERS else len(points.xs) // 10)
    return {"marker": marker, "markersize": 5, "markevery": every}


def _draw_baselines(axes: Axes, curves: Sequence[Curve]) -> None:
    """A line for each value of a baseline that the runs have, with its name at the right."""
    several_texts = len({(curve.uniform, curve.unigram) for curve in curves if curve.uniform is not None}) > 1
    for name, what in (("uniform", "all characters equally likely"), ("unigram", "only their frequencies known")):
        for value, title in {getattr(curve, name): curve.text for curve in curves}.items():
            if value is None:
                continue
            axes.axhline(value, color=_GREY, linewidth=1.3, linestyle=(0, (6, 3)), zorder=1)
            of = f" ({title})" if several_texts else f" ({what})"
            axes.annotate(f"{name} {value:.3f}{of}", (1.0, value), (-4, 3), xycoords=("axes fraction", "data"),
                          textcoords="offset points", ha="right", fontsize=9, color=_GREY)  # fmt: skip


def _finish_losses(axes: Axes, curves: Sequence[Curve]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    losses = [y for curve in curves for points in (curve.train, curve.valid) for y in points.ys]
    losses += [y for curve in curves for y in (curve.uniform, curve.unigram) if y is not None]
    if losses and 0.1 * max(losses) < min(losses):
        # Late in a training small differences matter; a logarithmic scale gives them more room.
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(10, subs=_TICKS, numticks=20))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
    axes.set_ylabel("loss, nats per character")
    _draw_legend(axes, curves)


def _draw_legend(axes: Axes, curves: Sequence[Curve]) -> None:
    """At the right, below the lines of the baselines, where the curves have long fallen; of many runs below all."""
    from matplotlib.transforms import blended_transform_factory

    if len(curves) > _MAX_IN_AXES:
        axes.figure.legend(loc="outside lower left", ncols=2, fontsize=9)
        return
    unigrams = [curve.unigram for curve in curves if curve.unigram is not None]
    top = min(unigrams, default=axes.get_ylim()[1])
    fontsize = 11 if max(len(curve.label) for curve in curves) < _LONG_LABEL else 9
    place = blended_transform_factory(axes.transAxes, axes.transData)
    axes.legend(loc="upper right", bbox_to_anchor=(1.0, top), bbox_transform=place, fontsize=fontsize, labelspacing=0.3)


def _draw_rates(axes: Axes, curves: Sequence[Curve], unit: str) -> None:
    for number, curve in enumerate(curves):
        axes.plot(*curve.lr, color=COLOURS[number % len(COLOURS)] if len(curves) > 1 else BLUE, linewidth=1.8)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axes.set(xlabel=unit, ylabel="learning\nrate")
    axes.set_xlim(left=0)
