from charlm.cli import train_view


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
