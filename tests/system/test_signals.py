"""What a signal does before, during and after training."""

import os
import signal

import pytest

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
