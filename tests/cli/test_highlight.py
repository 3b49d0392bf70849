"""Coloured text in a terminal: nothing is lost, nothing in it acts, and colours follow the values."""

import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.cli.highlight import legend, terminal
from charlm.pages.characters import visible
from charlm.pages.scales import ACTIVATION, SURPRISAL

HOSTILE = "<script>\x1b]0;owned\x07\x1b[2J\x9b31m\0\r\n\ud800\udc80\udfff\u202e\u2066abc\u2069\ufeff\uffff\x7f\t  "
# Any code point, surrogates too, and often the odd ones.
CHARACTERS = st.integers(0, 0x10FFFF).map(chr) | st.sampled_from(sorted(set(HOSTILE)))
DOCUMENTS = st.lists(st.lists(st.tuples(CHARACTERS | st.just(""), st.floats(-1, 12))))
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
BITS = [0.5, 1.5, 3, 5, 7, 12]
"""In the middle of each level."""


def test_no_heavy_module_is_imported():
    code = "import sys, charlm.cli.highlight; sys.exit(any(name in sys.modules for name in ('numpy', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def plain(documents):
    """What ``terminal`` should show, without colours and signs."""
    parts = [visible("".join(character for character, *_ in document)) for document in documents]
    return "".join(part if part.endswith("\n") else part + "\n" for part in parts[:-1]) + "".join(parts[-1:])


@settings(deadline=None)
@given(DOCUMENTS)
def test_without_colour_a_terminal_gets_only_the_visible_text(documents):
    assert "".join(terminal(documents, SURPRISAL, colour=False)) == plain(documents)


@settings(deadline=None)
@given(DOCUMENTS)
def test_with_colour_a_terminal_gets_the_same_text_in_colours(documents):
    written = "".join(terminal(documents, SURPRISAL, colour=True))
    with_signs = [[(character or "⏎", nats) for character, nats in document] for document in documents]
    assert ESCAPE.sub("", written) == plain(with_signs)


@settings(deadline=None)
@given(DOCUMENTS)
def test_no_control_character_reaches_a_terminal_except_for_colours(documents):
    for colour in (False, True):
        written = ESCAPE.sub("" if colour else "\x1b", "".join(terminal(documents, SURPRISAL, colour)))
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", written)


@settings(deadline=None)
@given(DOCUMENTS)
def test_colours_end_before_a_line_does_and_with_every_piece(documents):
    for piece in terminal(documents, SURPRISAL, colour=True):
        painted = False
        for part in re.split(f"({ESCAPE.pattern}|\n)", piece):
            if ESCAPE.fullmatch(part):
                assert painted == (part == "\x1b[0m")
                painted = not painted
            elif part:
                assert painted == (part != "\n")
        assert not painted


def test_documents_are_separated_by_one_line_end():
    documents = [[(character, 0.5) for character in text] for text in ("a\n", "", "b", "c\n", "d")]
    assert "".join(terminal(documents, SURPRISAL, colour=False)) == "a\n\nb\nc\nd"
    assert ESCAPE.sub("", "".join(terminal(documents, SURPRISAL, colour=True))) == "a\n\nb\nc\nd"


def background_of_each(written):
    background, found = None, []
    for part in re.split(f"({ESCAPE.pattern})", written):
        if ESCAPE.fullmatch(part):
            background = part if part != "\x1b[0m" else None
        else:
            found += [(character, background) for character in part]
    return found


@pytest.mark.parametrize(
    ("scale", "values"), [(SURPRISAL, BITS), (ACTIVATION, [-1, -0.6, -0.3, 0, 0.3, 0.6, 1])], ids=["bits", "cell"]
)
def test_a_character_has_the_colour_of_its_level_in_the_legend(scale, values):
    colours = [background for _, background in background_of_each(legend(scale, colour=True)) if background]
    by_level = list(dict.fromkeys(colours))
    assert len(by_level) == len(scale.limits) + 1
    text = [("x", value) for value in [*values, *reversed(values)]]
    found = background_of_each("".join(terminal([text], scale, colour=True)))
    assert found == [("x", colour) for colour in by_level + by_level[::-1]]


def test_a_run_of_one_colour_is_split_into_pieces_of_bounded_length():
    pieces = list(terminal([[("x", 0.5)] * 2500], SURPRISAL, colour=True))
    assert [ESCAPE.sub("", piece) for piece in pieces] == ["x" * 1000, "x" * 1000, "x" * 500]


def test_the_legend_names_every_limit_with_and_without_colour():
    for line in (legend(SURPRISAL, colour=True), legend(SURPRISAL, colour=False)):
        numbers = [int(number) for number in re.findall(r"\d+", ESCAPE.sub("", line))]
        assert numbers == [border for border in SURPRISAL.limits for _ in ("up to", "from")]
    assert "\x1b" not in legend(SURPRISAL, colour=False)
