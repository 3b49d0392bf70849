from types import SimpleNamespace

from charlm.cli import train_view
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
    assert capsys.readouterr().err == "preparing: 6 million characters, 2 million/s\n"
    clock[0] = 64.0
    progress(3_000_000)
    assert capsys.readouterr().err == ""


def test_the_loss_of_a_step_is_in_nats_like_that_of_an_evaluation(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(train_view.time, "monotonic", lambda: clock[0])
    trainer = SimpleNamespace(
        progress=SimpleNamespace(step=9),
        model=SimpleNamespace(config=SimpleNamespace(vocabulary_size=300)),
        budget_progress=lambda: None,
    )
    view = train_view._View(trainer, None, quiet=False)
    clock[0] = 20.0
    view.show(Stepped(10, 1.25, 0.5, 0.01, False, 40_000, None))
    assert capsys.readouterr().err == "step 10 | loss 1.250 nats/char | lr 1.0e-02 | 2.0k chars/s\n"


def test_samples_do_not_act_on_the_terminal(capsys):
    trainer = SimpleNamespace(
        progress=SimpleNamespace(step=0),
        model=SimpleNamespace(config=SimpleNamespace(vocabulary_size=300)),
        budget_progress=lambda: None,
    )
    view = train_view._View(trainer, None, quiet=False)
    sample = "\x1b[2J\x1b]0;title\x07first\nsecond\r\x9b31m"
    view.show(Evaluated(7, 0, 1.0, 2.0, 2.0, True, 0.0, 0.01, sample))
    shown = capsys.readouterr().err
    assert "\\x1b[2J" in shown
    assert "\n    second\\r" in shown
    assert all(character.isprintable() or character == "\n" for character in shown)
