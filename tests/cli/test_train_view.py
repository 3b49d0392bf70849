from types import SimpleNamespace

from charlm.cli import train_view
from charlm.training.events import Stepped


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
        model=SimpleNamespace(config=SimpleNamespace(vocabulary_size=300)),
        budget_progress=lambda: None,
    )
    view = train_view._View(trainer, None, quiet=False)
    clock[0] = 20.0
    view.show(Stepped(10, 1.25, 0.5, 0.01, False, 40_000, None))
    assert capsys.readouterr().err == "step 10 | loss 1.250 nats/char | lr 1.0e-02 | 2.0k chars/s\n"
