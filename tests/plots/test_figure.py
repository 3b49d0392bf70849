"""The picture: what is in it, and that its files are what they say."""

import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest
from commands import charlm as command
from commands import one_line

import charlm
from charlm.errors import MissingInputError
from charlm.plots.characters import character_plot
from charlm.plots.curves import read_curves
from charlm.plots.figure import COLOURS, picture
from charlm.plots.page import curve_page


def texts_of(axes):
    legend = axes.get_legend()
    return [text.get_text() for text in [*axes.texts, *(legend.get_texts() if legend else [])]]


def test_a_figure_of_one_run(trained_run):
    figure = charlm.plot(trained_run)
    assert isinstance(figure, mpl.figure.Figure)
    losses, rate = figure.axes
    (curve,) = read_curves([trained_run], "steps")
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in losses.lines]
    assert tuple(curve.train) in drawn
    assert tuple(curve.valid) in drawn
    assert ([curve.best.x], [curve.best.nats]) in drawn
    assert {curve.uniform, curve.unigram} <= {ys[0] for _, ys in drawn}
    assert (list(rate.lines[0].get_xdata()), list(rate.lines[0].get_ydata())) == tuple(curve.lr)
    shown = " ".join(texts_of(losses))
    assert f"best: {curve.best.nats:.4f} at step {curve.best.step}" in shown
    assert f"unigram {curve.unigram:.3f}" in shown
    assert losses.get_title(loc="left") == "salad, 1 x 48"
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_figure_of_several_runs_says_what_differs(trained_run, rival_run):
    losses = charlm.plot([trained_run, rival_run], x="epochs").axes[0]
    shown = texts_of(losses)
    assert any(text.startswith("salad: hidden 48") for text in shown)
    assert any(text.startswith("rival: hidden 20") for text in shown)
    colours = {line.get_color() for line in losses.lines if len(line.get_xdata()) > 2}
    assert set(COLOURS[:2]) <= colours
    markers = {line.get_marker() for line in losses.lines if len(line.get_xdata()) > 1}
    assert len(markers - {"None"}) == 2  # so that a print without colours tells them apart, too


def test_the_legend_of_many_runs_is_below_the_curves(trained_run, rival_run):
    figure = charlm.plot([trained_run, rival_run] * 4)
    assert figure.axes[0].get_legend() is None
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 8
    few = charlm.plot([trained_run, rival_run])
    assert figure.get_figheight() > few.get_figheight()


def test_time_is_in_a_readable_unit(trained_run, tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"kind": "valid", "step": 7, "seconds": 7200.5, "valid_nats_per_char": 2.0, "rate": 0.1}\n'
    )
    assert charlm.plot(tmp_path, x="seconds").axes[1].get_xlabel() == "hours"
    assert charlm.plot(trained_run, x="seconds").axes[1].get_xlabel() == "seconds"


def test_nothing_global_changes(trained_run):
    before = dict(mpl.rcParams)
    charlm.plot(trained_run)
    assert dict(mpl.rcParams) == before
    code = f"import sys, charlm; charlm.plot({str(trained_run)!r}); sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_one_line_says_what_to_install(trained_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingInputError, match=r"pip install 'charlm-lstm\[plot\]'"):
        charlm.plot(trained_run)


# ------------------------------------------------------------------------------------------------ the command


@pytest.mark.parametrize(("form", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF-"),
                                             ("html", b"<!DOCTYPE html>")])  # fmt: skip
def test_files(trained_run, rival_run, tmp_path, form, start):
    path = tmp_path / f"curve.{form.upper()}"
    result = command("plot", trained_run, rival_run, "-o", path, "--x", "seconds")
    assert (result.returncode, result.stdout) == (0, b""), result.stderr
    data = path.read_bytes()
    assert data.startswith(start)
    if form == "svg":
        ET.fromstring(data)
        assert picture(read_curves([trained_run, rival_run], "seconds"), "seconds", "svg") == data
    if form == "html":
        assert b"http" not in data.replace(b"http-equiv", b"").partition(b"<img")[0]
        assert b"rival: hidden 20" in data


def test_names_of_runs_are_escaped_on_the_page(trained_run, tmp_path):
    runs = [shutil.copytree(trained_run, tmp_path / name) for name in ("<b>x", "$x_1^{$")]  # and no formulas
    assert command("plot", *runs, "-o", tmp_path / "curve.html").returncode == 0
    page = (tmp_path / "curve.html").read_text()
    assert "<b>x" not in page
    assert "&lt;b&gt;x" in page


@pytest.mark.parametrize(
    "name", ["\x1b[31mred\u202e", b"\xff\xfe".decode("utf-8", "surrogateescape"), "\u6587\u672c\n2"]
)
def test_any_name_of_a_run_can_be_drawn(trained_run, tmp_path, name):
    """Also one that acts on a terminal, one that is not UTF-8, and one in a script that the font lacks."""
    curves = read_curves([shutil.copytree(trained_run, tmp_path / name), trained_run], "steps")
    assert picture(curves, "steps", "png")
    assert curve_page(curves, "steps")
    shown = character_plot(curves, "steps")
    assert all(character.isprintable() or character == "\n" for character in shown)


def test_in_a_terminal_without_a_file(trained_run, tmp_path):
    result = command("plot", trained_run)
    assert result.returncode == 0
    assert b"* best " in result.stdout
    (tmp_path / "checkpoints").symlink_to(trained_run.parent)
    newest = command("plot", cwd=tmp_path)
    assert newest.returncode == 0
    assert b"using checkpoints/" in newest.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["{run}", "-o", "curve.gif"], 2, "must end with .svg, .png, .pdf, .html"),
        (["{run}", "--x", "tokens"], 2, "--x must be one of steps, seconds, epochs"),
        (["nowhere"], 66, "nowhere does not exist"),
        (["{run}", "-o", "no/such/curve.svg"], 73, "cannot be written"),
    ],
)
def test_mistakes(trained_run, tmp_path, words, code, message):
    result = command("plot", *(word.format(run=trained_run) for word in words), cwd=tmp_path)
    assert result.returncode == code
    assert message in one_line(result)
