"""Text coloured by surprise: nothing is lost, nothing in it acts, and colours follow the bits, in a browser too."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from charlm.cli.highlight import LEVELS, legend, level_of, page, terminal, visible
from charlm.evaluation.scoring import Surprisal

# One that spells markup, one that drives a terminal, and what HTML or UTF-8 cannot hold.
HOSTILE = ["<script>document.title='owned'</script>", "\x1b]0;owned\x07\x1b[2J\x9b31m", "\"'&amp;&#10;<!--]]>",
           "\0\r\n", "\ud800\udc80\udfff", "\u202e\u2066abc\u2069", "\ufffd\ufeff\uffff", "\x7f\t  \n\n"]  # fmt: skip
# Any code point, surrogates too, and often the odd ones.
CHARACTERS = st.integers(0, 0x10FFFF).map(chr) | st.sampled_from(sorted(set("".join(HOSTILE))))
TEXTS = st.text(CHARACTERS)
DOCUMENTS = st.lists(st.lists(st.tuples(CHARACTERS | st.just(""), st.floats(0, 10))))
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
BITS = [0.5, 1.5, 3, 5, 7, 12]
"""In the middle of each level."""


def surprises(text, bits=0.5, alternatives=()):
    return [Surprisal(character, bits * math.log(2), list(alternatives)) for character in text]


def as_surprises(documents):
    return [[Surprisal(character, nats, [(character, 0.5)]) for character, nats in document] for document in documents]


class Reader(HTMLParser):
    """What a browser would make of a page: the tags, and the text and the spans of each document."""

    def __init__(self, markup):
        super().__init__()
        self.tags, self.headings, self.texts, self.spans = [], [], [], []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "p":
            self.texts.append("")
        if tag == "h2":
            self.headings.append("")
        if tag == "span":
            self.spans.append(dict(attrs))

    def handle_endtag(self, tag):
        self.tags.append("/" + tag)

    def handle_data(self, data):
        current = next((tag for tag in reversed(self.tags) if tag in ("p", "/p", "h2", "/h2")), None)
        if current == "p":
            self.texts[-1] += data
        if current == "h2":
            self.headings[-1] += data


def read(documents, title="title"):
    return Reader("".join(page(documents, title)))


# ------------------------------------------------------------------------------------------------------ levels


@pytest.mark.parametrize(("number", "border"), [*enumerate(LEVELS)])
def test_a_level_starts_at_its_limit(number, border):
    nats = border * math.log(2)
    assert level_of(nats * (1 - 1e-12)) == number
    assert level_of(nats) == number + 1
    assert level_of(nats * (1 + 1e-12)) == number + 1


def test_levels_of_certain_and_impossible_characters():
    assert level_of(-0.0) == level_of(0) == 0
    assert level_of(math.inf) == len(LEVELS)
    assert [level_of(bits * math.log(2)) for bits in BITS] == [*range(len(LEVELS) + 1)]


def test_no_heavy_module_is_imported():
    code = "import sys, charlm.cli.highlight; sys.exit(any(name in sys.modules for name in ('numpy', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ----------------------------------------------------------------------------------------------------- visible


@settings(deadline=None)
@given(TEXTS)
@example("".join(HOSTILE))
def test_visible_text_has_no_control_characters_and_is_otherwise_unchanged(text):
    shown = visible(text)
    assert len(shown) == len(text)
    for before, after in zip(text, shown, strict=True):
        code = ord(before)
        if code < 0x20 and before not in "\n\t":
            assert after == chr(0x2400 + code)
        elif code == 0x7F:
            assert after == "\u2421"
        elif 0x80 <= code < 0xA0 or 0xD800 <= code < 0xE000 or 0x202A <= code < 0x202F or 0x2066 <= code < 0x206A:
            assert after == "\ufffd"
        else:
            assert after == before


# ---------------------------------------------------------------------------------------------------- terminal


def plain(documents):
    """What ``terminal`` should show, without colours and signs."""
    parts = [visible("".join(character for character, *_ in document)) for document in documents]
    return "".join(part if part.endswith("\n") else part + "\n" for part in parts[:-1]) + "".join(parts[-1:])


@settings(deadline=None)
@given(DOCUMENTS)
def test_without_colour_a_terminal_gets_only_the_visible_text(documents):
    assert "".join(terminal(as_surprises(documents), colour=False)) == plain(documents)


@settings(deadline=None)
@given(DOCUMENTS)
def test_with_colour_a_terminal_gets_the_same_text_in_colours(documents):
    written = "".join(terminal(as_surprises(documents), colour=True))
    with_signs = [[(character or "⏎", nats) for character, nats in document] for document in documents]
    assert ESCAPE.sub("", written) == plain(with_signs)


@settings(deadline=None)
@given(DOCUMENTS)
def test_no_control_character_reaches_a_terminal_except_for_colours(documents):
    for colour in (False, True):
        written = ESCAPE.sub("" if colour else "\x1b", "".join(terminal(as_surprises(documents), colour)))
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", written)


@settings(deadline=None)
@given(DOCUMENTS)
def test_colours_end_before_a_line_does_and_with_every_piece(documents):
    for piece in terminal(as_surprises(documents), colour=True):
        painted = False
        for part in re.split(f"({ESCAPE.pattern}|\n)", piece):
            if ESCAPE.fullmatch(part):
                assert painted == (part == "\x1b[0m")
                painted = not painted
            elif part:
                assert painted == (part != "\n")
        assert not painted


def test_documents_are_separated_by_one_line_end():
    documents = [surprises(text) for text in ("a\n", "", "b", "c\n", "d")]
    assert "".join(terminal(documents, colour=False)) == "a\n\nb\nc\nd"
    assert ESCAPE.sub("", "".join(terminal(documents, colour=True))) == "a\n\nb\nc\nd"


def background_of_each(written):
    background, found = None, []
    for part in re.split(f"({ESCAPE.pattern})", written):
        if ESCAPE.fullmatch(part):
            background = part if part != "\x1b[0m" else None
        else:
            found += [(character, background) for character in part]
    return found


def test_a_character_has_the_colour_of_its_level_in_the_legend():
    colours = [background for _, background in background_of_each(legend(colour=True)) if background]
    by_level = list(dict.fromkeys(colours))
    assert len(by_level) == len(LEVELS) + 1
    text = [Surprisal("x", bits * math.log(2), []) for bits in [*BITS, *reversed(BITS)]]
    assert background_of_each("".join(terminal([text], colour=True))) == [("x", c) for c in by_level + by_level[::-1]]


def test_a_run_of_one_colour_is_split_into_pieces_of_bounded_length():
    pieces = list(terminal([surprises("x" * 2500)], colour=True))
    assert [ESCAPE.sub("", piece) for piece in pieces] == ["x" * 1000, "x" * 1000, "x" * 500]


def test_the_legend_names_every_limit_with_and_without_colour():
    for line in (legend(colour=True), legend(colour=False)):
        numbers = [int(number) for number in re.findall(r"\d+", ESCAPE.sub("", line))]
        assert numbers == [border for border in LEVELS for _ in ("up to", "from")]
    assert "\x1b" not in legend(colour=False)


# -------------------------------------------------------------------------------------------------------- page


@settings(deadline=None)
@given(DOCUMENTS)
def test_the_text_of_a_page_is_the_text_of_the_documents(documents):
    found = read(zip(map(str, range(len(documents))), as_surprises(documents), strict=True))
    assert found.headings == [str(number) for number in range(len(documents))]
    assert found.texts == [visible("".join(character for character, _ in document)) for document in documents]
    levels = [f"s{level_of(nats)}" for document in documents for _, nats in document]
    assert [span["class"].split()[0] for span in found.spans] == levels


@settings(deadline=None)
@given(TEXTS, TEXTS, TEXTS)
@example(*HOSTILE[:3])
@example(HOSTILE[2], HOSTILE[3], HOSTILE[0])
@example(HOSTILE[1], HOSTILE[4], "</title>" + HOSTILE[0])
def test_text_in_a_page_is_never_markup_or_a_control_character(text, heading, title):
    def document(text, other):
        return [Surprisal("x", 1.0, [(text, 0.5), (other, 0.25)]), Surprisal(text, 1.0, [])]

    markup = "".join(page([(heading, document(text, heading))], title))
    harmless = "".join(page([("", document("y", "y"))], ""))
    assert Reader(markup).tags == Reader(harmless).tags
    assert [set(span) for span in Reader(markup).spans] == [{"class", "title"}] * 2
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", markup)
    markup.encode("utf-8")


def test_the_title_of_a_span_has_bits_probability_and_alternatives():
    alternatives = [(" ", 0.5), ("\n", 0.2), ("\t", 0.1), ("", 0.05), ("\ufffd", 0.01), ("\x1b", 0.0009), ("<", 0)]
    (span,) = read([("", [Surprisal('"', 3 * math.log(2), alternatives)])]).spans
    assert span["title"].split("\n") == [
        '": 3.00 bits, probability 0.125', "50.0% space", "20.0% line end", "10.0% tab", "5.0% end of the document",
        "1.0% a rarer character", "0.1% U+001B", "0.0% <",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("character", "name"),
    [("", "end of the document"), (" ", "space"), ("\n", "line end"), ("\t", "tab"), ("\0", "U+0000"), ("ß", "ß"),
     ("\u200d", "U+200D"), ("\ufffd", "\ufffd"), ("\udcc3", "byte 0xC3"), ("\ud800", "U+D800")],
)  # fmt: skip
def test_a_span_names_its_character(character, name):
    (span,) = read([("", [Surprisal(character, -0.0, [])])]).spans  # -log(1) is -0.0
    assert span["title"] == f"{name}: 0.00 bits, probability 1"


def test_a_page_is_generated_while_the_documents_are_read():
    def endless():
        while True:
            yield Surprisal("x", 1.0, [])

    pieces = page([("heading", endless())], "title")
    assert sum("<span" in next(pieces) for _ in range(1000)) > 900


def test_a_page_is_self_contained():
    markup = "".join(page([("heading", surprises("text"))], "title"))
    assert markup.startswith('<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n')
    assert "content=\"default-src 'none'; style-src 'unsafe-inline'\"" in markup
    assert not re.search(r"src=|href=|url\(|@import|<script", markup)


# ----------------------------------------------------------------------------------------------------- browser


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
MEASURE = """<script>
const seen = (element, pseudo) => {
  const style = getComputedStyle(element, pseudo), box = element.getBoundingClientRect();
  return {background: style.backgroundColor, colour: style.color, title: element.title, text: element.textContent,
          sign: getComputedStyle(element, "::before").content, width: box.width, height: box.height, y: box.y,
          shown: element.checkVisibility({opacityProperty: true, visibilityProperty: true})};
};
const all = selector => [...document.querySelectorAll(selector)].map(element => seen(element));
const report = {title: document.title, scripts: document.scripts.length, spans: all("p span"), legend: all("ul li"),
                page: seen(document.documentElement), dark: matchMedia("(prefers-color-scheme: dark)").matches};
