"""``charlm neurons`` and ``charlm score --neuron``: which cells follow a probe, and the text coloured by a cell."""

import json
import re
from html import unescape

import pytest
from commands import charlm, one_line

import charlm as library
from charlm.evaluation.neurons import varied_part
from charlm.pages.activation import activation_fragment, activation_widget
from charlm.pages.scales import ACTIVATION

PROBES = {"quotes": "inside quotes", "line": "position in the line", "upper": "upper case",
          "parentheses": "depth of parentheses"}  # fmt: skip


@pytest.fixture(scope="module")
def quoted_file(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("quoted") / "quoted.txt"
    words = text.replace("\n", " ").split(" ")[:900]
    lines = [" ".join(words[start : start + 6]) for start in range(0, len(words), 6)]
    path.write_text(
        "".join(f'(The "{line}" said)\n' if n % 3 else f"{line}\n" for n, line in enumerate(lines)), "utf-8"
    )
    return path


def spans(markup):
    """(level, title) of each character of a page."""
    found = re.findall(r'<span class="s(\d)[^"]*" title="([^"]*)">', markup)
    return [(int(level), unescape(title)) for level, title in found]


def test_the_best_cells_of_each_probe(trained_run, quoted_file):
    text = quoted_file.read_text("utf-8")
    result = charlm("neurons", quoted_file, "-c", trained_run, "--top", 2)
    assert result.returncode == 0, result.stderr.decode()
    expected = library.load(trained_run).find_neurons(text, top=2)
    assert len(expected) == 8
    rows = [line.split("\t") for line in result.stdout.decode().splitlines()]
    assert [row[1:] for row in rows] == [[f"{n.layer}:{n.cell}", PROBES[n.probe]] for n in expected]
    assert [float(row[0]) for row in rows] == pytest.approx([n.correlation for n in expected], abs=2e-3)
    found = json.loads(charlm("neurons", quoted_file, "-c", trained_run, "--top", 2, "--json").stdout)
    assert [(n["probe"], n["layer"], n["cell"]) for n in found["neurons"]] == [n[:3] for n in expected]
    chosen = charlm("neurons", quoted_file, "-c", trained_run, "--probe", "upper", "--probe", "line", "--json")
    assert [n["probe"] for n in json.loads(chosen.stdout)["neurons"]] == ["upper"] * 5 + ["line"] * 5


def test_a_page_shows_the_text_coloured_by_the_best_cell_of_each_probe(trained_run, quoted_file):
    page = charlm("neurons", quoted_file, "-c", trained_run, "--html", "-").stdout.decode()
    assert f"<title>{trained_run.name}/step-" in page  # a page that is given away names no path of the machine
    model, text = library.load(trained_run), quoted_file.read_text("utf-8")
    best = model.find_neurons(text, top=1)
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == [f"{PROBES[n.probe]}: layer 0, cell {n.cell}, correlation {n.correlation:+.2f}" for n in best]
    shown = [re.sub(r"<[^>]*>", "", part) for part in re.findall(r"<p [^>]*>(.*?)</p>", page, re.DOTALL)]
    assert all(unescape(part) in text for part in shown)
    values = dict(zip(range(len(text)), model.activations(text)[:, best[0].cell], strict=True))
    start = text.index(unescape(shown[0]))
    titles = spans(re.findall(r"<p [^>]*>(.*?)</p>", page, re.DOTALL)[0])
    assert len(titles) == len(unescape(shown[0]))
    for place, (level, title) in enumerate(titles):
        value = float(title.rsplit(" ", 1)[1])
        assert value == pytest.approx(values[start + place], abs=0.02)
        assert abs(ACTIVATION.level_of(value) - level) <= 1


def test_a_terminal_gets_the_same(trained_run, quoted_file):
    result = charlm("neurons", quoted_file, "-c", trained_run, "--top", 1, "--probe", "upper", "--highlight")
    table, shown = result.stdout.decode().split("\n\n", 1)
    assert table.count("\n") == 0
    heading, text = shown.split("\n", 1)
    assert heading.startswith("upper case: layer 0, cell ")
    assert text[:-1] in quoted_file.read_text("utf-8")
    assert 300 < len(text) <= 401


def test_models_of_documents_and_of_tables(document_run, table_run, lines_file, table_file, tmp_path):
    result = charlm("neurons", lines_file, "-c", document_run, "--top", 1, "--characters", 3000, "--highlight")
    assert result.returncode == 0, result.stderr.decode()
    assert [line.split("\t")[2] for line in result.stdout.decode().split("\n\n")[0].splitlines()] == [PROBES["line"]]
    assert "inside quotes: this does not vary" in result.stderr.decode()
    assert "reading the first 3,000 characters" in result.stderr.decode()
    (tmp_path / "names.txt").write_text("Bjorsven\nGulrik\nMundstein\nSvenrik\n")
    named = charlm("neurons", tmp_path / "names.txt", "-c", table_run, "--given", "north", "--top", 1, "--json")
    assert [n["probe"] for n in json.loads(named.stdout)["neurons"]] == ["line", "upper"]


def test_a_model_with_conditions_needs_one(table_run, table_file):
    message = one_line(charlm("neurons", table_file, "-c", table_run))
    assert "--given VALUE; " in message
    rows = charlm("neurons", table_file, "-c", table_run, "--given", "north", "--top", 1, "--json")
    assert [n["probe"] for n in json.loads(rows.stdout)["neurons"]] == ["line", "upper"]


def test_score_colours_by_a_cell(trained_run):
    stdin = "the cat\nsaw naïve dogs".encode()
    page = charlm("score", "-c", trained_run, "--neuron", "0:5", "--html", "-", stdin=stdin).stdout.decode()
    text = stdin.decode()
    expected = library.load(trained_run).activations(text)[:, 5].tolist()
    found = spans(page)
    assert [float(title.rsplit(" ", 1)[1]) for _, title in found] == pytest.approx(expected, abs=0.006)
    assert [level for level, _ in found] == [ACTIVATION.level_of(value) for value in expected]
    assert "layer 0, cell 5" in page
    plain = charlm("score", "-c", trained_run, "--neuron", "0:5", "--highlight", stdin=stdin)
    assert plain.stdout.decode() == text + "\n"
    assert plain.stderr.decode().startswith("activation: under -0.75, ")


def test_fragments_of_activations():
    documents = [("one", [("a", -1.0), ("\n", 0.0), ("<", 0.9)])]
    markup = "".join(activation_fragment(documents))
    assert spans(markup) == [(0, "a: -1.00"), (3, "line end: +0.00"), (6, "<: +0.90")]
    assert "<button" not in markup
    assert "places" not in markup
    assert activation_widget(documents)._repr_html_().count("<script>") == 1


def test_the_part_that_varies_most_is_shown():
    text = "a\n" * 100 + "b\n" * 200 + "(b)\n" * 20 + "b\n" * 100
    start, stop = varied_part(text, lambda text: [character == "b" for character in text], 60)
    assert stop - start == 60
    start, stop = varied_part(text, lambda text: [character == "(" for character in text], 60)
    assert text[start:stop].count("(") == 15
    assert varied_part("abc", lambda text: [0] * 3, 60) == (0, 3)


@pytest.mark.parametrize(
    ("command", "options", "code", "hint"),
    [
        ("score", ["--neuron", "0:1"], 2, "add --highlight or --html"),
        ("score", ["--neuron", "one", "--highlight"], 2, "such as 0:137, not 'one'"),
        ("score", ["--neuron", "1:0", "--highlight"], 2, "layer must be 0 to 0"),
        ("score", ["--neuron", "0:48", "--highlight"], 2, "cells 0 to 47, not 48"),
        ("neurons", ["-", "--probe", "vowels"], 2, "quotes, line, upper, parentheses, not 'vowels'"),
        ("neurons", ["-", "--json", "--html", "page.html"], 2, "one of --json"),
        ("neurons", ["missing.txt"], 66, "missing.txt"),
        ("neurons", ["-", "--given", "x"], 2, "without a condition"),
    ],
)
def test_mistakes(trained_run, tmp_path, command, options, code, hint):
    result = charlm(command, *options, "-c", trained_run, stdin=b"the cat\n", cwd=tmp_path)
    lines = result.stderr.decode().splitlines()
    assert (result.returncode, hint in lines[-1]) == (code, True)
    if "--highlight" not in options:
        one_line(result)
