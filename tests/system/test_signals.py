"""What a signal does before, during and after training."""

import os
import signal

import pytest

import charlm.system.signals as signals_module
from charlm.errors import InterruptedBySignal
from charlm.system.signals import StopSignals


def raise_sigint():
    os.kill(os.getpid(), signal.SIGINT)
    signal.getsignal(signal.SIGINT)  # the handler runs between two instructions


def test_before_training_nothing_was_saved():
    with pytest.raises(InterruptedBySignal, match="before training began; nothing was saved") as error, StopSignals():
        raise_sigint()
    assert error.value.exit_code == 130


def test_during_training_it_asks_to_stop():
    stopped = []
    with StopSignals() as signals, signals.deferred(lambda: stopped.append(True)):
        raise_sigint()
    assert stopped == [True]


def test_after_training_the_run_is_saved():
    with StopSignals() as signals:
        with signals.deferred(lambda: None):
            pass
        with pytest.raises(InterruptedBySignal, match="the run is saved"):
            raise_sigint()


def test_a_second_signal_ends_the_process_only_if_it_is_ours(monkeypatch):
    ended = []
    monkeypatch.setattr(signals_module, "_DUPLICATE_SECONDS", -1.0)
    monkeypatch.setattr(os, "_exit", ended.append)
    with StopSignals() as signals, signals.deferred(lambda: None):
        raise_sigint()
        raise_sigint()
    assert ended == [130]
    with StopSignals(exits=False) as signals, signals.deferred(lambda: None):
        raise_sigint()
        with pytest.raises(KeyboardInterrupt):
            raise_sigint()
    assert ended == [130]
