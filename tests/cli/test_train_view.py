from charlm.cli import train_view


def test_what_happens_before_a_text_is_read_is_no_preparation(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(train_view.time, "monotonic", lambda: clock[0])
    progress = train_view.Preparing(quiet=False)
    clock[0] = 60.0  # torch was loaded
    progress(3_000_000)
    assert capsys.readouterr().err == ""
    clock[0] = 63.0
    progress(15_000_000)
    assert capsys.readouterr().err == "preparing: 6 million characters, 2 million/s\n"
    clock[0] = 64.0
    progress(3_000_000)
    assert capsys.readouterr().err == ""
