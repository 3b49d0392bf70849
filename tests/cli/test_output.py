"""Progress on stderr, where that is no terminal."""

from charlm.cli import output


def test_a_line_of_progress_every_half_minute(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: clock[0])
    with output.counting("evaluating", 1_000) as progress:
        for clock[0] in (1.0, 29.0, 30.0, 59.0, 61.0):
            progress(100)
    assert capsys.readouterr().err == (
        "evaluating: 30% of 1,000 characters, 1:10 left\nevaluating: 50% of 1,000 characters, 1:01 left\n"
    )
    clock[0] = 0.0
    with output.counting("scoring", None) as progress:
        clock[0] = 31.0
        progress(1_234)
    assert capsys.readouterr().err == "scoring: 1,234 characters\n"


def test_no_progress_where_it_is_not_wanted(monkeypatch, capsys):
    monkeypatch.setattr(output.time, "monotonic", iter(range(0, 10_000, 100)).__next__)
    with output.counting("evaluating", 1_000, quiet=True) as progress:
        progress(500)
    assert capsys.readouterr().err == ""
