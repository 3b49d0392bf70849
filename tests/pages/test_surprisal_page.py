"""Pages of coloured text: nothing is lost, nothing in it acts, and colours follow the bits, in a browser too."""

import base64
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
from html import escape
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from charlm.evaluation.scoring import Surprisal
from charlm.pages.characters import visible
from charlm.pages.scales import SURPRISAL, bits
from charlm.pages.surprisal import surprisal_fragment, surprisal_widget
from charlm.pages.surprisal import surprisal_page as page

LEVELS = SURPRISAL.limits

# One that spells markup, one that drives a terminal, and what HTML or UTF-8 cannot hold.
HOSTILE = ["<script>document.title='owned'</script>", "\x1b]0;owned\x07\x1b[2J\x9b31m", "\"'&amp;&#10;<!--]]>",
           "\0\r\n", "\ud800\udc80\udfff", "\u202e\u2066abc\u2069", "\ufffd\ufeff\uffff", "\x7f\t  \n\n"]  # fmt: skip
# Any code point, surrogates too, and often the odd ones.
CHARACTERS = st.integers(0, 0x10FFFF).map(chr) | st.sampled_from(sorted(set("".join(HOSTILE))))
TEXTS = st.text(CHARACTERS)
DOCUMENTS = st.lists(st.lists(st.tuples(CHARACTERS | st.just(""), st.floats(0, 10))))
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
        if tag == "h2" and self.inside("section"):
            self.headings.append("")
        if tag == "span":
            self.spans.append(dict(attrs))

    def handle_endtag(self, tag):
        self.tags.append("/" + tag)

    def handle_data(self, data):
        if self.inside("p"):
            self.texts[-1] += data
        if self.inside("h2") and self.inside("section"):
            self.headings[-1] += data

    def inside(self, tag):
        return next((each for each in reversed(self.tags) if each in (tag, f"/{tag}")), None) == tag


def read(documents, title="title"):
    return Reader("".join(page(documents, title)))