document.body.append(Object.assign(document.createElement("output"), {textContent: JSON.stringify(report)}));
</script>"""


@pytest.fixture
def browser(tmp_path):
    """A function that opens markup in a browser, and returns the document as it is after its scripts have run."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)}")
    if subprocess.run([program, "--version"], capture_output=True, check=False).returncode:
        pytest.skip(f"{program} does not start")  # Ubuntu's package without snap is such a one

    def opened(markup, *options):
        path = tmp_path / "page.html"
        path.write_text(markup, encoding="utf-8", newline="")
        # Its sandbox is refused to root and in most containers, and the page is our own.
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *options,
                   f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()]  # fmt: skip
        result = subprocess.run(
            command, capture_output=True, timeout=60, check=False, env={**os.environ, "HOME": str(tmp_path)}
        )
        assert result.returncode == 0, result.stderr.decode(errors="replace")
        return result.stdout.decode("utf-8")

    return opened


def measured(browser, markup, *options):
    without_policy = re.sub("<meta http-equiv[^>]*>\n", "", markup)
    dom = browser(without_policy.replace("</body>", MEASURE + "</body>"), *options)

    class Output(HTMLParser):
        text = None

        def handle_starttag(self, tag, attrs):
            if tag == "output":
                self.text = ""

        def handle_data(self, data):
            if self.text is not None:
                self.text += data

    output = Output()
    output.feed(dom[: dom.index("</output>")])
    return json.loads(output.text)


