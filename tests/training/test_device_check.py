"""A device that computes wrong gradients is not used."""

import logging

import pytest
import torch

from charlm.errors import UsageError
from charlm.training import device_check
from charlm.training.device_check import gradient_error, trusted_device

CPU = torch.device("cpu")


@pytest.fixture
def untrusted_cpu(monkeypatch):
    """Check the CPU, which is right, in place of a device that may be wrong."""
    monkeypatch.setattr(device_check, "_UNTRUSTED", ("cpu",))


@pytest.fixture(params=[1.01, float("nan")])
def wrong_gradients(request, monkeypatch):
    """The first gradients that are computed, those of the device, are wrong in one place."""
    compute, calls = device_check._gradients, []

    def wrong(device):
        gradients = compute(device)
        if not calls:
            calls.append(device)
            gradients[-2] *= request.param
        return gradients

    monkeypatch.setattr(device_check, "_gradients", wrong)


def test_the_right_gradients_have_no_error():
    assert gradient_error(CPU) == 0


def test_a_device_that_computes_right_is_used(untrusted_cpu):
    assert trusted_device(CPU, "auto") == CPU


def test_a_wrong_device_that_was_asked_for_is_refused(untrusted_cpu, wrong_gradients):
    with pytest.raises(UsageError, match=r"--device mps: this torch .* computes wrong gradients .*; use --device cpu"):
        trusted_device(CPU, "mps")


def test_a_wrong_device_is_not_chosen(untrusted_cpu, wrong_gradients, caplog):
    with caplog.at_level(logging.WARNING):
        assert trusted_device(CPU, "auto") == CPU
    assert "wrong gradients" in caplog.text


def test_the_gradients_are_those_of_every_parameter():
    assert len(device_check._gradients(CPU)) == 8
