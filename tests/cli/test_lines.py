import csv

import pytest

from charlm.cli.lines import csv_line
from charlm.cli.output import say


@pytest.mark.parametrize("cell", ["=1+2", "+cmd", "-2+3", "@SUM(1)", "\t=1", "\r=1", '=HYPERLINK("x")', "-", "=" * 3])
def test_a_text_is_never_a_formula_of_a_spreadsheet(cell):
    (row,) = csv.reader([csv_line([1, cell, "b"])])
    assert row == ["1", f"'{cell}", "b"]
    assert next(csv.reader([csv_line([cell], raw=True)])) == [cell]


@pytest.mark.parametrize("value", [-1.5, -2, 1e-30])
def test_numbers_stay_numbers(value):
    assert csv_line([value]) == f"{value!r}\n"


@pytest.mark.parametrize("cell", ["a=b", "", "'=1", " =1", "-5", "+1.25e-3", "naïve"])
def test_other_texts_stay_as_they_are(cell):
    assert next(csv.reader([csv_line([cell])])) == [cell]


def test_a_notice_never_acts_on_the_terminal(capsys):
    say("a\x1b[2J\x07\x9b1m\u202eb\tc\r\nd")
    assert capsys.readouterr().err == "a\\x1b[2J\\x07\\x9b1m\\u202eb\tc\\r\nd\n"
    say("\x1b[1mbits\x1b[0m", coloured=True)
    assert capsys.readouterr().err == "\x1b[1mbits\x1b[0m\n"