def luminance(colour):
    """The relative luminance of WCAG 2 of "rgb(r, g, b)"."""
    channels = [int(value) / 255 for value in re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", colour).groups()]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_colours_of_the_levels_and_runs_nothing_of_the_text(browser, scheme):
    ramp = [Surprisal(character, bits * math.log(2), []) for character, bits in zip("a \ntz", BITS, strict=False)]
    ramp.append(Surprisal("", BITS[-1] * math.log(2), [("</title><b>", 0.5)]))
    injected = [*surprises(HOSTILE[0]), Surprisal(HOSTILE[0], 3.0, []), *surprises("".join(HOSTILE[1:]))]
    markup = "".join(page([("1", ramp), (HOSTILE[0], injected)], "a page"))
    dark = {"light": [], "dark": ["--blink-settings=preferredColorScheme=0"]}[scheme]
    found = measured(browser, markup, *dark)
    assert found["dark"] == (scheme == "dark")
    assert (found["title"], found["scripts"]) == ("a page", 1)

    spans = found["spans"]
    assert [span["text"] for span in spans] == [visible(s.character) for s in ramp + injected]
    colours = {s: span["background"] for s, span in zip(range(len(BITS)), spans, strict=False)}
    for surprise, span in zip(ramp + injected, spans, strict=True):
        assert span["background"] == colours[level_of(surprise.nats)]
        assert contrast(span["colour"], span["background"]) >= 4.5
        assert f": {surprise.nats / math.log(2):.2f} bits" in span["title"]
        css = re.search(rf"\.s{level_of(surprise.nats)} {{ background: #(\w+)", markup).group(1)
        assert span["background"] == "rgb({}, {}, {})".format(*bytes.fromhex(css))
    for stronger in range(1, len(BITS)):
        assert luminance(colours[stronger]) < luminance(colours[stronger - 1])
        assert contrast(colours[stronger], colours[stronger - 1]) > 1.3

    assert [span["sign"] for span in spans[: len(BITS)]] == ["none", "none", '"⏎"', "none", "none", '"⏎"']
    assert all(span["width"] > 0 and span["height"] > 0 for span in spans[: len(BITS)])
    assert spans[3]["y"] > spans[0]["y"], "a line end begins a line"
    assert found["page"]["background"] == "rgb(255, 255, 255)"
    assert [item["background"] for item in found["legend"][: len(BITS)]] == list(colours.values())
    for item in found["legend"]:
        assert item["shown"]
        assert item["width"] > 20
        assert item["height"] > 10
    assert all(str(border) in "".join(item["text"] for item in found["legend"]) for border in LEVELS)


def test_a_browser_runs_no_script_in_a_page_even_if_one_got_in(browser):
    markup = "".join(page([("1", surprises("text"))], "a page"))
    script = "<script>document.title = 'owned'</script></body>"
    assert "<title>a page</title>" in browser(markup.replace("</body>", script))
