from types import SimpleNamespace

import pytest

from charlm.cli import output, train_view
from charlm.training.events import Evaluated, Stepped


def test_the_speed_of_preparation_does_not_count_the_time_before_it(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(train_view.time, "monotonic", lambda: clock[0])
    progress = train_view.PreparationProgress(quiet=False)
    clock[0] = 60.0  # torch was loaded
    progress(3_000_000)
    assert capsys.readouterr().err == ""
    clock[0] = 63.0
    progress(15_000_000)
    assert capsys.readouterr().err == "preparing: 6.0 million characters, 2.0 million per second\n"
    clock[0] = 64.0
    progress(3_000_000)
    assert capsys.readouterr().err == ""


def test_a_slow_preparation_shows_how_far_it_is(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(train_view.time, "monotonic", lambda: clock[0])
    progress = train_view.PreparationProgress(quiet=False)
    for clock[0] in (0.0, 3.0, 6.0):
        progress(30_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "preparing: 20,000 characters, 6,667 per second",
        "preparing: 30,000 characters, 5,000 per second",
    ]


def test_the_loss_of_a_step_is_in_nats_like_that_of_an_evaluation(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(train_view.time, "monotonic", lambda: clock[0])
    trainer = SimpleNamespace(
        progress=SimpleNamespace(step=9),
        config=SimpleNamespace(generations=1),
        model=SimpleNamespace(config=SimpleNamespace(vocabulary_size=300)),
        budget_progress=lambda: None,
    )
    view = train_view._View(trainer, None, quiet=False)
    clock[0] = 20.0
    view.show(Stepped(10, 1.25, 0.5, 0.01, False, 40_000, None))
    assert capsys.readouterr().err == "step 10 | loss 1.250 nats/char | lr 1.0e-02 | 2.0k chars/s\n"


@pytest.mark.parametrize(("width", "shown"), [(100, 5), (80, 4), (66, 3), (40, 2)])
def test_there_is_room_for_a_bar(monkeypatch, width, shown):
    clock = [0.0]
    monkeypatch.setattr(train_view.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(train_view, "terminal_width", lambda: width)
    trainer = SimpleNamespace(
        progress=SimpleNamespace(step=9),
        config=SimpleNamespace(generations=1),
        model=SimpleNamespace(config=SimpleNamespace(vocabulary_size=300)),
        budget_progress=lambda: 0.0,
    )
    bar = SimpleNamespace(
        n=0.0, update=lambda share: None, set_description_str=lambda text, refresh: lines.append(text)
    )
    lines = []
    view = train_view._View(trainer, bar, quiet=True)
    clock[0] = 60.0
    view.show(Stepped(12_345, 1.25, 0.5, 0.01, False, 40_000, 0.01))
    parts = lines[0].split(" | ")
    assert len(parts) == shown
    assert len(lines[0]) + len("100%") < width - 10 or shown == 2
    assert parts[0] == " step 12345"
    assert parts[-1] == "1:39:00 left"


def test_samples_are_broken_between_words_on_a_terminal(monkeypatch):
    text = "word " * 30 + "\n\n" + "x" * 90 + " end"
    assert output.indented(text).split("\n") == ["    " + line for line in text.split("\n")]
    monkeypatch.setattr(output.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(output, "terminal_width", lambda: 80)
    lines = output.indented(text).split("\n")
    assert all(len(line) < 80 for line in lines if "x" not in line)
    assert [line.split() for line in lines] == [["word"] * 15, ["word"] * 15, [], ["x" * 90], ["end"]]


def test_samples_do_not_act_on_the_terminal(capsys):
    trainer = SimpleNamespace(
        progress=SimpleNamespace(step=0),
        config=SimpleNamespace(generations=1),
        model=SimpleNamespace(config=SimpleNamespace(vocabulary_size=300)),
        budget_progress=lambda: None,
    )
    view = train_view._View(trainer, None, quiet=False)
    sample = "\x1b[2J\x1b]0;title\x07first\nsecond\r\x9b31m"
    view.show(Evaluated(7, 0, 1.0, 2.0, 2.0, True, 0.5, 0.0, 0.01, sample))
    shown = capsys.readouterr().err
    assert "\\x1b[2J" in shown
    assert "\n    second\\r" in shown
    assert all(character.isprintable() or character == "\n" for character in shown)