def level_of(nats):
    return SURPRISAL.level_of(bits(nats))


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
    code = "import sys, charlm.pages.surprisal; sys.exit(any(name in sys.modules for name in ('numpy', 'torch')))"
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
    assert [set(span) - {"id"} for span in Reader(markup).spans] == [{"class", "title"}] * 2
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
    (script,) = re.findall(r"<script>(.*?)</script>", markup, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert f'content="{policy}"' in markup
    assert not re.search(r"src=|url\(|@import|https?:", markup)
    assert set(re.findall(r'href="(.)', markup)) == {"#"}


# ------------------------------------------------------------------------------------------------------ places


def listed(markup):
    """(bits, text before, character, text after) of the list of places, and the ids that it links to."""
    rows = re.findall(
        r'<a href="#(\w+)"><strong>([\d.]+)</strong><q [^>]*>(.*?)<mark class="\w+">(.*?)</mark>(.*?)</q>', markup
    )
    return [(float(bits), *parts) for _, bits, *parts in rows], [row[0] for row in rows]


def test_the_most_surprising_character_of_each_word_is_listed():
    document = [Surprisal(character, value * math.log(2), []) for character, value in zip(
        "the cat  sat\non", [1, 2, 8, 1, 0.5, 12, 11, 1, 1, 7, 1, 1, 1, 3, 1], strict=True)]  # fmt: skip
    markup = "".join(page([("1", document), ("2", surprises("x", 9.5))], "title"))
    rows, ids = listed(markup)
    assert rows == [
        (12.0, "the c", "a", "t  sat⏎on"), (9.5, "", "x", ""), (8.0, "th", "e", " cat  sat⏎on"),
        (7.0, "the cat  ", "s", "at⏎on"), (3.0, "the cat  sat⏎", "o", "n"),
    ]  # fmt: skip
    spans = {span["id"]: span for span in Reader(markup).spans if "id" in span}
    assert [spans[id_]["title"].split(":")[0] for id_ in ids] == ["a", "x", "e", "s", "o"]
    stops = [span["title"][0] for span in Reader(markup).spans if "stop" in span["class"].split()]
    assert stops == ["e", "a", "s", "x"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab \n"), st.floats(0, 15)), max_size=60), st.integers(0, 9))
def test_the_list_has_the_largest_values_of_all_words(cells, count):
    document = [Surprisal(character, value * math.log(2), []) for character, value in cells]
    markup = "".join(surprisal_fragment([("", document)], "k", count))
    words = re.findall(r"\S{1,16}\s*|^\s+", "".join(character for character, _ in cells))
    if any(len(word) > 16 for word in words):
        return
    ends = [0, *itertools.accumulate(map(len, words))]
    best = [max(value for _, value in cells[start:stop]) for start, stop in itertools.pairwise(ends)]
    rows, ids = listed(markup)
    assert [row[0] for row in rows] == pytest.approx(sorted(best, reverse=True)[:count], abs=0.051)
    assert len(set(ids)) == len(rows)
    assert all(markup.count(f'id="{id_}"') == 1 for id_ in ids)


def test_more_than_twenty_places_unfold():
    markup = "".join(page([("1", surprises("ab " * 30, 3))], "title"))
    assert "<details><summary>10 more</summary>" in markup
    assert "<details>" not in "".join(page([("1", surprises("ab " * 20, 3))], "title"))


def test_a_widget_brings_its_style_and_script_and_has_ids_of_its_own():
    one, other = (surprisal_widget([("1", surprises("ab cd", 7))]) for _ in range(2))
    assert one._repr_html_() == one
    for widget in (one, other):
        assert widget.count("<style>") == widget.count("<script>") == 1
    ids = [set(re.findall(r'id="([^"]+)"', widget)) for widget in (one, other)]
    assert len(ids[0]) == 3
    assert not ids[0] & ids[1]


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
const report = window.report || {title: document.title, scripts: document.scripts.length, spans: all("p span"),
                legend: all("ul li[class]"),
                page: seen(document.documentElement), dark: matchMedia("(prefers-color-scheme: dark)").matches};
const output = Object.assign(document.createElement("output"), {id: "report", textContent: JSON.stringify(report)});
(parent || window).document.body.append(output);
</script>"""


@pytest.fixture(scope="module")
def program():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)}")
    if subprocess.run([found, "--version"], capture_output=True, check=False).returncode:
        pytest.skip(f"{found} does not start")  # Ubuntu's package without snap is such a one
    return found


@pytest.fixture
def browser(program, tmp_path):
    """A function that opens markup in a browser, and returns the document as it is after its scripts have run."""

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


def measured(browser, markup, *options, width=None):
    """What MEASURE reports of a page; with ``width``, in a frame of this width: windows are never so narrow."""
    page = re.sub("<meta http-equiv[^>]*>\n", "", markup).replace("</body>", MEASURE + "</body>")
    if width:
        frame = f"border: 0; width: {width}px; height: 844px"
        page = f'<body><iframe style="{frame}" srcdoc="{escape(page)}"></iframe></body>'
    dom = browser(page, *options)

    class Output(HTMLParser):
        text = None

        def handle_starttag(self, tag, attrs):
            if tag == "output" and ("id", "report") in attrs:
                self.text = ""

        def handle_data(self, data):
            if self.text is not None:
                self.text += data

    output = Output()
    output.feed(dom[: dom.rindex("</output>")])
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
    assert (found["title"], found["scripts"]) == ("a page", 2)

    spans = found["spans"]
    assert [span["text"] for span in spans] == [visible(s.character) for s in ramp + injected]
    colours = {s: span["background"] for s, span in zip(range(len(BITS)), spans, strict=False)}
    for surprise, span in zip(ramp + injected, spans, strict=True):
        assert span["background"] == colours[level_of(surprise.nats)]
        assert contrast(span["colour"], span["background"]) >= 4.5
        assert f": {surprise.nats / math.log(2):.2f} bits" in span["title"]
        css = getattr(SURPRISAL.levels[level_of(surprise.nats)], scheme)[0].removeprefix("#")
        assert span["background"] == "rgb({}, {}, {})".format(*bytes.fromhex(css))
    for stronger in range(1, len(BITS)):
        is_darker = luminance(colours[stronger]) < luminance(colours[stronger - 1])
        assert is_darker == (scheme == "light")
        assert contrast(colours[stronger], colours[stronger - 1]) > 1.3

    assert [span["sign"] for span in spans[: len(BITS)]] == ["none", "none", '"⏎"', "none", "none", '"⏎"']
    assert all(span["width"] > 0 and span["height"] > 0 for span in spans[: len(BITS)])
    assert spans[3]["y"] > spans[0]["y"], "a line end begins a line"
    assert found["page"]["background"] == colours[0]
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


DRIVE = """<script>
const chosen = () => {
  const spans = [...document.querySelectorAll(".chosen")].map(span => span.dataset.number);
  return [...spans, document.querySelector(".detail output").textContent.split(":")[0]];
};
const press = key => document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
[...document.querySelectorAll("p span")].forEach((span, number) => { span.dataset.number = number; });
const steps = [];
const after = action => { action(); steps.push(chosen()); };
for (const key of "nnnnpkj") after(() => press(key));
after(() => document.querySelector(".places li:nth-child(1) a").click());
after(() => document.querySelectorAll("p span")[1].click());
after(() => document.querySelector(".detail button[value='1']").click());
after(() => document.querySelector(".detail button[value='-1']").click());
const detail = document.querySelector(".detail").getBoundingClientRect();
window.report = {steps, width: document.documentElement.scrollWidth, window: innerWidth,
                 detail: [detail.height > 40, detail.bottom <= innerHeight + 1],
                 link: getComputedStyle(document.querySelector(".to-places")).display};
</script>"""


@pytest.mark.parametrize("width", [390, 1280])
def test_keys_and_clicks_move_to_surprising_places(browser, width):
    text = "the cat sat on a mat"
    values = {2: 8, 5: 12, 9: 7, 17: 3}
    document = [Surprisal(c, values.get(place, 0.5) * math.log(2), []) for place, c in enumerate(text)]
    lines = [Surprisal(c, 0.0, []) for c in "a long line of words\n" * 60]
    # The list has 100 places, so that every word is listed.
    markup = "".join(page([("1", document), ("2", lines)], "a page")).replace("</body>", DRIVE + "</body>")
    found = measured(browser, markup, width=width)
    words = [("2", "e"), ("5", "a"), ("9", "a"), ("12", "o")]
    *steps, last = map(tuple, found["steps"])
    assert steps == [*words, words[2], words[1], words[2], words[1], ("1", "h"), words[0]]
    assert int(last[0]) > len(text), "before the first place comes the last one"
    assert found["width"] <= found["window"] == width
    assert found["detail"] == [True, True]
    assert found["link"] == ("none" if width > 1000 else "inline")


def test_the_script_of_a_page_runs_under_its_policy(browser):
    dom = browser("".join(page([("1", surprises("text"))], "a page")))
    assert re.search(r'class="charlm-text surprisal scripted"', dom)
